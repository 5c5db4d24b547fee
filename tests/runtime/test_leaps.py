"""Readings that no motion explains are passed over, and do not become commands."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import PERIOD_NS, Rig, near
from hypothesis import given, settings
from hypothesis import strategies as st

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.runtime.leaps import MARGIN_RAD, Leaps


@pytest.fixture
def rig():
    rig = Rig(fastest_joint=np.pi)
    rig.tick(2)
    return rig


@pytest.mark.parametrize('state', [ArmState.HOMING, ArmState.POLICY, ArmState.HOLD], ids=lambda s: s.name)
def test_one_wrong_reading_is_no_command_and_ends_nothing(rig, state):
    rig.enter(state)
    rig.follow = False
    true = rig.joints
    rig.joints = near(-3.1)
    command = rig.tick()
    assert abs(command[0] - START_JOINTS[0]) < 0.1 and rig.core.state is state
    rig.joints = true
    rig.tick()
    assert rig.core.state is state and not rig.core.joints.problem


def test_arms_hold_and_are_sent_nothing_while_the_readings_stay_wrong(rig):
    rig.enter(ArmState.POLICY)
    rig.follow, rig.joints = False, near(-3.1)
    rig.tick(14)
    assert rig.core.state is ArmState.HOLD and rig.tick() is None
    assert 'left_waist leapt by 3.10 rad to -3.100' in rig.core.reason
    rig.joints = near(0.0)
    np.testing.assert_allclose(rig.tick(), START_JOINTS)


def test_arms_that_are_somewhere_else_are_believed_once_they_had_the_time_to_get_there(rig):
    rig.follow, rig.joints = False, near(1.0)
    rig.tick(10)
    assert rig.core.joints.value[0] == 0.0
    rig.tick(5)
    assert rig.core.joints.value[0] == 1.0 and not rig.core.joints.problem


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-np.pi, np.pi), min_size=1, max_size=40))
def test_no_motion_below_the_speed_is_ever_refused(speeds):
    leaps, joints = Leaps(np.pi), np.array(START_JOINTS)
    for period, speed in enumerate(speeds):
        joints = joints.copy()
        joints[4] += speed * PERIOD_NS * 1e-9
        assert leaps.problem(joints, period * PERIOD_NS) == ''


def test_grippers_may_leap_and_zero_believes_everything():
    leaps, away = Leaps(1.0), np.array(START_JOINTS)
    assert leaps.problem(away, 0) == ''
    away[6] = 1 - away[6]
    assert leaps.problem(away, 1) == ''
    away[3] += MARGIN_RAD + 0.01
    assert leaps.problem(away, 1).startswith('left_forearm_roll leapt by 0.21 rad')
    everything = Leaps(0.0)
    assert not everything.problem(away, 0) and not everything.problem(-away, 0)
