"""Operators take over without a bump, are followed, and are let go of when their leaders fall silent."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import Rig, near
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.controller_config import ArmState, ControllerConfig
from fpo_ros.runtime.teleoperation import Teleoperation


@pytest.fixture
def rig():
    rig = Rig(teleop_blend_s=0.2)
    rig.tick()
    return rig


def lead(rig, pose):
    assert rig.core.teleoperation.offer(pose, rig.now), rig.core.teleoperation.last_refusal


def operate(rig, pose, ticks=1):
    """Hold the leaders at a pose; return the commands of the left waist."""
    waists = []
    for _ in range(ticks):
        lead(rig, pose)
        waists.append(rig.tick()[0])
    return waists


def test_followers_go_on_from_their_command_and_end_at_the_leaders(rig):
    rig.enter(ArmState.HOLD)
    lead(rig, near(0.2))
    np.testing.assert_array_equal(rig.enter(ArmState.TELEOP), START_JOINTS)
    waists = operate(rig, near(0.2), 20)
    assert waists[-1] == 0.2 and waists[0] < 0.01
    assert (np.diff(waists) >= 0).all() and np.diff(waists).max() <= 0.04 + 1e-12


def test_leaders_are_followed_one_to_one_once_the_offset_has_faded(rig):
    lead(rig, START_JOINTS)
    rig.enter(ArmState.TELEOP)
    operate(rig, START_JOINTS, 15)
    for waist in (0.02, 0.05, 0.03):
        assert operate(rig, near(waist)) == [waist]


@pytest.mark.parametrize(('pose', 'why'), [
    (near(0.31), 'left_waist of the leader stands 0.31 rad from its follower, the limit is 0.3 rad'),
    (None, 'no pose of the leaders received yet')])
def test_leaders_that_are_not_with_their_followers_do_not_take_over(rig, pose, why):
    if pose is not None:
        lead(rig, pose)
    granted, reason = rig.core.request(ArmState.TELEOP)
    assert not granted and why in reason and rig.core.state is ArmState.IDLE


def test_silent_leaders_end_in_hold(rig):
    lead(rig, START_JOINTS)
    rig.enter(ArmState.TELEOP)
    command = operate(rig, near(0.05), 12)[-1]
    rig.tick(4)
    assert rig.core.state is ArmState.TELEOP
    held = rig.tick()
    assert rig.core.state is ArmState.HOLD and held[0] == command
    assert rig.core.reason.startswith('the pose of the leaders is 0.12 s old')


@pytest.mark.parametrize(('pose', 'why'), [
    (np.full(14, np.nan), 'not finite: left_waist is nan'), (START_JOINTS[:13], r'14 numbers, got shape \(13,\)'),
    (['a'] * 14, '14 numbers')])
def test_unusable_poses_are_refused_and_the_one_before_is_followed(rig, pose, why):
    lead(rig, START_JOINTS)
    rig.enter(ArmState.TELEOP)
    operate(rig, near(0.1), 15)
    assert not rig.core.teleoperation.offer(pose, rig.now)
    assert rig.core.teleoperation.refused == 1
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(rig.core.teleoperation.last_refusal)
    assert rig.tick()[0] == 0.1


def test_poses_that_come_out_of_order_are_refused(rig):
    lead(rig, START_JOINTS)
    assert not rig.core.teleoperation.offer(near(1.0), rig.now - 1_000_000)
    assert '0.001 s older than the one before' in rig.core.teleoperation.last_refusal


def test_takeover_of_a_running_policy_and_the_way_back_are_bumpless(rig):
    """Policy, operator, policy: no command differs from the one before by more than the speed limit allows."""
    rig.enter(ArmState.POLICY)
    commands = [START_JOINTS]
    rig.chunk(near(0.1))
    commands += [rig.tick() for _ in range(3)]
    lead(rig, near(0.25))
    commands.append(rig.enter(ArmState.TELEOP))
    np.testing.assert_array_equal(commands[-1], commands[-2], 'starts where the policy left the arms')
    for _ in range(20):
        lead(rig, near(0.25))
        commands.append(rig.tick())
    commands.append(rig.enter(ArmState.POLICY))
    np.testing.assert_array_equal(commands[-1], commands[-2], 'and the policy where the operator left them')
    assert rig.chunk(near(-0.3))
    commands += [rig.tick() for _ in range(3)]
    moves = np.abs(np.diff(np.array(commands), axis=0))
    assert (moves <= JointLimits().speed * 0.02 + 1e-12).all() and moves.max() > 0


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, 14, elements=st.floats(-0.3, 0.3)), st.integers(1, 60))
def test_the_offset_fades_without_overshoot(offset, periods):
    teleoperation = Teleoperation(ControllerConfig(teleop_blend_s=periods * 0.02), 0.02)
    teleoperation.offer(START_JOINTS, 0)
    teleoperation.begin(START_JOINTS + offset)
    path = np.stack([teleoperation.next() for _ in range(periods + 1)]) - START_JOINTS
    np.testing.assert_allclose(path[0], offset, atol=1e-12)
    np.testing.assert_allclose(path[-1], 0, atol=1e-12)
    assert (np.abs(path) <= np.abs(offset) + 1e-12).all()
    assert (np.diff(np.abs(path), axis=0) <= 1e-12).all()


def test_parked_arms_lie_at_the_park_pose_and_hold(rig):
    rig.core.request(ArmState.PARKING)
    for _ in range(400):
        rig.tick()
        if rig.core.state is ArmState.HOLD:
            break
    limits = rig.core.filter.limits
    assert rig.core.reason == 'parked'
    np.testing.assert_allclose(rig.core.filter.command, np.clip(rig.core.config.park, limits.lower, limits.upper))


def test_parking_that_is_blocked_says_which_joint(rig):
    rig.core.request(ArmState.PARKING)
    rig.tick(2)
    rig.follow = False
    rig.tick(300)
    assert rig.core.state is ArmState.HOLD and 'stands' in rig.core.reason


def test_leaders_that_leap_are_refused_and_their_followers_hold(rig):
    lead(rig, START_JOINTS)
    rig.enter(ArmState.TELEOP)
    operate(rig, START_JOINTS, 3)
    for _ in range(7):
        assert not rig.core.teleoperation.offer(near(-np.pi), rig.now)
        assert 'leader: left_waist leapt by 3.14 rad' in rig.core.teleoperation.last_refusal
        command = rig.tick()
    assert rig.core.state is ArmState.HOLD and abs(command[0]) < 0.01


def test_a_clock_that_was_set_back_is_followed(rig):
    teleoperation = rig.core.teleoperation
    assert teleoperation.offer(near(0.0), rig.now)
    assert not teleoperation.offer(near(0.0), rig.now - 10_000_000)
    assert teleoperation.offer(near(0.0), rig.now - 3600 * 10**9)
    assert 'limit' in teleoperation.silence(rig.now) and not teleoperation.silence(rig.now - 3600 * 10**9)
