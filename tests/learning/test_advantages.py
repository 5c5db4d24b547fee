"""Advantage estimation, by hand and by properties."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning.advantages import explained_variance, gae, standardise
from fpo_ros.learning.config import CriticConfig
from fpo_ros.learning.critic import Critic
from fpo_ros.learning.values import StateValues

VALID = np.array([[True, True, True]])


def test_three_decisions_that_end_in_success():
    # gamma 0.9, lambda 0.5: delta = 0.9*0.4-0.2, 0.9*0.6-0.4, 1-0.6 = 0.16, 0.14, 0.4.
    advantage, target = gae(np.array([[0.0, 0.0, 1.0]]), np.array([[0.2, 0.4, 0.6]]), VALID, 0.9, 0.5)
    # A2 = 0.4; A1 = 0.14 + 0.45 * 0.4 = 0.32; A0 = 0.16 + 0.45 * 0.32 = 0.304
    np.testing.assert_allclose(advantage, [[0.304, 0.32, 0.4]])
    np.testing.assert_allclose(target, [[0.504, 0.72, 1.0]])


def test_nothing_is_expected_behind_the_cap():
    # delta = 0.16, 0.14, -0.6: whatever the value function says of the state at the cap, a failure is worth 0.
    advantage, target = gae(np.zeros((1, 3)), np.array([[0.2, 0.4, 0.6]]), VALID, 0.9, 0.5)
    np.testing.assert_allclose(advantage, [[0.16 + 0.45 * -0.13, 0.14 + 0.45 * -0.6, -0.6]], atol=1e-12)
    np.testing.assert_allclose(target[0, 2], 0.0, atol=1e-12)
    _, target = gae(np.zeros((1, 3)), np.array([[0.2, 0.4, 0.6]]), VALID, 0.9, 1.0)
    np.testing.assert_allclose(target, 0.0, atol=1e-12)


def test_padding_after_the_end_is_ignored_and_gets_nothing():
    reward, value = np.array([[0.0, 1.0, 0.0]]), np.array([[0.2, 0.4, 0.6]])
    valid = np.array([[True, True, False]])
    short = gae(reward[:, :2], value[:, :2], valid[:, :2], 0.9, 0.5)
    reward[0, 2], value[0, 2] = 77.0, -1e6
    advantage, target = gae(reward, value, valid, 0.9, 0.5)
    np.testing.assert_allclose(advantage[:, :2], short[0])
    np.testing.assert_allclose(target[:, :2], short[1])
    assert advantage[0, 2] == target[0, 2] == 0


def test_with_lambda_one_the_target_is_the_discounted_return():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(1, 3)), rng.normal(size=(1, 3))
    _, target = gae(reward, value, VALID, 0.7, 1.0)
    np.testing.assert_allclose(
        target[0], [reward[0] @ [1, 0.7, 0.49], reward[0, 1:] @ [1, 0.7], reward[0, 2]]
    )


def test_exact_values_leave_no_advantage():
    advantage, _ = gae(np.array([[0.0, 0.0, 1.0]]), np.array([[0.81, 0.9, 1.0]]), VALID, 0.9, 0.95)
    np.testing.assert_allclose(advantage, 0, atol=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_standardised_advantages_keep_their_order_and_lie_within_the_limit(values):
    raw = np.array(values)
    out = standardise(raw)
    assert np.abs(out).max() <= 4.0
    assert (np.diff(out[np.argsort(raw, kind='stable')]) >= -1e-12).all()
    if raw.std() > 1e-6 and np.abs(out).max() < 4:
        assert abs(out.mean()) < 1e-6 and out.std() == pytest.approx(1, abs=1e-6)


def test_small_advantages_stay_small_where_there_is_a_floor():
    values = np.array([-0.03, 0.0, 0.03])
    np.testing.assert_allclose(standardise(values, floor=0.3), values / 0.3)
    np.testing.assert_allclose(standardise(values, floor=0.01), standardise(values))


def test_equal_advantages_become_zero():
    assert (standardise(np.full(5, 0.3)) == 0).all()


def test_explained_variance_by_hand():
    target = np.array([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(target, target + 7) == 1.0
    assert explained_variance(target, np.zeros(4)) == 0.0
    assert explained_variance(target, -target) == pytest.approx(-3.0)
    assert explained_variance(np.ones(4), target) == 0.0


def test_value_function_begins_with_one_value_and_learns_a_target():
    generator = torch.Generator().manual_seed(0)
    values = StateValues(CriticConfig(learning_rate=1e-2), tiny_task.policy(), 0.99, 0, generator)
    critic = values.module
    states = torch.randn(200, 22, generator=generator) * 5 + 2
    critic.begin(states.numpy(), 0.4)
    assert torch.allclose(critic(states), torch.tensor(0.4))
    targets = (states[:, 0] > 2).float()
    values.data.append({'seen': states, 'targets': targets})
    values.fit(150)
    assert explained_variance(targets.numpy(), critic(states).detach().numpy()) > 0.8


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_random_state():
    torch.manual_seed(5)
    first, drawn = Critic(3, seed=1), torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    again, other = Critic(3, seed=1), Critic(3, seed=2)
    assert torch.equal(first.net[0].weight, again.net[0].weight)
    assert not torch.equal(first.net[0].weight, other.net[0].weight)


def test_a_cube_thrown_away_is_worth_no_more_and_no_less_than_one_out_of_reach():
    critic, states = Critic(3, width=32), torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    critic.begin(states.numpy(), 0.4)
    torch.nn.init.normal_(critic.net[-1].weight, generator=torch.Generator().manual_seed(0))
    near, far = (critic(torch.tensor([0.0, 0.0, distance])) for distance in (10.0, 1e6))
    assert torch.equal(near, far) and not torch.equal(near, critic(torch.zeros(3)))
