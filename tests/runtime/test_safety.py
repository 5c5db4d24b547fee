"""No command leaves the filter outside the limits, whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.safety import SafetyFilter

LIMITS = JointLimits()
PERIOD = 0.02
STEP = LIMITS.speed * PERIOD
ANYTHING = arrays(np.float64, 14, elements=st.floats(allow_nan=True, allow_infinity=True, width=64))
WRONG = st.one_of(arrays(np.float32, st.sampled_from([(0,), (13,), (15,), (14, 1), (2, 7)])), st.none(),
                  st.just('abc'), st.just([None] * 14), st.just([1j] * 14))


def started(ramp_periods=0):
    safety = SafetyFilter(LIMITS, PERIOD)
    safety.start(START_JOINTS, ramp_periods)
    return safety


def test_a_target_inside_the_limits_passes_unchanged():
    safety = started()
    target = START_JOINTS + 0.5 * STEP * np.array([1, -1] * 7)
    np.testing.assert_array_equal(safety.step(target), target)
    assert (safety.projected, safety.refused, safety.last_projection) == (0, 0, '')


def test_speed_limit_by_hand():
    safety = started()
    target = np.array(START_JOINTS)
    target[0], target[6] = 1.0, 1.0
    command = safety.step(target)
    assert command[0] == pytest.approx(0.04)  # 2 rad/s for 0.02 s
    assert command[6] == pytest.approx(START_JOINTS[6] + 0.08)  # 4 /s for 0.02 s
    assert safety.projected == 1
    assert safety.last_projection == 'left_waist: target 1.0000 sent as 0.0400 (speed limit)'


def test_position_limit_by_hand():
    safety = SafetyFilter(LIMITS, PERIOD)
    joints = np.array(START_JOINTS)
    joints[2] = 1.6
    safety.start(joints)
    joints[2] = 1.7
    assert safety.step(joints)[2] == pytest.approx(1.6057)
    assert safety.last_projection == 'left_elbow: target 1.7000 sent as 1.6057 (position limit)'


def test_the_ramp_grows_the_speed_limit_linearly():
    safety = started(ramp_periods=3)
    target = np.array(START_JOINTS)
    target[0] = 3.0
    moves = np.diff([0.0, *(safety.step(target)[0] for _ in range(5))])
    np.testing.assert_allclose(moves, [0.01, 0.02, 0.03, 0.04, 0.04])


def test_start_commands_where_the_arms_stand_or_the_limit_beside_it():
    safety = SafetyFilter(LIMITS, PERIOD)
    np.testing.assert_array_equal(safety.start(START_JOINTS), START_JOINTS)
    sleeping = np.array(START_JOINTS)
    sleeping[1] = -2.05  # stock sleep pose of the shoulder
    assert safety.start(sleeping)[1] == -1.85005


@pytest.mark.parametrize('change, message', [
    ({1: -np.pi}, 'left_shoulder reads -3.142, far outside'),
    ({9: np.nan}, 'right_elbow is nan'),
    ({0: np.inf}, 'left_waist is inf'),
])
def test_impossible_measurements_are_not_taken_over(change, message):
    joints = np.array(START_JOINTS)
    for column, value in change.items():
        joints[column] = value
    safety = SafetyFilter(LIMITS, PERIOD)
    with pytest.raises(ValueError, match=message):
        safety.start(joints)
    assert safety.command is None


def test_a_failed_bus_read_is_implausible():
    assert 'left_shoulder' in SafetyFilter(LIMITS, PERIOD).implausible(np.full(14, -np.pi))


def test_nothing_passes_before_a_takeover():
    safety = SafetyFilter(LIMITS, PERIOD)
    with pytest.raises(RuntimeError, match='not taken over'):
        safety.step(START_JOINTS)
    safety.start(START_JOINTS)
    safety.let_go()
    with pytest.raises(RuntimeError, match='not taken over'):
        safety.step(START_JOINTS)


def test_commands_cannot_be_changed_afterwards():
    command = started().step(START_JOINTS)
    with pytest.raises(ValueError, match='read-only'):
        command[0] = 9.0


def test_the_period_must_be_positive():
    for period in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match='control period must be positive'):
            SafetyFilter(LIMITS, period)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(ANYTHING, WRONG), max_size=12), st.integers(0, 6))
def test_whatever_comes_in_no_command_violates_a_limit(targets, ramp_periods):
    safety = started(ramp_periods)
    last = safety.command
    for target in targets:
        refused = safety.refused
        command = safety.step(target)
        assert command.shape == (14,) and np.isfinite(command).all()
        assert (command >= LIMITS.lower).all() and (command <= LIMITS.upper).all()
        assert (np.abs(command - last) <= STEP + 1e-12).all()
        if safety.refused > refused:
            np.testing.assert_array_equal(command, last)
            assert safety.last_refusal
        else:
            assert np.shape(target) == (14,) and np.isfinite(np.asarray(target, float)).all()
        last = command


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, 14, elements=st.floats(-4, 4)))
def test_a_constant_target_is_reached_or_its_limit(target):
    safety = started()
    for _ in range(200):
        command = safety.step(target)
    np.testing.assert_allclose(command, np.clip(target, LIMITS.lower, LIMITS.upper), atol=1e-12)
