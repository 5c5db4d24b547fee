"""Which scene numbers are for what: training, demonstrations, evaluation and the running graph."""

from __future__ import annotations

from enum import Enum

import numpy as np

#: Every seed of a user has a band of so many scenes, in which each kind has an interval of its own.
BAND = 2_000_000
#: Seeds of a user: so many bands keep scene numbers below 2**31.
SEEDS = 1_000
#: Scenes from here to the end of a band are held out: no policy is trained on them.
HELD_OUT_SEED = 1_000_000
#: First scene of demonstrations that an operator drives, behind those that experts are recorded in.
TELEOP_SEED = 950_000
#: First scene of the demo's episodes in the running graph, held out like those of the evaluation.
GRAPH_SEED = 1_900_000


class Scenes(Enum):
    """What scenes are for: first scene within a band, and the first behind."""

    TRAINING = (0, 900_000)
    DEMONSTRATIONS = (900_000, HELD_OUT_SEED)
    EVALUATION = (HELD_OUT_SEED, GRAPH_SEED)
    GRAPH = (GRAPH_SEED, BAND)


class SeedError(ValueError):
    """A seed or a number of scenes out of bounds; the message says which are allowed."""


def scene_seeds(kind: Scenes, seed: int, count: int, first: int = 0) -> np.ndarray:
    """Return (count,) scene numbers; those of two kinds or of two seeds never meet.

    Training goes round its interval: its scenes may come again, in another call.

    :param seed: of the user, 0 to SEEDS - 1.
    :param first: scenes of this kind and seed to pass over.
    :raises SeedError: for a seed or a count out of bounds.
    """
    low, high = kind.value
    size = high - low
    if not 0 <= seed < SEEDS:
        raise SeedError(f'seed {seed} is out of bounds: use 0 to {SEEDS - 1}')
    last = count if kind is Scenes.TRAINING else first + count
    if first < 0 or count < 1 or last > size:
        raise SeedError(f'{count} scenes from number {first} on are out of bounds: a seed has {size:,} scenes for '
                        f'{kind.name.lower()}')
    return seed * BAND + low + (first + np.arange(count)) % size


def draw_scene(rng: np.random.Generator) -> int:
    """Return the number of a training scene for an episode that nobody chose a scene for."""
    return int(rng.integers(*Scenes.TRAINING.value))


def is_held_out(scene: int) -> bool:
    """Return whether a scene is kept from training, whatever seed it belongs to."""
    return scene % 2**32 % BAND >= HELD_OUT_SEED
