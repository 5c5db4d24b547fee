"""One iteration of Flow Policy Optimization and its parts."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning import fpo
from fpo_ros.learning.advantages import standardise
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.rollout import Rollout
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.task import HELD_OUT_SEED


def test_training_scenes_are_never_held_out_ones():
    learner = FPO(tiny_task.policy(), tiny_task.config(), seed=9)
    for iteration in (0, 1, 10, 12345, 999_999):
        learner.iteration = iteration
        seeds = learner.seeds()
        assert len(set(seeds)) == 4 and seeds.min() >= 0 and seeds.max() < HELD_OUT_SEED


def test_iterations_draw_other_scenes():
    learner = FPO(tiny_task.policy(), tiny_task.config())
    first = set(learner.seeds())
    learner.iteration = 1
    assert not first & set(learner.seeds())


def test_warm_up_trains_the_value_function_alone(waist_task):
    policy = tiny_task.policy()
    learner = FPO(policy, tiny_task.config(warmup=1), demonstrations=tiny_task.pairs())
    before, critic = tiny_task.weights(policy), learner.critic.net[0].weight.clone()
    with BatchedWorlds('transfer_cube', 4) as worlds:
        learner.run_iteration(worlds)
        assert all(torch.equal(before[name], value) for name, value in tiny_task.weights(policy).items())
        learner.run_iteration(worlds)
    assert any(not torch.equal(before[name], value) for name, value in tiny_task.weights(policy).items())
    assert not torch.equal(critic, learner.critic.net[0].weight)


def rates_of_training(iterations: int) -> list[float]:
    """Train by success alone, nothing imitated; return the success rate of each iteration."""
    settings = tiny_task.config(
        episodes=32,
        pairs=4,
        epochs=4,
        minibatch=64,
        microbatch=64,
        critic_steps=20,
        warmup=1,
        bc_coefficient=0.0,
    )
    learner = FPO(tiny_task.policy(), settings)
    with (
        tiny_task.short_episodes(),
        tiny_task.waist_reward(0.006),
        BatchedWorlds('transfer_cube', 32) as worlds,
    ):
        return [learner.run_iteration(worlds)['success_rate'] for _ in range(iterations)]


def test_policy_optimization_learns_to_turn_the_waist():
    rates = rates_of_training(7)
    assert 0.05 < np.mean(rates[:2]) < 0.45, rates
    assert np.mean(rates[-2:]) > np.mean(rates[:2]) + 0.3, rates


def test_policy_optimization_unlearns_what_is_punished(monkeypatch):
    monkeypatch.setattr(fpo, 'standardise', lambda advantage: -standardise(advantage))
    rates = rates_of_training(6)
    assert np.mean(rates[-2:]) < np.mean(rates[:2]) - 0.05, rates


def test_returns_are_credited_to_the_decision_that_succeeded():
    # All values start at the mean success, 0.5; gamma 0.9, lambda 0.5. The first episode succeeds in its second
    # decision: A1 = 1 - 0.5, A0 = 0.45 - 0.5 + 0.45 A1. The second times out: each delta is 0.45 - 0.5.
    learner = FPO(tiny_task.policy(), tiny_task.config(gamma=0.9, lam=0.5))
    valid, rng = np.array([[True, True, False], [True, True, True]]), np.random.default_rng(0)
    rollout = Rollout(
        torch.zeros(2, 4, 21),
        rng.normal(size=(2, 4, 22)).astype(np.float32),
        torch.zeros(1),
        torch.zeros(2, 3, 4, 14),
        valid,
        np.array([True, False]),
        np.zeros(2, bool),
        np.zeros(2, np.int8),
        np.array([6, 9]),
    )
    advantage, metrics = learner._advantages(rollout)
    expected = np.array([0.175, 0.5, -0.082625, -0.0725, -0.05])
    targets = learner.value_data[0][1].numpy()
    np.testing.assert_allclose(targets, expected + 0.5, atol=1e-6)
    np.testing.assert_allclose(advantage.numpy(), (expected - expected.mean()) / expected.std(), atol=1e-5)
    assert metrics['explained_variance'] == pytest.approx(0, abs=1e-6)


def test_flow_times_lie_on_the_grid_of_the_sampler_one_in_each_stratum():
    learner = FPO(tiny_task.policy(), tiny_task.config())
    times = learner._pairs(500, 4, stratified=True)
    assert set(times.flatten().tolist()) == {0.25, 0.5, 0.75, 1.0}
    assert (times == torch.tensor([0.25, 0.5, 0.75, 1.0])).all(), 'as many pairs as steps: one of each'
    free = learner._pairs(500, 4, stratified=False)
    counts = [(free == value).float().mean().item() for value in (0.25, 0.5, 0.75, 1.0)]
    assert min(counts) > 0.2 and sum(counts) == pytest.approx(1)


@pytest.mark.parametrize('coefficient', [0.0, 0.3])
def test_without_any_success_only_recorded_pairs_are_imitated(coefficient):
    policy = tiny_task.policy()
    learner = FPO(policy, tiny_task.config(bc_coefficient=coefficient), demonstrations=tiny_task.pairs())
    rows = torch.arange(6)
    time, noise = learner._pairs(6, 8, stratified=True), torch.randn(6, 8, 4, 14)

    def loss() -> float:
        with torch.no_grad():
            return float(learner._losses(learner.demonstrations, rows, time, noise).mean())

    before = loss()
    with tiny_task.short_episodes(), tiny_task.waist_reward(9.0), BatchedWorlds('transfer_cube', 4) as worlds:
        history = [learner.run_iteration(worlds) for _ in range(3)]
    assert all(entry['success_rate'] == 0 and entry['advantage_std'] == 0 for entry in history)
    assert (loss() < before - 0.01) if coefficient else (loss() == before)


def test_own_successes_are_imitated_as_long_as_they_are_kept(waist_task):
    learner = FPO(tiny_task.policy(), tiny_task.config(episodes=8, bc_history=2))
    kept = []
    with BatchedWorlds('transfer_cube', 8) as worlds:
        for _ in range(3):
            learner.run_iteration(worlds)
            kept.append([len(part) for part in learner.successes])
    assert [len(counts) for counts in kept] == [1, 2, 2] and kept[2][0] == kept[1][1] and sum(kept[0]) > 0
    assert len(learner._success_pool()) == sum(kept[2])
