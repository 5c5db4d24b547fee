"""Where the arms are taken over: never by a leap to a target they have left."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import AWAY, PERIOD_NS, Rig, near

from fpo_ros.policy.contract import GRIPPER_COLUMNS, START_JOINTS
from fpo_ros.runtime.controller_config import ArmState


@pytest.fixture
def rig():
    rig = Rig()
    rig.tick()
    return rig


def test_arms_that_fell_while_their_driver_was_away_are_held_where_they_lie(rig):
    rig.enter(ArmState.HOLD)
    rig.joints_stamp = rig.now
    assert rig.tick(20) is None
    rig.joints_stamp, rig.joints = None, near(1.3)
    np.testing.assert_array_equal(rig.tick(), near(1.3))
    np.testing.assert_array_equal(rig.tick(10), near(1.3))


@pytest.mark.parametrize('state', [ArmState.HOLD, ArmState.POLICY])
def test_arms_whose_motors_were_off_do_not_leap_back_to_their_target(rig, state):
    command = rig.enter(state)
    fallen = near(0.51)
    fallen[6] = 0.9
    rig.follow, rig.joints = False, fallen
    held = rig.tick()
    assert held[0] == fallen[0] and held[6] == command[6], 'the arm stays where it is and keeps its grip'
    assert rig.core.state is ArmState.HOLD
    assert rig.core.reason.startswith('left_waist stands 0.51 rad from its target, the limit is 0.5 rad')
    np.testing.assert_array_equal(rig.tick(10), held)


def test_a_blocked_arm_stops_pressing_once_its_target_leads_too_far(rig):
    rig.enter(ArmState.POLICY)
    rig.follow = False
    leads = []
    while rig.core.state is ArmState.POLICY:
        rig.chunk(near(1.5))
        leads.append(rig.tick(3)[0] - rig.joints[0])
        assert len(leads) < 100
    assert max(leads) <= 0.5 and leads[-1] == 0.0


def test_homing_ends_where_the_clock_stands_still():
    rig = Rig(AWAY)
    rig.tick()
    rig.enter(ArmState.HOMING)
    command = rig.tick(5)
    rig.now -= PERIOD_NS
    np.testing.assert_array_equal(rig.tick(), command)
    assert (rig.core.state, rig.core.reason) == (ArmState.HOLD, 'the clock stands still or jumped back')


def test_the_first_command_keeps_the_grip_as_measured():
    gripping = np.array(START_JOINTS)
    gripping[list(GRIPPER_COLUMNS)] = 0.31, 1.1  # a calibration that is a little off
    rig = Rig(gripping)
    rig.tick()
    command = rig.enter(ArmState.HOLD)
    np.testing.assert_array_equal(command, np.clip(gripping, None, rig.core.filter.limits.upper))
