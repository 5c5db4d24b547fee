"""Position and speed limits of joint targets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS, ContractError
from fpo_ros.policy.limits import JointLimits

LIMITS = JointLimits()
TARGETS = arrays(np.float64, (6, 14), elements=st.floats(-20, 20))
INSIDE = arrays(np.float64, 14, elements=st.floats(0, 1)).map(
    lambda u: LIMITS.lower + u * (LIMITS.upper - LIMITS.lower)
)


@given(previous=INSIDE, targets=TARGETS, period=st.floats(0.001, 0.2))
def test_every_row_lies_inside_and_no_step_is_too_fast(previous, targets, period):
    out = LIMITS.apply(previous, targets, period)
    assert (out >= LIMITS.lower).all() and (out <= LIMITS.upper).all()
    steps = np.diff(np.concatenate([previous[None], out]), axis=0)
    assert (np.abs(steps) <= LIMITS.speed * period * (1 + 1e-9) + 1e-12).all()


@given(previous=INSIDE, targets=TARGETS)
def test_limited_targets_pass_unchanged(previous, targets):
    once = LIMITS.apply(previous, targets, 0.02)
    np.testing.assert_allclose(LIMITS.apply(previous, once, 0.02), once, atol=1e-12)


@given(previous=arrays(np.float64, 14, elements=st.floats(-10, 10)), targets=TARGETS)
def test_from_outside_rows_return_at_the_speed_limit_and_never_move_away(previous, targets):
    out = LIMITS.apply(previous, targets, 0.02)
    outside = np.maximum(
        LIMITS.lower - np.vstack([previous, out]), np.vstack([previous, out]) - LIMITS.upper
    ).clip(0)
    assert (np.diff(outside, axis=0) <= 1e-12).all()
    expected = np.maximum(outside[:-1] - LIMITS.speed * 0.02, 0)
    np.testing.assert_allclose(outside[1:], expected, atol=1e-9)


def test_a_ramp_by_hand():
    targets = np.tile(START_JOINTS, (3, 1))
    targets[:, 0] = 0.1
    targets[:, 6] = 5.0
    out = LIMITS.apply(START_JOINTS, targets, 0.02)
    np.testing.assert_allclose(out[:, 0], [0.04, 0.08, 0.1], atol=1e-12)
    np.testing.assert_allclose(out[:, 6], START_JOINTS[6] + [0.08, 0.16, 0.24], atol=1e-12)
    np.testing.assert_allclose(out[:, 1:6], targets[:, 1:6])


def test_many_episodes_at_once_are_limited_one_by_one():
    rng = np.random.default_rng(0)
    previous, targets = rng.uniform(-1, 1, (4, 14)), rng.uniform(-3, 3, (4, 6, 14))
    together = LIMITS.apply(previous, targets, 0.02)
    for one in range(4):
        assert np.array_equal(together[one], LIMITS.apply(previous[one], targets[one], 0.02))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'lower': np.zeros(13)}, 'lower must be 14'),
        ({'speed': np.full(14, np.nan)}, 'speed must be 14 finite'),
        ({'speed': np.zeros(14)}, 'speed > 0'),
        ({'lower': np.full(14, 9.0)}, 'lower < upper'),
    ],
)
def test_impossible_limits_are_refused(change, words):
    with pytest.raises(ContractError, match=words):
        JointLimits(**change)
