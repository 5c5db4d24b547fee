"""Joints stop before their limits, under their acceleration, whatever is asked of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.joint_limiter import JointLimiter
from fpo_ros.runtime.smoothing import MovingAverage, window_for

LIMITS = JointLimits()
PERIOD = 0.02


def limiter(acceleration):
    return JointLimiter(LIMITS, PERIOD, np.full(14, float(acceleration)))


def travel(limits, start, targets):
    """Return (T, 14) positions from ``start`` on, at rest before."""
    rows, moved, last = [np.array(start)], np.zeros(14), None
    for target in targets:
        rows.append(limits.next(rows[-1], moved, target, 0.0 if last is None else target - last))
        moved, last = rows[-1] - rows[-2], target
    return np.stack(rows)


def test_acceleration_by_hand():
    target = np.array(START_JOINTS)
    target[0] = 1.0
    path = travel(limiter(25.0), START_JOINTS, [target] * 5)  # 25 rad/s^2 is 0.01 rad per period squared
    np.testing.assert_allclose(np.diff(path[:, 0]), [0.01, 0.02, 0.03, 0.04, 0.04], atol=1e-12)


def test_a_joint_at_speed_stops_before_its_limit_by_hand():
    """With 0.01 rad per period squared, 0.03 rad in a period need 0.03 + 0.02 + 0.01 rad to the limit."""
    limits = limiter(25.0)
    where, moved = np.array(START_JOINTS), np.zeros(14)
    where[2], moved[2] = LIMITS.upper[2] - 0.06, 0.04
    target = where.copy()
    target[2] = 3.0
    steps = []
    for _ in range(5):
        position = limits.next(where, moved, target)
        where, moved = position, position - where
        steps.append(moved[2])
    np.testing.assert_allclose(steps, [0.03, 0.02, 0.01, 0.0, 0.0], atol=1e-12)
    assert where[2] == pytest.approx(LIMITS.upper[2], abs=1e-12)


def test_a_target_that_is_reached_later_is_not_overshot():
    target = np.array(START_JOINTS)
    target[0] = 0.333
    path = travel(limiter(25.0), START_JOINTS, [target] * 40)[:, 0]
    assert path.max() <= 0.333 and path[-1] == 0.333


def test_targets_that_keep_the_limits_are_followed_without_delay():
    limits, time = limiter(25.0), np.arange(300) * PERIOD
    targets = np.tile(START_JOINTS, (300, 1))
    targets[:, 0] = 0.4 * (1 - np.cos(5 * time))  # 2 rad/s and 10 rad/s^2 at most
    np.testing.assert_array_equal(travel(limits, START_JOINTS, targets)[1:], targets)


def test_without_an_acceleration_limit_targets_are_moved_as_in_training():
    targets = np.random.default_rng(0).uniform(-3, 3, (200, 14))
    path = travel(JointLimiter(LIMITS, PERIOD), START_JOINTS, targets)
    np.testing.assert_array_equal(path[1:], LIMITS.apply(START_JOINTS, targets, PERIOD))


def test_what_the_braking_path_says_is_what_braking_does():
    limits, moved = limiter(25.0), np.zeros(14)
    moved[0] = 0.035
    path = limits.braking_path(START_JOINTS, moved)
    np.testing.assert_allclose(np.diff(path[:, 0]), [0.025, 0.015, 0.005], atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(arrays(np.float64, 14, elements=st.floats(-4, 4)), st.integers(1, 12)), min_size=1,
                max_size=8), st.floats(1.0, 300.0), st.floats(0.0, 1.0))
def test_no_sequence_of_targets_breaks_position_speed_or_acceleration(targets, acceleration, scale):
    limits = limiter(acceleration)
    where, moved, last = np.array(START_JOINTS), np.zeros(14), START_JOINTS
    for target, times in targets:
        for _ in range(times):
            drift, last = target - last, target
            position = limits.next(where, moved, target, drift, scale)
            step = position - where
            assert (position >= LIMITS.lower).all() and (position <= LIMITS.upper).all()
            assert (np.abs(step) <= LIMITS.speed * PERIOD + 1e-12).all()
            assert (np.abs(step - moved) <= limits.change + 1e-12).all()
            where, moved = position, step


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, 14, elements=st.floats(-4, 4)), st.floats(5.0, 300.0))
def test_a_constant_target_is_reached_or_its_limit(target, acceleration):
    path = travel(limiter(acceleration), START_JOINTS, [target] * 250)
    np.testing.assert_allclose(path[-1], np.clip(target, LIMITS.lower, LIMITS.upper), atol=1e-12)


def test_the_window_that_keeps_a_jerk_by_hand():
    assert window_for(jerk=5000.0, acceleration=100.0, period_s=0.02) == 2
    assert window_for(jerk=4999.0, acceleration=100.0, period_s=0.02) == 3
    assert window_for(jerk=1e6, acceleration=100.0, period_s=0.02) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(1, 6))
def test_averages_foreseen_are_those_that_come(values, window):
    rows = np.array(values)[:, None]
    foreseeing, average = MovingAverage(window), MovingAverage(window)
    for one in (foreseeing, average):
        one.start(np.zeros(1))
    seen = foreseeing.foresee(rows)
    came = [average.push(row) for row in [*rows, *[rows[-1]] * (window - 1)]]
    np.testing.assert_allclose(np.stack(came), seen, atol=1e-12)
    assert came[-1] == rows[-1], 'it ends where its input stands, to the last bit'
