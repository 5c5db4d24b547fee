"""The whole filter: margins, steps, jerk, TCP speed, workspace and clearances, on a cell made of two points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.geometry import Look
from fpo_ros.runtime.safety import SafetyFilter
from fpo_ros.runtime.safety_config import SafetyConfig, inside_registers, per_column

PERIOD = 0.02
LIMITS = JointLimits()
ANYTHING = arrays(np.float64, 14, elements=st.one_of(st.floats(-4, 4), st.floats()))
WRONG = st.one_of(arrays(np.float32, st.sampled_from([(0,), (13,), (2, 7)])), st.none(), st.just('abc'))


class Rails:
    """Two tools on one rail: the left one at its waist's angle ahead, the right one from 1 m on, both in metres.

    A wall stands at y = shoulder: nothing of it but the workspace is tested.
    """

    names = ['left tool and right tool']
    leverage = per_column(1.0, 0.0)
    smallest = 0.1

    def look(self, joints):
        tools = np.array([[joints[0], joints[1], 0.0], [joints[7], joints[8], 0.0]])
        gap = 1.0 - joints[0] - joints[7] - 0.1
        return Look(tools, np.array([gap]), gap)


BOX = np.array([[-4.0, -1.2, -1.0], [4.0, 0.5, 1.0]])


def started(start=START_JOINTS, **config):
    safety = SafetyFilter(LIMITS, PERIOD, SafetyConfig(**{'workspace': BOX, 'tcp_speed': 0.0} | config), Rails())
    safety.start(start)
    return safety


def aim(**columns):
    target = np.array(START_JOINTS)
    for name, value in columns.items():
        target[{'left': 0, 'lift': 1, 'right': 7, 'grip': 6}[name]] = value
    return target


def follow(safety, target, periods=200, ahead=None):
    return np.stack([safety.step(target, ahead) for _ in range(periods)])


def test_position_limits_keep_their_margin_to_the_registers_of_the_servos():
    limits = inside_registers(LIMITS, 0.01)
    counts = np.round(limits.upper[[1, 2, 4]] / (2 * np.pi / 4096) + 2048, 1)
    np.testing.assert_allclose(counts, np.array([2867, 3094, 3504]) - 0.01 / (2 * np.pi / 4096), atol=0.06)
    assert limits.lower[1] == pytest.approx((841 - 2048) * 2 * np.pi / 4096 + 0.01)
    assert (limits.lower[6], limits.upper[6]) == (0.0, 1.0)


def test_the_largest_step_holds_where_the_speed_limit_is_set_too_high():
    safety = SafetyFilter(JointLimits(speed=per_column(10.0, 10.0)), PERIOD, SafetyConfig(max_step=0.05))
    safety.start(START_JOINTS)
    assert safety.step(aim(left=1.0))[0] == pytest.approx(0.05)
    assert safety.acted == {'step': 1} and '(step limit)' in safety.last_projection


def test_arms_stop_at_the_clearance_and_say_why():
    safety = started(acceleration=25.0)
    path = follow(safety, aim(left=2.0))
    assert 0.88 < path[-1, 0] <= 0.9 + 1e-8, 'they come as near as 0.1 m, and hardly less'
    assert (np.abs(np.diff(path[:, 0], 2)) <= 0.01 + 1e-12).all(), 'they brake before it'
    assert safety.acted['clearance'] and safety.blocked
    assert 'clearance: left tool and right tool would come too close' in safety.last_projection


def test_arms_that_start_inside_a_clearance_may_leave_it_but_not_go_farther_in():
    safety = started(aim(left=0.95))
    np.testing.assert_array_equal(safety.step(aim(left=0.96)), aim(left=0.95))
    assert safety.step(aim(left=0.93))[0] == 0.93
    assert safety.step(aim(left=0.94))[0] == 0.93


def test_parts_that_would_jump_through_each_other_in_one_period_are_held():
    class Thin(Rails):
        def look(self, joints):
            look = super().look(joints)
            gap = abs(joints[0] + joints[7] - 1.0) - 0.01
            return Look(look.tools, np.array([gap]), gap)

        smallest = 0.01

    safety = SafetyFilter(JointLimits(speed=per_column(3.0, 4.0)), PERIOD, SafetyConfig(tcp_speed=0.0, workspace=BOX),
                          Thin())
    safety.start(aim(left=0.97))
    command = safety.step(aim(left=1.03))
    assert command[0] <= 0.99 + 1e-9


def test_rows_ahead_slow_the_arms_down_before_they_are_due():
    safety = started()
    free = safety.step(aim(left=0.02))[0]
    rows = np.stack([aim(left=0.04), aim(left=2.0), aim(left=2.0), aim(left=2.0)])
    assert free == 0.02
    slowed = safety.step(aim(left=0.06), rows)[0] - free
    assert slowed == pytest.approx(0.04 * 2 / 5), 'the second of four rows may not be gone to: two fifths of the step'
    assert safety.acted['clearance'] == 1


def test_tcp_speed_holds_for_both_arms_alike():
    safety = started(reduced=True, tcp_speed=2.0)
    path = follow(safety, aim(left=0.3, right=-0.15), 40)
    steps = np.abs(np.diff(path, axis=0))
    assert steps[:, 0].max() <= 0.25 * PERIOD + 1e-9 and steps[:, 0].max() > 0.24 * PERIOD
    moving = steps[:, 0] > 1e-3
    assert safety.acted['TCP speed'] and not safety.blocked
    assert (steps[moving, 7] <= 0.25 * PERIOD + 1e-9).all()


def test_the_workspace_holds_the_tool():
    safety = started()
    path = follow(safety, aim(lift=1.0), 100)
    assert 0.45 < path[-1, 1] <= 0.5 + 1e-9
    assert 'workspace: the left tool would leave it in y' in safety.last_projection


def test_targets_outside_are_refused_where_that_is_configured():
    safety = started(on_violation='refuse', acceleration=50.0)
    np.testing.assert_array_equal(safety.step(aim(left=3.5)), START_JOINTS)
    assert safety.last_refusal == 'left_waist: target 3.5000 lies outside the position limits -3.1316..3.1301'
    assert safety.step(aim(grip=-0.1))[6] < START_JOINTS[6] and safety.refused == 1, 'a gripper squeezes'
    assert safety.step(aim(left=0.5))[0] > 0, 'what is merely too fast is projected'
    path = follow(safety, aim(left=2.0), 100)
    assert path[:, 0].max() <= 0.9 + 1e-8 and 'clearance' in safety.last_refusal and safety.acted['clearance']


def test_a_jerk_limit_is_kept_and_the_target_reached():
    safety = SafetyFilter(LIMITS, PERIOD, SafetyConfig(acceleration=50.0, jerk=1000.0))
    safety.start(START_JOINTS)
    path = np.concatenate([[START_JOINTS] * 3, follow(safety, aim(left=0.7), 80)])
    assert np.abs(np.diff(path, 3, axis=0)[:, :6]).max() / PERIOD ** 3 <= 1000.0 * (1 + 1e-6)
    np.testing.assert_array_equal(path[-1], aim(left=0.7))


def test_without_a_target_the_arms_brake_as_fast_as_they_may():
    safety = SafetyFilter(LIMITS, PERIOD, SafetyConfig(acceleration=25.0))
    safety.start(START_JOINTS)
    safety.finish()
    for _ in range(4):
        moving = safety.step(aim(left=1.0))
        safety.finish()
    rest = [moving[0], *(safety.finish()[0] for _ in range(5))]
    np.testing.assert_allclose(np.diff(rest), [0.03, 0.02, 0.01, 0, 0], atol=1e-12)


def test_kept_grippers_move_although_nothing_is_asked():
    safety = SafetyFilter(LIMITS, PERIOD, SafetyConfig())
    safety.start(aim(grip=0.0))
    safety.finish()
    safety.keep_grippers(np.array([0.3, -np.inf]), np.full(2, np.inf))
    for _ in range(10):
        command = safety.finish()
    assert command[6] == 0.3 and command[13] == START_JOINTS[13]


@pytest.mark.parametrize('change, message', [
    ({'acceleration': -1.0}, 'acceleration must be 0 or more'), ({'max_step': 0.0}, 'max_step must be positive'),
    ({'on_violation': 'ask'}, 'use project or refuse'), ({'workspace': np.zeros((2, 3))}, 'workspace must be'),
    ({'jerk': float('nan')}, 'jerk must be 0 or more')])
def test_limits_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SafetyConfig(**change)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.one_of(ANYTHING, WRONG, st.just('brake')), st.integers(1, 8)), max_size=10),
       st.sampled_from([20.0, 100.0, 0.0]), st.sampled_from([0.0, 4000.0]), st.sampled_from([0.0, 0.8]),
       st.sampled_from(['project', 'refuse']))
def test_whatever_comes_in_no_command_breaks_any_limit(targets, acceleration, jerk, tcp_speed, on_violation):
    config = {'acceleration': acceleration, 'jerk': jerk, 'tcp_speed': tcp_speed, 'on_violation': on_violation}
    safety = started(**config)
    limits, change = safety.limits, (acceleration or 200.0) * PERIOD ** 2
    safety.finish()
    path = [np.array(START_JOINTS)] * 3
    for target, times in targets:
        for _ in range(times):
            if not isinstance(target, str) or target != 'brake':
                safety.step(target)
            command = safety.finish()
            assert command.shape == (14,) and np.isfinite(command).all()
            path.append(command)
    path = np.stack(path)
    arms = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert (path >= limits.lower).all() and (path <= limits.upper).all()
    assert (np.abs(np.diff(path, axis=0)) <= limits.speed * PERIOD + 1e-9).all()
    assert (np.abs(np.diff(path, 2, axis=0))[:, arms] <= change + 1e-9).all()
    if jerk:
        assert (np.abs(np.diff(path, 3, axis=0))[:, arms] <= jerk * PERIOD ** 3 + 1e-9).all()
    assert (path[:, 0] + path[:, 7] <= 0.9 + 1e-8).all()
    assert (path[:, [1, 8]] >= -1.2 - 1e-8).all() and (path[:, [1, 8]] <= 0.5 + 1e-8).all()
    if tcp_speed:
        for columns in ([0, 1], [7, 8]):
            strides = np.linalg.norm(np.diff(path[:, columns], axis=0), axis=1)
            assert (strides <= tcp_speed * PERIOD + 1e-7).all()
