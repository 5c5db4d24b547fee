"""Scenes that are tried again: which, how often, with what noise, and that no rate counts them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.replay import REMEMBERED, FailedScenes
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.sim.scenes import Scenes, scene_seeds


class Recorded:
    """A pool that keeps what it was asked for."""

    def __init__(self, pool) -> None:
        self.pool, self.scenes, self.options, self.rollouts = pool, [], [], []

    def collect(self, policy, scenes, options, progress=None):
        collected = self.pool.collect(policy, scenes, options, progress)
        self.scenes.append(scenes)
        self.options.append(options)
        self.rollouts.append(collected.rollout)
        return collected


def trained(iterations: int, goal: float, **changes: object) -> tuple[Recorded, list[dict]]:
    learner = FPO(tiny_task.policy(), tiny_task.config(**{'episodes': 12, 'replay': 0.25} | changes))
    with tiny_task.short_episodes(), tiny_task.waist_reward(goal), open_pool(Local(unit=12)) as pool:
        recorded = Recorded(pool)
        return recorded, [learner.run_iteration(recorded) for _ in range(iterations)]


def test_failures_are_given_newest_first_and_forgotten_after_five_iterations():
    failed = FailedScenes()
    assert failed.newest(3).tolist() == []
    for iteration in range(REMEMBERED + 1):
        failed.keep(10 * iteration + np.arange(3), np.array([False, True, False]))
    assert failed.newest(3).tolist() == [50, 52, 40]
    assert failed.newest(100).tolist() == [50, 52, 40, 42, 30, 32, 20, 22, 10, 12], 'scenes 0 and 2 are too old'


def test_failed_scenes_take_their_share_and_the_rest_is_new():
    pool, history = trained(3, tiny_task.GOAL)
    new = scene_seeds(Scenes.TRAINING, 0, 36).reshape(3, 12)
    assert np.array_equal(pool.scenes[0], new[0]) and history[0]['replayed'] == 0
    lost = new[0][~pool.rollouts[0].rewarded]
    assert 3 <= len(lost) < 12, 'the case needs more failures than are repeated, and a success'
    assert np.array_equal(pool.scenes[1], [*new[1][:9], *lost[:3]]) and history[1]['replayed'] == 3
    newest = new[1][:9][~pool.rollouts[1].rewarded[:9]]
    assert np.array_equal(pool.scenes[2][9:], [*newest, *lost][:3])


def test_rates_are_those_of_new_scenes():
    pool, history = trained(2, tiny_task.GOAL)
    rewarded = pool.rollouts[1].rewarded
    assert history[1]['rewarded_rate'] == rewarded[:9].mean() and history[1]['replayed_rate'] == rewarded[9:].mean()
    assert np.sum(history[1]['regions'], 0).tolist() == [rewarded[:9].sum(), 9]
    assert history[0]['replayed_rate'] is None and history[1]['control_steps'] == sum(
        rollout.control_steps for rollout in pool.rollouts)


def test_a_scene_that_is_tried_again_is_tried_with_other_noise():
    pool, _ = trained(2, 9.0)
    again = pool.scenes[1][9:]
    before = [int(np.flatnonzero(pool.scenes[0] == scene)[0]) for scene in again]
    first, second = pool.rollouts[0], pool.rollouts[1]
    assert torch.equal(first.states[before, 0], second.states[9:, 0]), 'the scene is the same'
    assert not torch.allclose(first.chunks[before, 0], second.chunks[9:, 0], atol=0.5)
    assert pool.options[0].noise_seed != pool.options[1].noise_seed


@pytest.mark.parametrize(('goal', 'replay'), [(-9.0, 0.5), (9.0, 0.0)])
def test_nothing_is_tried_again_where_nothing_failed_or_it_is_not_asked_for(goal, replay):
    pool, history = trained(2, goal, replay=replay)
    assert [entry['replayed'] for entry in history] == [0, 0]
    assert np.array_equal(pool.scenes[1], scene_seeds(Scenes.TRAINING, 0, 12, first=12))


@pytest.mark.parametrize('replay', [-0.1, 0.6, float('nan')])
def test_a_share_that_leaves_too_few_new_scenes_is_refused(replay):
    with pytest.raises(ValueError, match='replay must lie in'):
        tiny_task.config(replay=replay)
