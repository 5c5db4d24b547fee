"""How far success must fall for the best policy to be restored."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.finetune import _has_fallen


@pytest.mark.parametrize(('smoothed', 'restored', 'drop', 'due'), [
    # The fewest iterations, and a fall of more than asked for.
    ((0.9, 0.9, 0.9, 0.5, 0.5, 0.5), (), 0.3, True), ((0.9, 0.9, 0.9, 0.5, 0.5), (), 0.3, False),
    ((0.9, 0.9, 0.9, 0.5, 0.5, 0.61), (), 0.3, False), ((0.9, 0.9, 0.9, 0.5, 0.5, 0.59), (), 0.3, True),
    ((0.9, 0.9, 0.9, 0.5, 0.5, 0.0), (), None, False),
    # The first two are not judged: their windows are not full.
    ((0.9, 0.9, 0.5, 0.5, 0.5, 0.5), (), 0.3, False),
    # As many iterations again behind a restoration; the best one before it counts.
    ((0.9,) * 3 + (0.5,) * 8, (6,), 0.3, False), ((0.9,) * 3 + (0.5,) * 9, (6,), 0.3, True),
    ((0.9,) * 3 + (0.5,) * 14, (6, 12), 0.3, False), ((0.9,) * 3 + (0.5,) * 15, (6, 12), 0.3, True)])
def test_when_a_restoration_is_due(smoothed, restored, drop, due):
    history = [{'smoothed_success': value, 'learning_rate': 3e-3}
               | ({'restored': True} if index + 1 in restored else {}) for index, value in enumerate(smoothed)]
    assert _has_fallen(history, tiny_task.config(restore_drop=drop, episodes=1000)) == due


def rates_then(best: float, newest: float, rate: float = 2e-4) -> list[dict]:
    return [{'smoothed_success': value, 'learning_rate': rate} for value in (best,) * 3 + (newest,) * 3]


@pytest.mark.parametrize(('best', 'newest', 'due'), [
    # Four deviations of the difference of two rates of 288 episodes about a half are 16.7 points, about 0.95 7.2.
    (0.58, 0.42, False), (0.59, 0.41, True), (0.98, 0.93, False), (0.99, 0.91, True), (1.0, 0.955, False)])
def test_a_fall_that_chance_explains_restores_nothing(best, newest, due):
    assert _has_fallen(rates_then(best, newest), FPOConfig(episodes=128, replay=0.25, restore_drop=0.05)) == due


def test_chance_alone_hardly_restores_in_a_long_run():
    # 200 iterations of 96 new episodes that succeed in 80 %, whatever is learned: runs in which the newest ever falls.
    config, rng, fallen = FPOConfig(episodes=128, replay=0.25, restore_drop=0.05), np.random.default_rng(0), 0
    for _ in range(60):
        rates = rng.binomial(96, 0.8, 200) / 96
        smoothed = np.convolve(rates, np.ones(3) / 3, 'valid')
        lowest, best = [], 0.0
        for value in smoothed:  # of falls from one best, the deepest is due first
            if value > best:
                best = value
                lowest.append((best, value))
            elif value < lowest[-1][1]:
                lowest[-1] = (best, value)
        fallen += any(_has_fallen(rates_then(*pair), config) for pair in lowest)
    assert fallen < 20, fallen


def test_a_rate_that_has_settled_leaves_nothing_to_undo():
    config = FPOConfig(restore_drop=0.05)
    assert _has_fallen(rates_then(0.9, 0.2, 2.1e-6), config) and not _has_fallen(rates_then(0.9, 0.2, 1.9e-6), config)
