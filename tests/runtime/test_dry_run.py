"""A dry run: commands are computed and limited while the arms stand still, and what stops real arms stops it too."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import AWAY, Rig, S

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.runtime.controller_config import ArmState


@pytest.fixture
def rig():
    """Arms away from home that no command reaches."""
    rig = Rig(AWAY, log_only=True)
    rig.follow = False
    rig.tick()
    return rig


def test_homing_and_policy_run_though_the_arms_stand_still(rig):
    rig.enter(ArmState.HOMING)
    rig.tick(200)
    assert rig.core.state is ArmState.HOLD and 'home' in rig.core.reason and rig.core.at_home
    np.testing.assert_allclose(rig.core.filter.command, START_JOINTS, atol=1e-6)
    np.testing.assert_array_equal(rig.core.joints.value, AWAY, 'what is measured is said as it is')
    target = np.array(START_JOINTS)
    target[0] += 0.02
    rig.enter(ArmState.POLICY)
    assert rig.chunk(target)
    for _ in range(3):
        command = rig.tick()
    assert rig.core.state is ArmState.POLICY
    np.testing.assert_allclose(command, target, atol=1e-6)


def test_targets_keep_the_limits(rig):
    rig.enter(ArmState.POLICY)
    before = rig.core.filter.command
    far = np.array(AWAY)
    far[0] += 1.0
    assert rig.chunk(far)
    command = rig.tick()
    assert 0 < command[0] - before[0] <= 2.0 * 0.02 + 1e-9


def test_lost_joint_states_hold_as_ever(rig):
    rig.enter(ArmState.POLICY)
    rig.joints_stamp = rig.now
    rig.now += S
    assert rig.tick() is None
    assert rig.core.state is ArmState.HOLD and 'joint states are' in rig.core.reason


def test_without_it_arms_that_do_not_follow_end_no_homing():
    rig = Rig(AWAY)
    rig.follow = False
    rig.tick()
    rig.enter(ArmState.HOMING)
    rig.tick(200)
    assert 'homing ended off the start pose' in rig.core.reason
