"""How much of the policy's own successes is imitated: alike, or as they exceed what was expected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.pi0 import Pi0


def learner_of(**changes: object) -> FPO:
    return FPO(tiny_task.policy(), tiny_task.config(**{'bc_weighting': 'surplus'} | changes))


def some(learner: FPO, count: int) -> Decisions:
    return Decisions(torch.zeros(count, 21), learner.policy.prefix(None).detach(), torch.zeros(count, 4, 14),
                     torch.zeros(count, 0, 4, 14))


@pytest.mark.parametrize(('changes', 'expected'), [
    ({}, [0.0, 0.2, 0.5]), ({'bc_weighting': 'equal'}, [1.0, 1.0, 1.0]),
    ({'algorithm': 'filtered_bc', 'bc_weighting': 'equal'}, [1.0, 1.0, 1.0])])
def test_a_success_weighs_what_exceeds_the_expected_return_unless_all_are_to_weigh_alike(changes, expected):
    learner = learner_of(**changes)
    learner.imitation.keep(some(learner, 3), torch.tensor([-0.1, 0.2, 0.5]))
    assert learner.imitation.own[0].weight.tolist() == pytest.approx(expected)


def test_a_decision_is_drawn_by_its_weight_and_the_mean_weight_scales_the_loss(monkeypatch):
    """Losses 0, 1, 2 with weights 0.6, 0, 0.3: the weighted mean over decisions is (0 + 0 + 0.6) / 3 = 0.2."""
    learner = learner_of(bc_batch=4000, bc_pairs=1)
    learner.imitation.keep(some(learner, 3), torch.tensor([0.6, 0.0, 0.3]))
    drawn = []

    def losses(_, decisions, rows, time, noise, decided=None):
        drawn.append(rows)
        return rows[:, None].float().requires_grad_()

    monkeypatch.setattr(TrainedFlow, 'losses', losses)
    assert learner.imitation.add_gradient(learner.imitation.sources(), 1.0) == pytest.approx(0.2, abs=0.02)
    counts = np.bincount(drawn[0], minlength=3)
    assert counts[1] == 0 and counts[0] / counts[2] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize(('max_delay', 'most'), [(0, None), (2, 2)])
def test_successes_are_imitated_as_chunks_that_go_on_where_the_flow_is_to_keep_that_up(monkeypatch, max_delay, most):
    contract = replace(tiny_task.CONTRACT, max_delay=max_delay)
    policy = tiny_task.policy()
    policy = FlowPolicy(Pi0(policy.model.config, contract), policy.stats)
    learner, seen = FPO(policy, tiny_task.config(bc_batch=64)), []
    learner.imitation.keep(some(learner, 3), torch.ones(3))
    plain = TrainedFlow.losses
    monkeypatch.setattr(TrainedFlow, 'losses', lambda *a: seen.append(a[-1]) or plain(*a))
    assert learner.imitation.add_gradient(learner.imitation.sources(), 1.0) > 0
    decided = seen[0]
    assert (None if decided is None else int(decided.sum(2).max())) == most
    if most:
        assert decided.shape == (64, 2, 4) and (decided.sum(2) == 0).any()


def test_what_was_expected_all_along_is_not_imitated():
    learner = learner_of()
    learner.imitation.keep(some(learner, 3), torch.tensor([-0.1, 0.0, -0.5]))
    assert learner.imitation.sources() == []


def test_the_first_surplus_is_the_discounted_return_less_the_mean_success(waist_task):
    """The value function begins with the share of rewarded episodes, everywhere."""
    learner, rollouts = learner_of(episodes=12), []
    with open_pool(Local(unit=12)) as pool:
        plain = pool.collect
        pool.collect = lambda *a: rollouts.append(plain(*a)) or rollouts[0]
        learner.run_iteration(pool)
    rollout = rollouts[0].rollout
    rate, lengths = rollout.rewarded.mean(), rollout.valid.sum(1)
    assert 0 < rate < 1
    wanted = [max(0.99 ** (lengths[row] - 1 - k) - rate, 0)
              for row in np.flatnonzero(rollout.rewarded) for k in range(lengths[row])]
    np.testing.assert_allclose(learner.imitation.own[0].weight, wanted, atol=1e-6)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ValueError, match="unknown weighting of imitation 'best': use equal or surplus"):
        tiny_task.config(bc_weighting='best')
