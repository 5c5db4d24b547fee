"""A unit of work: some scenes of one policy, run by the same function on this machine and in a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpo_ros.learning.rollout import Rollout, collect, renderer_of
from fpo_ros.policy.checkpoint import DEFAULT_SAMPLING, Drawn, FlowPolicy
from fpo_ros.policy.flow import Sampling
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.randomisation import Randomisation

#: Rows that the network computes at a time, a multiple of the floats in a vector register: then a row's numbers do not
#: depend on its place in the block or on the other rows.
BLOCK = 32
#: Field of a rollout whose episodes lie along the third axis; all others have them along the first.
_PREFIX = 'prefix_kv'


@dataclass(frozen=True)
class EpisodeOptions:
    """What all episodes of a collection share.

    :param noise_seed: of the flows' start noise, 0 to 2**64 - 1.
    :param noise_scale: 1 samples from N(0, I), 0 starts every flow at zero.
    :param reward: one of :data:`fpo_ros.learning.rollout.REWARDS`.
    :param continue_to_strict: go on after the first success until the stricter rule is decided.
    :param max_steps: cap of an episode [control steps]; the task's own if None.
    :param prefixes: return the prefix of every decision; those of pictures are large, and only learning needs them.
    :param randomisation: what every episode draws; nothing if None.
    :param sampling: how chunks are drawn.
    """

    noise_seed: int = 0
    noise_scale: float = 1.0
    reward: str = 'gym'
    continue_to_strict: bool = False
    max_steps: int | None = None
    prefixes: bool = True
    randomisation: Randomisation | None = None
    sampling: Sampling = DEFAULT_SAMPLING

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpisodeOptions:
        """Read what ``dataclasses.asdict`` made of options."""
        drawn = values['randomisation']
        return cls(**{**values, 'randomisation': None if drawn is None else Randomisation.from_dict(drawn),
                      'sampling': Sampling(**values['sampling'])})


class BlockPolicy(FlowPolicy):
    """A policy whose network always computes :data:`BLOCK` rows at a time."""

    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__(policy.model, policy.stats)

    def prefix(self, images: np.ndarray | None, batch: int = BLOCK) -> Tensor:
        """Return the prefix cache of (N, cameras, H, W, 3) uint8 images, or of the prompt alone."""
        if not self.contract.cameras:
            return super().prefix(None)
        parts = []
        for start in range(0, len(images), BLOCK):
            block = images[start:start + BLOCK]
            empty = np.zeros((BLOCK - len(block), *block.shape[1:]), block.dtype)
            parts.append(super().prefix(np.concatenate([block, empty]), BLOCK)[:, :, :len(block)])
        return torch.cat(parts, 2)

    @torch.no_grad()
    def draw(self, states: Tensor, prefix_kv: Tensor, noise: Tensor, injected: Tensor | None = None,
             sampling: Sampling = DEFAULT_SAMPLING) -> Drawn:
        """Return chunks and their paths; see :meth:`FlowPolicy.draw`."""
        parts = []
        for start in range(0, len(states), BLOCK):
            rows = slice(start, start + BLOCK)
            prefix = prefix_kv if prefix_kv.shape[2] == 1 else _filled(prefix_kv[:, :, rows], 2)
            drawn = super().draw(_filled(states[rows]), prefix, _filled(noise[rows]),
                                 None if injected is None else _filled(injected[rows]), sampling)
            count = len(states[rows])
            parts.append((drawn.chunks[:count], drawn.path[:count]))
        return Drawn(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _filled(block: Tensor, axis: int = 0) -> Tensor:
    """Return a contiguous block with rows of zeros up to :data:`BLOCK`."""
    shape = list(block.shape)
    shape[axis] = BLOCK - shape[axis]
    return torch.cat([block, block.new_zeros(shape)], axis).contiguous()


def start_noise(seed: int, scenes: np.ndarray, decision: int, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Return (N, *shape) standard normal numbers, a function of seed, scene, decision and stream alone.

    Philox 4x64 (Salmon et al. 2011) with the key (seed, scene); the decision is the counter's highest word, the
    stream the one below.
    """
    return torch.as_tensor(np.stack([_philox(seed, scene, decision, stream).standard_normal(shape, np.float32)
                                     for scene in scenes]))


def noise_factors(seed: int, scenes: np.ndarray, decision: int, bounds: tuple[float, float]) -> Tensor:
    """Return (N, 1, 1) factors between two bounds, a function of seed, scene and decision alone."""
    low, high = bounds
    return torch.tensor([[[_philox(seed, scene, decision, 2).uniform(low, high)]] for scene in scenes])


def _philox(seed: int, scene: int, decision: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, int(scene) % 2**64], counter=[0, 0, stream, decision]))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: what it rounds depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class UnitRunner:
    """Runs units of work of one policy: its worlds and, for a contract with cameras, its renderer.

    :param policy: whose episodes; its weights may change between units.
    :param episodes: the most scenes of a unit.
    :param threads: of the physics; by default one per core that this process may use. They change no number.
    """

    def __init__(self, policy: FlowPolicy, episodes: int, threads: int | None = None) -> None:
        self.episodes = episodes
        self._policy, self._threads = BlockPolicy(policy), threads
        self._worlds: BatchedWorlds | None = None
        with ExitStack() as opened:
            self._renderer = opened.enter_context(renderer_of(policy.contract))
            self._opened = opened.pop_all()

    def run(self, scenes: np.ndarray, options: EpisodeOptions) -> Rollout:
        """Run one episode per scene.

        :raises NotFiniteError: for actions that are not finite.
        :raises RandomisationError: for a randomisation that does not fit the task.
        """
        contract, worlds = self._policy.contract, self._worlds_of(options.randomisation)

        sampling, chunk = options.sampling, (contract.horizon, contract.action_dim)
        sampling.count(contract.flow_steps)

        def noise(decision: int) -> Tensor:
            drawn = start_noise(options.noise_seed, scenes, decision, chunk)
            if sampling.noise_range == (1.0, 1.0):
                return drawn
            return drawn * noise_factors(options.noise_seed, scenes, decision, sampling.noise_range)

        def injected(decision: int) -> Tensor:
            return start_noise(options.noise_seed, scenes, decision, (len(sampling.noise_std), *chunk), stream=1)

        with one_thread():
            rollout = collect(self._policy, worlds, scenes, noise, sampling=sampling,
                              injected_noise=injected if sampling.noise_std else None, renderer=self._renderer,
                              noise_scale=options.noise_scale, reward=options.reward,
                              continue_to_strict=options.continue_to_strict, max_steps=options.max_steps)
        return rollout if options.prefixes else replace(rollout, prefix_kv=rollout.prefix_kv[:, :, :0].clone())

    def _worlds_of(self, randomisation: Randomisation | None) -> BatchedWorlds:
        """Return worlds that draw so: those of the unit before, unless that drew otherwise."""
        if self._worlds is None or self._worlds.randomisation != randomisation:
            if self._worlds is not None:
                self._worlds.close()
            self._worlds = BatchedWorlds(self._policy.contract.task, self.episodes, self._threads,
                                         randomisation=randomisation)
        return self._worlds

    def close(self) -> None:
        """Stop the physics' threads and release the GL context."""
        if self._worlds is not None:
            self._worlds.close()
        self._opened.close()

    def __enter__(self) -> UnitRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Return the episodes of several rollouts of one policy, in their order."""
    values = {field.name: [getattr(rollout, field.name) for rollout in rollouts] for field in fields(Rollout)}
    prefixes = values.pop(_PREFIX)
    # Without cameras there is one prefix for all.
    shared = len(rollouts) == 1 or (prefixes[0].shape[2] == 1 and rollouts[0].valid.size > 1)
    return Rollout(**{_PREFIX: prefixes[0] if shared else torch.cat(prefixes, 2)}, **{
        name: (torch.cat if isinstance(parts[0], Tensor) else np.concatenate)(parts)
        for name, parts in values.items()})
