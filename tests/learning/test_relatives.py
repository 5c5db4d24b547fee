"""What FPO is compared with, and properties that hold whatever the algorithm."""

from __future__ import annotations

import math

import made_rollouts
import numpy as np
import pytest
import tiny_task
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning import fpo
from fpo_ros.learning.advantages import gae, standardise
from fpo_ros.learning.decisions import flatten
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.scale import EpisodeOptions, Local, collect_episodes, open_pool
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import Batch
from fpo_ros.policy.expert import Expert
from fpo_ros.policy.flow import squared_error
from fpo_ros.results.rows import REFERENCE, ROWS

VALID = np.array([[True, True, False], [True, True, True]])


def learner_of(algorithm: str, **changes: object) -> FPO:
    parts = {} if algorithm == 'filtered_bc' else {'microbatch': 2}
    settings = {'algorithm': algorithm, 'epochs': 1, 'minibatch': 8} | parts | changes
    return FPO(tiny_task.policy(), tiny_task.config(**settings))


def batch(learner: FPO, advantage: list[float], seed: int = 0, prefer: bool = True) -> Batch:
    """Return five decisions with advantages."""
    rollout = made_rollouts.rollout(learner.policy, VALID, np.array([True, False]), seed)
    return Batch(decisions=flatten(rollout, VALID), advantage=torch.tensor(advantage), rollout=rollout,
                 reward=fpo.rewards(rollout), prefer=prefer, where='iteration 1', advice='none', rate=1e-3)


@pytest.mark.parametrize(('algorithm', 'changes'), [
    ('awr', {}), ('filtered_bc', {'bc_coefficient': 1.0, 'bc_batch': 64})])
def test_relatives_learn_to_turn_the_waist(algorithm, changes):
    rates = tiny_task.rates_of_training(6, algorithm=algorithm, **changes)
    assert 0.05 < np.mean(rates[:2]) < 0.45, rates
    assert np.mean(rates[-2:]) > np.mean(rates[:2]) + 0.3, rates


def test_weighted_regression_prefers_what_has_the_larger_advantage(monkeypatch):
    monkeypatch.setattr(fpo, 'standardise', lambda advantage, floor: -standardise(advantage))
    rates = tiny_task.rates_of_training(6, algorithm='awr', learning_rate=1e-2)
    assert np.mean(rates[-2:]) < np.mean(rates[:2]), rates


def test_weights_of_regression_by_hand():
    learner = learner_of('awr', temperature=0.5)
    learner.update.run(batch(learner, [-1.0, 0.0, 0.5, 1.5, 4.0]))
    (_, weight), = learner.update.kept
    wanted = [math.exp(-2), 1.0, math.e, math.exp(3), math.exp(3)]  # the exponent is capped at 3
    torch.testing.assert_close(weight, torch.tensor(wanted))


def test_the_loss_of_regression_is_the_weighted_mean_of_flow_matching(monkeypatch):
    learner = learner_of('awr', temperature=1.0, pairs=3)
    given = batch(learner, [0.0, 1.0, -1.0, 2.0, 9.0])
    own = {tuple(state.tolist()): float(index + 1) for index, state in enumerate(given.decisions.states)}
    hook = learner.flow.parameters[0]

    def losses(flow, decisions, rows, time, noise):
        assert time.shape == (len(rows), 3) and noise.shape == (len(rows), 3, 4, 14)
        value = torch.tensor([own[tuple(decisions.states[row].tolist())] for row in rows])
        return value[:, None].expand(-1, 3) + 0 * hook.sum()

    monkeypatch.setattr(TrainedFlow, 'losses', losses)
    metrics = learner.update.run(given)
    wanted = (1 + 2 * math.e + 3 / math.e + 4 * math.exp(2) + 5 * math.exp(3)) / 5
    assert metrics['weighted_loss'] == pytest.approx(wanted, rel=1e-5) and metrics['steps_taken'] == 1


def test_decisions_of_so_many_iterations_are_regressed_on():
    learner = learner_of('awr', bc_history=2, minibatch=100)
    seen = []
    plain = learner.flow.losses
    learner.flow.losses = lambda decisions, rows, time, noise: seen.append(len(decisions)) or plain(
        decisions, rows, time, noise)
    for seed in range(3):
        learner.update.run(batch(learner, [0.1 * seed] * 5, seed))
    assert sorted(set(seen)) == [5, 10] and seen[-1] == 10
    assert [float(weight[0]) for _, weight in learner.update.kept] == pytest.approx(
        [math.exp(0.2), math.exp(0.4)], rel=1e-5)


@pytest.mark.parametrize('algorithm', ['fpo', 'awr', 'filtered_bc'])
def test_nothing_happens_before_the_first_success(algorithm):
    learner = learner_of(algorithm)
    before = tiny_task.weights(learner.policy)
    with tiny_task.short_episodes(), tiny_task.waist_reward(9.0), open_pool(Local(unit=4)) as pool:
        metrics = [learner.run_iteration(pool) for _ in range(2)]
    assert all(torch.equal(before[name], value) for name, value in tiny_task.weights(learner.policy).items())
    assert not any('grad_norm' in entry for entry in metrics)
    with tiny_task.short_episodes(), tiny_task.waist_reward(-9.0), open_pool(Local(unit=4)) as pool:
        learner.run_iteration(pool)
    assert any(not torch.equal(before[name], value) for name, value in tiny_task.weights(learner.policy).items())


@pytest.mark.parametrize('algorithm', ['awr', 'filtered_bc'])
def test_relatives_imitate_where_every_episode_succeeds(algorithm):
    learner = learner_of(algorithm)
    before = tiny_task.weights(learner.policy)
    with tiny_task.short_episodes(), tiny_task.waist_reward(-9.0), open_pool(Local(unit=4)) as pool:
        metrics = learner.run_iteration(pool)
    assert metrics['success_rate'] == 1 and metrics['grad_norm'] > 0
    assert any(not torch.equal(before[name], value) for name, value in tiny_task.weights(learner.policy).items())


@pytest.mark.parametrize(('decay', 'left'), [('linear', [1 - index / 9 for index in range(9)]), ('none', [1] * 9)])
def test_cloning_of_successes_takes_as_many_steps_as_fpo_at_a_rate_that_decays_as_it_is_set(monkeypatch, decay, left):
    learner = learner_of('filtered_bc', epochs=3, minibatch=2, decay=decay)
    given = batch(learner, [0.0] * 5)
    learner.imitation.keep(given.decisions, torch.ones(len(given.decisions)))
    taken, rates = [], []
    plain = learner.actor_optimizer.step
    monkeypatch.setattr(learner.actor_optimizer, 'step', lambda: taken.append(plain()) or rates.append(
        learner.actor_optimizer.param_groups[0]['lr']))
    metrics = learner.update.run(given)
    assert len(taken) == 9 and metrics['steps_taken'] == 1 and metrics['bc_loss'] > 0
    assert rates == pytest.approx([1e-3 * share for share in left])


class Answering:
    """A network with fixed answers, that notes where it is asked."""

    between = staticmethod(Expert.between)

    def __init__(self, velocity: torch.Tensor) -> None:
        self.velocity = velocity

    def denoise(self, x: torch.Tensor, time: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        self.x = x
        return self.velocity


def test_the_squared_error_of_the_noise_is_one_minus_time_squared_times_that_of_the_velocity():
    generator = torch.Generator().manual_seed(0)
    actions, noise, velocity = (torch.randn(6, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    time = torch.rand(6, generator=generator, dtype=torch.float64)
    network = Answering(velocity)
    error = squared_error(network, actions, noise, time, torch.empty(0))
    rest = 1 - time[:, None, None]
    implied = network.x + rest * velocity
    torch.testing.assert_close((noise - implied).square(), rest.square() * error)


def test_from_zero_noise_episodes_do_not_depend_on_the_seed_of_the_noise(waist_task):
    policy, scenes = tiny_task.policy(), np.array([3, 900_001, 5])

    def rolled(seed: int, scale: float) -> torch.Tensor:
        return collect_episodes(policy, scenes, Local(threads=1), EpisodeOptions(
            noise_seed=seed, noise_scale=scale, max_steps=tiny_task.STEPS)).rollout.chunks

    assert torch.equal(rolled(0, 0.0), rolled(1, 0.0)) and not torch.equal(rolled(0, 1.0), rolled(1, 1.0))
    first, second = (evaluate(policy, 4, sampling='zero') for _ in range(2))
    assert np.array_equal(first.success, second.success) and first.control_steps == second.control_steps


@pytest.mark.parametrize('row', [row for row in ROWS if row.group == 'executed' or row.name == REFERENCE],
                         ids=lambda row: row.name)
@given(rewarded_in=st.integers(1, 300))
def test_a_reward_is_worth_as_much_however_many_steps_a_decision_executes(row, rewarded_in):
    # A decision's reward counts from its beginning: the default's discount of a control step, as often as there are
    # steps before the decision.
    executed, per_step = row.start.contract.execute, 0.99 ** (1 / 20)
    decision = (rewarded_in - 1) // executed
    valid = np.ones((2, decision + 1), bool)
    reward = fpo.rewards(made_rollouts.rollout(tiny_task.policy(), valid, np.array([True, False])))
    target = gae(reward, np.zeros(valid.shape), valid, row.config().gamma, 1.0)[1]
    assert target[0, 0] == pytest.approx(per_step ** (executed * decision), rel=1e-9) and target[1, 0] == 0
