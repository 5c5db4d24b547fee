"""The promotion gate: a release serves only if its evaluation is large enough and not worse than today's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fpo_ros.releases.errors import PromotionRefused
from fpo_ros.releases.release import Release
from fpo_ros.releases.wilson import wilson_interval

#: How far stated interval ends may be from the recomputed ones (rounding in reports).
_TOLERANCE = 2e-3


@dataclass(frozen=True)
class PromotionGate:
    """Conditions for promotion.

    :param min_episodes: fewest evaluated episodes.
    :param max_drop: percentage points the success rate may lie below the promoted release's.
    :param min_success: lowest success rate, 0..1.
    """

    min_episodes: int = 20
    max_drop: float = 5.0
    min_success: float = 0.0

    def check(self, candidate: Release, current: Release | None) -> None:
        """Let a release pass or not.

        :param current: the release promoted now, None if there is none.
        :raises PromotionRefused: with the reason.
        """
        successes, episodes = evaluation(candidate)
        if episodes < self.min_episodes:
            raise PromotionRefused(f'{candidate.version} was evaluated on {episodes} episodes, the gate '
                                   f'wants {self.min_episodes}: evaluate it with "fpo-ros eval --episodes '
                                   f'{self.min_episodes} --json" and publish it again')
        rate = successes / episodes
        if rate < self.min_success:
            raise PromotionRefused(f'{candidate.version} succeeded in {rate:.1%} of {episodes} episodes, '
                                   f'the gate wants {self.min_success:.1%}')
        if current is None:
            return
        if current.contract.task != candidate.contract.task:
            raise PromotionRefused(f'{candidate.version} does task {candidate.contract.task}, '
                                   f'the promoted {current.version} does {current.contract.task}: '
                                   'keep one store for each task')
        old_successes, old_episodes = evaluation(current)
        drop = 100 * (old_successes / old_episodes - rate)
        if drop > self.max_drop:
            raise PromotionRefused(
                f'{candidate.version} succeeded in {rate:.1%} of {episodes} episodes, {drop:.1f} points '
                f'below the promoted {current.version}; the gate allows {self.max_drop:g}')


#: Used where no other gate is given.
DEFAULT_GATE = PromotionGate()


def evaluation(release: Release) -> tuple[int, int]:
    """Return successes and episodes of the evaluation in a release.

    :raises PromotionRefused: when it is absent, impossible, or its interval is not Wilson's.
    """
    return check_evaluation(release.metrics.get('evaluation'), release.version)


def check_evaluation(entry: Any, where: str) -> tuple[int, int]:
    """Return successes and episodes of an evaluation, as ``fpo-ros eval --json`` prints it.

    :param where: what carries it, for messages.
    :raises PromotionRefused: when it is absent, impossible, or its interval is not Wilson's.
    """
    names = ('successes', 'episodes', 'wilson_low', 'wilson_high')
    if not isinstance(entry, dict) or any(name not in entry for name in names):
        raise PromotionRefused(f'{where} carries no evaluation, which has {", ".join(names)}: publish it with what '
                               '"fpo-ros eval --json" prints')
    successes, episodes, low, high = (entry[name] for name in names)
    counts = type(successes) is int and type(episodes) is int
    if not counts or not 0 <= successes <= episodes or episodes < 1:
        raise PromotionRefused(f'{where} carries an impossible evaluation: '
                               f'{successes!r} successes in {episodes!r} episodes')
    stated, expected = (low, high), wilson_interval(successes, episodes)
    if any(type(end) not in (int, float) or not abs(end - true) <= _TOLERANCE
           for end, true in zip(stated, expected, strict=True)):
        raise PromotionRefused(f'{where} states the interval {stated} for {successes} of '
                               f"{episodes}; Wilson's is ({expected[0]:.4f}, {expected[1]:.4f})")
    return successes, episodes
