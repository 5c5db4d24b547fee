"""One iteration of Flow Policy Optimization and its parts."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning import fpo
from fpo_ros.learning.advantages import standardise
from fpo_ros.learning.decisions import Decisions, recorded_decisions
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.rollout import Rollout, collect
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import Epochs, FlowPolicyOptimization
from fpo_ros.learning.values import StateValues
from fpo_ros.policy.finite import NotFiniteError
from fpo_ros.policy.flow import Sampling
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.scenes import SeedError, is_held_out


def test_training_scenes_are_never_held_out_ones():
    learner = FPO(tiny_task.policy(), tiny_task.config(), seed=9)
    for iteration in (0, 1, 10, 12345, 999_999):
        learner.iteration = iteration
        seeds, _ = learner.scenes()
        assert len(set(seeds)) == 4 and not any(is_held_out(int(scene)) for scene in seeds)
    with pytest.raises(SeedError, match='out of bounds'):
        FPO(tiny_task.policy(), tiny_task.config(), seed=-1).scenes()


def test_iterations_draw_other_scenes():
    learner = FPO(tiny_task.policy(), tiny_task.config())
    first = set(learner.scenes()[0])
    learner.iteration = 1
    assert not first & set(learner.scenes()[0])


def test_warm_up_trains_the_value_function_alone(waist_task):
    policy = tiny_task.policy()
    learner = FPO(policy, tiny_task.config(warmup=1), demonstrations=tiny_task.pairs())
    before, critic = tiny_task.weights(policy), learner.values.module.net[0].weight.clone()
    with open_pool(Local(unit=4)) as pool:
        learner.run_iteration(pool)
        assert all(torch.equal(before[name], value) for name, value in tiny_task.weights(policy).items())
        learner.run_iteration(pool)
    assert any(not torch.equal(before[name], value) for name, value in tiny_task.weights(policy).items())
    assert not torch.equal(critic, learner.values.module.net[0].weight)


def test_policy_optimization_learns_to_turn_the_waist():
    rates = tiny_task.rates_of_training(7)
    assert 0.05 < np.mean(rates[:2]) < 0.45, rates
    assert np.mean(rates[-2:]) > np.mean(rates[:2]) + 0.3, rates


def test_policy_optimization_unlearns_what_is_punished(monkeypatch):
    monkeypatch.setattr(fpo, 'standardise', lambda advantage, floor: -standardise(advantage))
    rates = tiny_task.rates_of_training(6)
    assert np.mean(rates[-2:]) < np.mean(rates[:2]) - 0.05, rates


def hand_made(valid: np.ndarray, success: np.ndarray) -> Rollout:
    """Return a rollout of which only what advantages need is filled in."""
    count, decisions = valid.shape
    return Rollout(
        torch.zeros(count, decisions, 21),
        np.random.default_rng(0).normal(size=(count, decisions, 22)).astype(np.float32),
        torch.zeros(1),
        torch.zeros(count, decisions, 4, 14),
        torch.zeros(count, decisions, 0, 4, 14),
        valid,
        success,
        np.zeros(count, bool),
        success,
        np.zeros(count, bool),
        np.zeros(count, np.int8),
        np.full(count, 6),
        np.zeros(count),
    )


def test_returns_are_credited_to_the_decision_that_succeeded():
    # All values start at the mean success, 0.5; gamma 0.9, lambda 0.5. The first episode succeeds in its second
    # decision: A1 = 1 - 0.5, A0 = 0.45 - 0.5 + 0.45 A1. The second times out: nothing follows its last decision,
    # A2 = -0.5, before it each delta is 0.45 - 0.5.
    learner = FPO(tiny_task.policy(), tiny_task.config(gamma=0.9, lam=0.5))
    valid = np.array([[True, True, False], [True, True, True]])
    rollout = hand_made(valid, np.array([True, False]))
    advantage, surplus, metrics = learner._advantages(rollout, fpo.rewards(rollout), Sampling())
    expected = np.array([0.175, 0.5, -0.17375, -0.275, -0.5])
    targets = learner.values.data[0]['targets'].numpy()
    np.testing.assert_allclose(targets, expected + 0.5, atol=1e-6)
    np.testing.assert_allclose(advantage.numpy(), (expected - expected.mean()) / expected.std(), atol=1e-5)
    assert metrics['explained_variance'] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(surplus[valid], [0.4, 0.5, -0.5, -0.5, -0.5], atol=1e-6)  # returns 0.9, 1, 0, 0, 0


def test_flow_times_lie_on_the_grid_of_the_sampler_one_in_each_stratum():
    learner = FPO(tiny_task.policy(), tiny_task.config())
    times = learner.flow.times(500, 4, stratified=True)
    assert set(times.flatten().tolist()) == {0.25, 0.5, 0.75, 1.0}
    assert (times == torch.tensor([0.25, 0.5, 0.75, 1.0])).all(), 'as many pairs as steps: one of each'
    free = learner.flow.times(500, 4, stratified=False)
    counts = [(free == value).float().mean().item() for value in (0.25, 0.5, 0.75, 1.0)]
    assert min(counts) > 0.2 and sum(counts) == pytest.approx(1)


@pytest.mark.parametrize('coefficient', [0.0, 0.3])
def test_without_any_success_only_recorded_pairs_are_imitated(coefficient):
    policy = tiny_task.policy()
    learner = FPO(policy, tiny_task.config(bc_coefficient=coefficient), demonstrations=tiny_task.pairs())
    recorded, rows = recorded_decisions(tiny_task.pairs(), policy), torch.arange(6)
    time, noise = learner.flow.times(6, 8, stratified=True), torch.randn(6, 8, 4, 14)

    def loss() -> float:
        with torch.no_grad():
            return 50 * float(learner.flow.losses(recorded, rows, time, noise).mean())

    before = loss()
    with tiny_task.short_episodes(), tiny_task.waist_reward(9.0), open_pool(Local(unit=4)) as pool:
        history = [learner.run_iteration(pool) for _ in range(3)]
    assert all(entry['success_rate'] == 0 and entry['advantage_std'] == 0 for entry in history)
    assert (loss() < before - 0.01) if coefficient else (loss() == before)


def test_own_successes_are_imitated_as_long_as_they_are_kept(waist_task):
    learner = FPO(tiny_task.policy(), tiny_task.config(episodes=8, bc_history=2))
    kept = []
    with open_pool(Local(unit=8)) as pool:
        for _ in range(3):
            learner.run_iteration(pool)
            kept.append([len(part) for part in learner.imitation.own])
    assert [len(counts) for counts in kept] == [1, 2, 2] and kept[2][0] == kept[1][1] and sum(kept[0]) > 0
    assert [len(source) for source in learner.imitation.sources()] == [sum(kept[2])]


@pytest.mark.parametrize(('recorded', 'own', 'expected'), [
    (6, 0, [5]), (0, 40, [5]), (6, 40, [2, 3]), (6000, 40, [2, 3])])
def test_recorded_pairs_and_own_successes_have_fixed_shares_of_a_batch(monkeypatch, recorded, own, expected):
    learner = FPO(tiny_task.policy(), tiny_task.config(bc_batch=5),
                  demonstrations=tiny_task.pairs(recorded) if recorded else None)
    part = Decisions(torch.zeros(own, 21), learner.policy.prefix(None).detach(), torch.zeros(own, 4, 14),
                     torch.zeros(own, 0, 4, 14))
    learner.imitation.keep(part, torch.ones(own))
    drawn = []
    plain = TrainedFlow.losses
    monkeypatch.setattr(TrainedFlow, 'losses', lambda *a: drawn.append((len(a[1]), len(a[2]))) or plain(*a))
    learner.imitation.add_gradient(learner.imitation.sources(), 1.0)
    assert drawn == [(size, share) for size, share in zip([n for n in (own, recorded) if n], expected, strict=True)]


@pytest.mark.parametrize(('floor', 'spread', 'high'), [
    (0.5, 0.3, 0.8), (0.5, 0.1, 0.8), (0.5, 0.075, 1.2), (0.5, 0.05, 1.6), (0.5, 0.001, 1.6), (0.0, 0.001, 0.8)])
def test_the_narrower_chunks_have_become_the_more_noise_they_start_from(floor, spread, high):
    """The first policy's chunks spread by 0.2: a floor of 0.5 is 0.1, half of it 0.05."""
    settings = tiny_task.config(spread_floor=floor, sampling=Sampling(noise_range=(0.4, 0.8)), warmup=1)
    learner = FPO(tiny_task.policy(), settings)
    assert learner._sampling().noise_range == (1.0, 1.0), 'the start policy is measured as it will be evaluated'
    learner.iteration, learner.spreads = 1, [0.2, spread]
    assert learner._sampling().noise_range == pytest.approx((high / 2, high))


def test_the_spread_of_the_first_and_of_the_newest_policy_is_kept(waist_task):
    learner = FPO(tiny_task.policy(), tiny_task.config())
    with open_pool(Local(unit=4)) as pool:
        history = [learner.run_iteration(pool) for _ in range(3)]
    assert learner.spreads == [history[0]['chunk_spread'], history[2]['chunk_spread']]
    assert all(entry['noise_high'] == 1.0 for entry in history[:1])


def noisy(learner: FPO) -> None:
    """Give the value function opinions that nothing supports."""
    with torch.no_grad():
        learner.values.module.net[-1].weight.normal_(generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(('goal', 'rate'), [(9.0, 0.0), (-9.0, 1.0)])
def test_episodes_that_all_end_alike_do_not_move_the_policy(goal, rate):
    policy = tiny_task.policy()
    learner = FPO(policy, tiny_task.config(bc_coefficient=0.0))
    noisy(learner)
    before = tiny_task.weights(policy)
    with tiny_task.short_episodes(), tiny_task.waist_reward(goal), open_pool(Local(unit=4)) as pool:
        metrics = learner.run_iteration(pool)
    assert metrics['success_rate'] == rate and metrics['advantage_std'] > 0 and 'ratio' not in metrics
    assert all(torch.equal(before[name], value) for name, value in tiny_task.weights(policy).items())


def test_episodes_that_all_end_alike_are_imitated_where_they_succeed():
    learner = FPO(tiny_task.policy(), tiny_task.config())
    noisy(learner)
    before = tiny_task.weights(learner.policy)
    with tiny_task.short_episodes(), tiny_task.waist_reward(-9.0), open_pool(Local(unit=4)) as pool:
        metrics = learner.run_iteration(pool)
    assert 'ratio' not in metrics and metrics['bc_loss'] > 0
    assert any(not torch.equal(before[name], value) for name, value in tiny_task.weights(learner.policy).items())


def spoil(module: torch.nn.Module) -> None:
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = float('nan')


def test_actions_that_are_not_finite_stop_before_anything_moves():
    policy = tiny_task.policy()
    spoil(policy.model.action_out_proj)
    with BatchedWorlds('transfer_cube', 4) as worlds:
        worlds.reset(np.arange(4))
        worlds.rest()
        before = worlds.qpos.copy()
        with pytest.raises(NotFiniteError, match='decision 1 of .* actions are not finite: the policy is damaged'):
            collect(policy, worlds, np.arange(4), tiny_task.start_noise(4))
        assert np.array_equal(worlds.qpos, before)


@pytest.mark.parametrize(('of', 'part', 'words'), [
    (FlowPolicyOptimization, '_prefer', 'gradient of iteration 1'), (Epochs, 'step', 'policy after iteration 1'),
    (TrainedFlow, 'losses', 'iteration 1'), (StateValues, 'fit', 'critic after iteration 1')])
def test_training_that_diverges_is_one_error_that_says_where(waist_task, monkeypatch, of, part, words):
    learner = FPO(tiny_task.policy(), tiny_task.config(epochs=1, minibatch=1000))
    plain = getattr(of, part)

    def diverges(self, *arguments, **entries):
        result = plain(self, *arguments, **entries)
        if part == 'losses':
            return result * float('nan')
        if part == '_prefer':
            learner.flow.parameters[0].grad.fill_(float('inf'))
        else:
            spoil(learner.policy.model.action_out_proj if part == 'step' else self.module)
        return result

    monkeypatch.setattr(of, part, diverges)
    with open_pool(Local(unit=4)) as pool, pytest.raises(NotFiniteError, match=words) as caught:
        learner.run_iteration(pool)
    assert 'lower learning rate' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(('rates', 'factor'), [
    ((0.0,), 1.0), ((0.7, 0.8), 1.0), ((0.9, 0.9), 1.0), ((0.2, 0.9, 0.95, 0.85), 0.4), ((1.0, 1.0, 1.0), 0.02)])
def test_the_learning_rate_falls_with_the_failures_that_are_left(rates, factor):
    learner = FPO(tiny_task.policy(), tiny_task.config(settling=0.25, learning_rate=0.1))
    learner.recent.extend(rates)
    assert learner._rate() == pytest.approx(0.1 * factor)
    if factor < 1:
        learner.recent.extend([0.3] * 3)
        assert learner._rate() == pytest.approx(0.1 * factor), 'it does not rise again'
    learner.restore(tiny_task.policy())
    assert learner._rate() == pytest.approx(0.05 * factor)
    constant = FPO(tiny_task.policy(), tiny_task.config(settling=0.0, learning_rate=0.1))
    constant.recent.extend(rates)
    assert constant._rate() == pytest.approx(0.1)


def test_the_learning_rate_is_halved_while_success_no_longer_grows():
    learner = FPO(tiny_task.policy(), tiny_task.config(patience=2, learning_rate=0.1))

    def rates(*successes):
        found = []
        for success in successes:
            learner.recent.extend([success] * 3)
            found.append(learner._rate())
        return found

    assert rates(0.5, 0.5, 0.6) == [0.1] * 3, 'growth is waited for, and resets the waiting'
    assert rates(0.6, 0.55, 0.6, 0.4, 0.6) == [0.1, 0.05, 0.05, 0.025, 0.025]
    assert rates(0.7, 0.7) == [0.025] * 2, 'what was halved stays halved'
    learner.restore(tiny_task.policy())
    assert rates(0.7, 0.7) == [0.0125, 0.00625], 'restoring halves too, and begins to wait anew'
