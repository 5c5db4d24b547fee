"""Scenes, staged reward and success of the tasks (gym-aloha utils.py, tasks/sim.py)."""

from __future__ import annotations

from enum import Enum

import numpy as np

from fpo_ros.sim.model import UnknownTaskError

#: Time-out in control steps: gym-aloha registers 300.
MAX_STEPS = {'transfer_cube': 300}
#: Success is the last stage.
SUCCESS_STAGE = 4
#: Corners of the region where the cube starts [m], "world".
_BOX_LOW, _BOX_HIGH = np.array([0.0, 0.4, 0.05]), np.array([0.2, 0.6, 0.05])
#: Every seed of a user has a band of so many scenes, in which each kind has an interval of its own.
BAND = 2_000_000
#: Seeds of a user: so many bands keep scene numbers below 2**31.
SEEDS = 1_000
#: Scenes from here to the end of a band are held out: no policy is trained on them.
HELD_OUT_SEED = 1_000_000
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


def is_held_out(scene: int) -> bool:
    """Return whether a scene is kept from training, whatever seed it belongs to."""
    return scene % 2**32 % BAND >= HELD_OUT_SEED


def sample_object_pose(task: str, seed: int) -> np.ndarray:
    """Return the (7,) start pose of the cube: position [m] in "world", unit quaternion (w, x, y, z).

    The same draw as gym-aloha's ``sample_box_pose(seed)``.

    :raises UnknownTaskError: if there is no such task.
    """
    if task not in MAX_STEPS:
        raise UnknownTaskError(task)
    position = np.random.RandomState(seed % 2**32).uniform(_BOX_LOW, _BOX_HIGH)
    return np.concatenate([position, [1.0, 0.0, 0.0, 0.0]])


def stages_of(sensors: np.ndarray) -> np.ndarray:
    """Return (...,) stages 0..4 of (..., 4) contact sensors, columns as ``model.SENSORS``.

    The rule looks at what gym-aloha's looks at: one finger of each gripper, and the table.

    1 right finger touches the cube, 2 it is lifted, 3 the left finger touches it, 4 the left finger
    touches it and the table does not.
    """
    left, right, table = (sensors[..., column] > 0 for column in range(3))
    stage = np.zeros(sensors.shape[:-1], np.int8)
    stage[right] = 1
    stage[right & ~table] = 2
    stage[left] = 3
    stage[left & ~table] = 4
    return stage


def held_by_left_alone(sensors: np.ndarray) -> np.ndarray:
    """Return (...,) bool: the left finger touches the cube, the table and every part of the right arm do not.

    gym-aloha's own rule also holds while the right gripper still grips (gym-aloha issue #4).

    :param sensors: (..., 4) contact sensors, columns as ``model.SENSORS``.
    """
    return (sensors[..., 0] > 0) & ~(sensors[..., 2] > 0) & ~(sensors[..., 3] > 0)
