"""Joint states that stay the same to the last bit while the arms should move."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import PERIOD_NS, Rig, S, near

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.runtime.frozen import FrozenJoints


@pytest.fixture
def rig():
    """A controller that follows a policy, with the default watch."""
    rig = Rig(frozen_distance=0.1)
    rig.tick()
    rig.enter(ArmState.POLICY)
    return rig


def test_frozen_joint_states_make_the_arms_hold_and_nothing_is_sent_until_they_change(rig):
    rig.follow, commands = False, []
    for _ in range(12):
        rig.chunk(near(1.0))
        commands.append(rig.tick())
    assert rig.core.state is ArmState.HOLD and commands[-1] is None
    assert rig.core.reason.startswith('joint states of the left arm did not change for 0.2')
    moved = [command[0] for command in commands if command is not None]
    assert 0.1 <= moved[-1] <= 0.45, 'it ends within 0.2 s and 0.1 rad, whichever is later'
    assert not rig.core.request(ArmState.HOMING)[0], 'where the arm is is not known'
    rig.joints = near(moved[-1] - 0.05)  # the driver goes on
    first = rig.tick()
    assert first[0] == moved[-1] and rig.core.joints.problem == ''
    assert rig.core.request(ArmState.HOMING)[0]


def test_arms_that_are_given_up_may_be_asked_to_move_again_and_hold_again(rig):
    rig.follow = False
    for _ in range(15):
        rig.chunk(near(1.0))
        rig.tick()
    assert rig.core.state is ArmState.HOLD
    assert rig.core.request(ArmState.IDLE)[0]
    rig.tick()
    assert rig.core.joints.problem == ''


def test_resting_and_following_arms_are_not_called_frozen(rig):
    rig.tick(200)
    assert rig.core.joints.problem == ''
    for _ in range(40):
        rig.chunk(near(0.6))
        rig.tick()
        assert rig.core.joints.problem == ''


def test_late_joint_states_are_not_called_frozen():
    watch, target = FrozenJoints(0.2, 0.1), START_JOINTS
    assert watch.problem(START_JOINTS, S, target) == ''
    for _ in range(50):
        assert watch.problem(START_JOINTS, S, near(1.0)) == '', 'their stamp says that none came'
    assert 'left arm' in watch.problem(START_JOINTS, S + S // 5, near(1.0))


def test_each_arm_is_watched_and_grippers_are_not():
    watch = FrozenJoints(0.2, 0.1)
    other, squeezing = np.array(START_JOINTS), np.array(START_JOINTS)
    other[9] += 0.2
    squeezing[[6, 13]] -= 0.5
    for target, wanted in ((squeezing, ''), (other, 'right arm')):
        watch.forget()
        watch.problem(START_JOINTS, S, START_JOINTS)
        assert wanted in watch.problem(START_JOINTS, 2 * S, target) and bool(wanted) == bool(
            watch.problem(START_JOINTS, 2 * S + PERIOD_NS, target))


def test_reason_names_what_was_refused_and_a_paused_loop():
    rig = Rig()
    rig.tick()
    rig.enter(ArmState.HOLD)
    rig.core.request(ArmState.HOMING)
    rig.tick()
    rig.joints_stamp, rig.core.joints.refused = rig.now, 'follower left: waist is nan'
    rig.tick(14)
    assert rig.core.state is ArmState.HOLD
    assert rig.core.reason.endswith('the limit is 0.25 s; newest refused: follower left: waist is nan')
    rig = Rig()
    rig.tick()
    rig.enter(ArmState.POLICY)
    rig.joints_stamp = rig.now
    rig.now += S
    rig.tick()
    assert 'joint states are 1.02 s old' in rig.core.reason
    assert 'the control loop paused or the clock jumped (1.02 s between two ticks)' in rig.core.reason
