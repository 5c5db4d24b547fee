"""What policies draw in episodes on held-out scenes, as points that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fpo_ros.learning.rollout import Rollout, cap_of
from fpo_ros.learning.scale import EpisodeOptions, Local, collect_episodes
from fpo_ros.learning.scale.unit import BLOCK
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ACTION_DIM
from fpo_ros.sim.scenes import Scenes, scene_seeds


class LatentsError(ValueError):
    """An analysis that cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class DrawnChunks:
    """What one policy drew in E episodes; N decisions, by episode and within one by decision.

    :param name: of the policy.
    :param chunks: (N, execute, 14) normalised, as drawn from the flow.
    :param episode: (N,) whose decision it is.
    :param decision: (N,) its number within the episode.
    :param success: (E,) bool per episode.
    """

    name: str
    chunks: np.ndarray
    episode: np.ndarray
    decision: np.ndarray
    success: np.ndarray

    @classmethod
    def of(cls, name: str, rollout: Rollout, execute: int) -> DrawnChunks:
        """Take the valid decisions of a rollout, and of their chunks the rows that are executed, without padding."""
        episode, decision = np.nonzero(rollout.valid)
        chunks = rollout.chunks.numpy()[episode, decision, :execute, :ACTION_DIM].astype(np.float64)
        return cls(name, chunks, episode, decision, rollout.rewarded)

    @property
    def succeeded(self) -> np.ndarray:
        """(N,) bool: the decision is one of a successful episode."""
        return self.success[self.episode]

    def part(self, which: np.ndarray) -> DrawnChunks:
        """Return some of the decisions; ``which`` is a mask or increasing indices."""
        return DrawnChunks(self.name, self.chunks[which], self.episode[which], self.decision[which], self.success)


def check_comparable(policies: dict[str, FlowPolicy]) -> None:
    """Refuse policies whose chunks are not points of one space.

    :param policies: by name.
    :raises LatentsError: naming two that differ, and in what.
    """
    (first, one), *others = policies.items()
    for name, other in others:
        for what in ('task', 'execute', 'control_rate_hz'):
            ours, theirs = getattr(one.contract, what), getattr(other.contract, what)
            if ours != theirs:
                raise LatentsError(f'{what} of {first} is {ours}, that of {name} {theirs}: '
                                   'analyse policies with one contract')
        if not all(np.array_equal(getattr(one.stats, part), getattr(other.stats, part))
                   for part in ('action_mean', 'action_std')):
            raise LatentsError(f'{first} and {name} normalise actions differently, so their chunks cannot be compared: '
                               'analyse policies that were fine-tuned from one start policy')


def roll_out(name: str, policy: FlowPolicy, episodes: int, seed: int, reward: str = 'strict',
             max_steps: int | None = None, progress: Callable[[int], None] | None = None) -> DrawnChunks:
    """Run a policy on held-out scenes from random start noise, and keep what it drew.

    :param seed: which scenes, and the noise.
    :param reward: the rule of success, which ends an episode.
    :param max_steps: cap of an episode [control steps]; that of gym-aloha if None.
    :param progress: called with the number of episodes done.
    :raises SeedError: for a seed or a number of episodes out of bounds.
    :raises ValueError: for an unknown rule, or a cap below one control step.
    """
    options = EpisodeOptions(noise_seed=seed, reward=reward, max_steps=cap_of(max_steps), prefixes=False)
    # Small units, so that progress is seen; they change no number.
    collected = collect_episodes(policy, scene_seeds(Scenes.EVALUATION, seed, episodes), Local(unit=BLOCK), options,
                                 progress)
    return DrawnChunks.of(name, collected.rollout, policy.contract.execute)


def sample(drawn: DrawnChunks, count: int, generator: np.random.Generator) -> DrawnChunks:
    """Return ``count`` of the decisions, spread evenly over decision numbers and, for each of these, over episodes.

    Systematic sampling: every (N / count)-th decision in that order, from a random place on.
    """
    order = np.lexsort((drawn.episode, drawn.decision))
    places = ((np.arange(count) + generator.random()) * len(order) / count).astype(int)
    return drawn.part(np.sort(order[np.minimum(places, len(order) - 1)]))
