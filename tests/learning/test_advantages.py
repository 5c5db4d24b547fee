"""Advantage estimation, by hand and by properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning.advantages import explained_variance, gae, standardise
from fpo_ros.learning.critic import Critic, fit

VALID = np.array([[True, True, True]])
NEVER = np.zeros((1, 3), bool)


def test_three_decisions_that_end_in_success():
    # gamma 0.9, lambda 0.5: delta = 0.9*0.4-0.2, 0.9*0.6-0.4, 1-0.6 = 0.16, 0.14, 0.4.
    value = np.array([[0.2, 0.4, 0.6, 0.8]])
    success = np.array([[False, False, True]])
    advantage, target = gae(np.array([[0.0, 0.0, 1.0]]), value, VALID, success, 0.9, 0.5)
    # A2 = 0.4; A1 = 0.14 + 0.45 * 0.4 = 0.32; A0 = 0.16 + 0.45 * 0.32 = 0.304
    np.testing.assert_allclose(advantage, [[0.304, 0.32, 0.4]])
    np.testing.assert_allclose(target, [[0.504, 0.72, 1.0]])


def test_a_time_out_bootstraps_the_last_value_and_success_does_not():
    value = np.array([[0.2, 0.4, 0.6, 0.8]])
    late, _ = gae(np.zeros((1, 3)), value, VALID, NEVER, 0.9, 0.5)
    assert late[0, 2] == pytest.approx(0.9 * 0.8 - 0.6)
    ended, _ = gae(np.zeros((1, 3)), value, VALID, np.array([[False, False, True]]), 0.9, 0.5)
    assert ended[0, 2] == pytest.approx(-0.6)
    value[0, 3] = 1e6
    again, _ = gae(np.zeros((1, 3)), value, VALID, np.array([[False, False, True]]), 0.9, 0.5)
    np.testing.assert_array_equal(again, ended)


def test_padding_after_the_end_is_ignored_and_gets_nothing():
    reward, value = np.array([[0.0, 1.0, 0.0]]), np.array([[0.2, 0.4, 0.6, 0.8]])
    valid, success = np.array([[True, True, False]]), np.array([[False, True, False]])
    short = gae(reward[:, :2], value[:, :3], valid[:, :2], success[:, :2], 0.9, 0.5)
    reward[0, 2], value[0, 2:] = 77.0, -1e6
    advantage, target = gae(reward, value, valid, success, 0.9, 0.5)
    np.testing.assert_allclose(advantage[:, :2], short[0])
    np.testing.assert_allclose(target[:, :2], short[1])
    assert advantage[0, 2] == target[0, 2] == 0


def test_with_lambda_one_the_target_is_the_discounted_return():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(1, 3)), rng.normal(size=(1, 4))
    _, target = gae(reward, value, VALID, np.array([[False, False, True]]), 0.7, 1.0)
    np.testing.assert_allclose(
        target[0], [reward[0] @ [1, 0.7, 0.49], reward[0, 1:] @ [1, 0.7], reward[0, 2]]
    )


def test_exact_values_leave_no_advantage():
    value = np.array([[0.81, 0.9, 1.0, 5.0]])
    advantage, _ = gae(np.array([[0.0, 0.0, 1.0]]), value, VALID, np.array([[False, False, True]]), 0.9, 0.95)
    np.testing.assert_allclose(advantage, 0, atol=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_standardised_advantages_keep_their_order_and_lie_within_the_limit(values):
    raw = np.array(values)
    out = standardise(raw)
    assert np.abs(out).max() <= 4.0
    assert (np.diff(out[np.argsort(raw, kind='stable')]) >= -1e-12).all()
    if raw.std() > 1e-6 and np.abs(out).max() < 4:
        assert abs(out.mean()) < 1e-6 and out.std() == pytest.approx(1, abs=1e-6)


def test_equal_advantages_become_zero():
    assert (standardise(np.full(5, 0.3)) == 0).all()


def test_explained_variance_by_hand():
    target = np.array([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(target, target + 7) == 1.0
    assert explained_variance(target, np.zeros(4)) == 0.0
    assert explained_variance(target, -target) == pytest.approx(-3.0)
    assert explained_variance(np.ones(4), target) == 0.0


def test_value_function_starts_at_its_initial_value_and_learns_a_target():
    torch.manual_seed(0)
    critic, generator = Critic(3, width=32, initial_value=0.4), torch.Generator().manual_seed(0)
    states = torch.randn(200, 3, generator=generator) * 5 + 2
    critic.set_normalisation(states.numpy())
    assert torch.allclose(critic(states), torch.tensor(0.4))
    targets = (states[:, 0] > 2).float()
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    fit(critic, optimizer, states, targets, 150, 64, generator)
    assert explained_variance(targets.numpy(), critic(states).detach().numpy()) > 0.8
