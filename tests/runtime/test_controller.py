"""The controller's state machine, transition by transition."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import AWAY, PERIOD_NS, Rig, S, near

from fpo_ros.policy.contract import GRIPPER_COLUMNS, START_JOINTS, PolicyContract
from fpo_ros.runtime.controller import ArmControllerCore
from fpo_ros.runtime.controller_config import ArmState, ControllerConfig


@pytest.fixture
def rig():
    rig = Rig()
    rig.tick()
    return rig


def test_idle_sends_nothing(rig):
    assert rig.tick() is None and rig.core.state is ArmState.IDLE
    assert not rig.chunk(near(0.01))
    assert 'not following a policy (state IDLE)' in rig.core.chunks.last_refusal


@pytest.mark.parametrize('state', [ArmState.HOMING, ArmState.POLICY, ArmState.HOLD])
def test_the_first_command_is_the_measured_pose(state):
    rig = Rig(AWAY)
    rig.tick()
    np.testing.assert_array_equal(rig.enter(state), AWAY)
    assert rig.core.state is state


@pytest.mark.parametrize('state', [ArmState.HOMING, ArmState.POLICY, ArmState.HOLD])
def test_arms_moved_by_hand_between_request_and_tick_are_taken_over_where_they_are(rig, state):
    assert rig.core.request(state)[0]
    rig.joints = np.array(AWAY)
    np.testing.assert_array_equal(rig.tick(), AWAY)


@pytest.mark.parametrize('state', [ArmState.HOMING, ArmState.POLICY, ArmState.HOLD])
def test_no_takeover_without_joint_states(state):
    core = ArmControllerCore(PolicyContract())
    assert core.request(state) == (False, f'cannot enter {state.name}: no joint states received yet')
    assert core.tick(1, None, None) is None
    assert not core.request(state)[0] and core.state is ArmState.IDLE


def test_joint_states_lost_between_request_and_tick_end_in_idle(rig):
    assert rig.core.request(ArmState.POLICY)[0]
    rig.joints = np.full(14, np.nan)
    assert rig.tick() is None
    assert rig.core.state is ArmState.IDLE
    assert rig.core.reason == 'takeover failed: joint states are implausible: left_waist is nan'


def test_unknown_states_are_refused(rig):
    granted, why = rig.core.request(9)
    assert not granted and 'unknown state 9: use 0 IDLE' in why


def test_homing_opens_the_grippers_ramps_home_within_its_speed_and_then_holds():
    rig = Rig(AWAY, homing_joint_speed=1.0)
    rig.tick()
    path = [rig.enter(ArmState.HOMING)]
    while rig.core.state is ArmState.HOMING:
        path.append(rig.tick())
        assert len(path) < 200
    speeds = np.abs(np.diff(path, axis=0)) / 0.02
    arms = [column for column in range(14) if column not in GRIPPER_COLUMNS]
    # Grippers open by 0.9 strokes at a peak of 2/s: 15/8 * 0.45 s = 43 periods. Then 0.5 rad at a peak of
    # 1 rad/s: 15/8 * 0.5 s = 0.9375 s = 47 periods. They stand still for 5 periods in all.
    assert 0.95 < speeds[:, arms].max() <= 1.0 and speeds.max() <= 2.0
    assert 89 <= len(path) <= 98
    assert np.array_equal(path[40][arms], path[0][arms]) and path[43][6] == pytest.approx(1.0, abs=1e-3)
    assert speeds[0].max() < 0.05 and speeds[-1].max() < 0.05
    np.testing.assert_allclose(path[-1], START_JOINTS)
    assert (rig.core.state, rig.core.reason, rig.core.at_home) == (ArmState.HOLD, 'home reached', True)


def slow_gripper(settle_limit_s):
    """Return the gripper's error when homing ends, its finger covering a tenth of its way in each period."""
    rig = Rig(settle_limit_s=settle_limit_s)
    rig.tick()
    rig.follow = False
    command = rig.enter(ArmState.HOMING)
    while rig.core.state is ArmState.HOMING:
        rig.joints = rig.joints + np.where(np.arange(14) == 6, 0.1, 1.0) * (command - rig.joints)
        command = rig.tick()
    assert (rig.core.state, rig.core.reason) == (ArmState.HOLD, 'home reached')
    return abs(rig.joints[6] - START_JOINTS[6])


def test_home_is_reached_when_the_grippers_have_come_to_rest():
    assert slow_gripper(settle_limit_s=2.0) < 0.02  # 0.2 would be near enough
    assert 0.02 < slow_gripper(settle_limit_s=0.02) < 0.2  # no longer than the limit


def test_homing_tells_which_joint_did_not_arrive():
    rig = Rig(AWAY, settle_limit_s=0.5)
    rig.tick()
    rig.follow = False
    rig.enter(ArmState.HOMING)
    rig.tick(150)
    assert rig.core.state is ArmState.HOLD and not rig.core.at_home
    assert rig.core.reason == 'homing ended off the start pose: left_waist at 0.500 instead of 0.000'


def test_rows_are_sent_one_per_tick_then_the_last_is_held(rig):
    np.testing.assert_array_equal(rig.enter(ArmState.POLICY), START_JOINTS)
    chunk = np.stack([near(0.001 * k) for k in (1, 2, 3, 4)])
    assert rig.core.remaining == 0
    assert rig.chunk(chunk[0], chunk=chunk)
    assert rig.core.remaining == 3
    for row in range(3):
        np.testing.assert_array_equal(rig.tick(), chunk[row])
    for _ in range(5):  # row 4 of 4 is not executed
        np.testing.assert_array_equal(rig.tick(), chunk[2])
    assert rig.core.state is ArmState.POLICY and rig.core.remaining == 0


def test_a_distant_target_is_approached_at_limited_speed_after_a_ramp(rig):
    rig.enter(ArmState.POLICY)
    positions = [START_JOINTS[0]]
    for _ in range(3):
        assert rig.chunk(near(1.0))
        positions += [rig.tick()[0] for _ in range(3)]
    # 2 rad/s * 0.02 s = 0.04 rad; ramp of 5: sixths
    np.testing.assert_allclose(np.diff(positions), 0.04 * np.minimum(1, np.arange(1, 10) / 6))
    assert rig.core.filter.projected == 9


def test_chunks_before_the_takeover_tick_are_refused(rig):
    rig.core.request(ArmState.POLICY)
    assert not rig.chunk(near(0.1))
    assert 'has not taken the arms over yet' in rig.core.chunks.last_refusal
    rig.tick()
    assert rig.chunk(near(0.1))


def test_a_chunk_computed_before_the_takeover_is_refused(rig):
    rig.enter(ArmState.POLICY)
    assert not rig.chunk(near(0.1), observation_stamp_ns=rig.now - 1)
    assert 'before the policy took over' in rig.core.chunks.last_refusal


def test_a_new_policy_starts_from_the_current_target_and_ramps(rig):
    rig.enter(ArmState.POLICY)
    for _ in range(3):
        rig.chunk(near(0.5))
        command = rig.tick(3)
    rig.version = 'v2'
    assert rig.chunk(near(-0.5))
    np.testing.assert_array_equal(rig.tick(), command)
    moves = np.diff([command[0], rig.tick()[0], rig.tick()[0]])
    np.testing.assert_allclose(moves, [-0.04 / 6, -0.04 * 2 / 6])
    assert rig.core.remaining == 1, 'the first row was not skipped'


def test_chunks_that_come_late_in_real_time_make_no_jump(rig):
    """Chunks of one smooth path, each a period late, are executed as if there were no delay."""
    rig.enter(ArmState.POLICY)

    def path(period):
        return near(0.01 * period)

    commands, asked = [], {}
    for period in range(14):
        if period % 2 == 0:
            asked[period + 1] = (rig.now, np.stack([path(period - 1 + row) for row in range(4)]))
        if period in asked:
            stamp, chunk = asked[period]
            assert rig.chunk(None, chunk=chunk, observation_stamp_ns=stamp + 1, joining=1)
        commands.append(rig.tick()[0])
    np.testing.assert_allclose(np.diff(commands[8:]), 0.01, atol=1e-6)


def test_a_new_policy_joined_in_real_time_starts_from_the_current_target_too(rig):
    rig.enter(ArmState.POLICY)
    rig.chunk(near(0.02))
    command = rig.tick(2)
    rig.version = 'v2'
    assert rig.chunk(near(0.5), joining=1)
    np.testing.assert_array_equal(rig.tick(), command)
    assert rig.core.remaining == 2, 'its first row lapsed meanwhile'


def test_a_silent_policy_ends_in_hold(rig):
    rig.enter(ArmState.POLICY)
    rig.chunk(near(0.01))
    command = rig.tick(3)
    rig.tick(100)
    assert rig.core.state is ArmState.POLICY
    np.testing.assert_array_equal(rig.tick(), command)
    assert rig.core.state is ArmState.HOLD
    assert rig.core.reason == 'no chunk for 2.0 s (newest 1)'
    assert not rig.chunk(near(0.01))


def test_a_slow_policy_is_no_silent_one(rig):
    rig.enter(ArmState.POLICY)
    for _ in range(3):
        rig.tick(90)
        assert rig.chunk(near(0.01))
        rig.tick(3)
    assert rig.core.state is ArmState.POLICY


def test_a_policy_that_sends_nan_is_refused_and_the_arms_hold(rig):
    rig.enter(ArmState.POLICY)
    before = rig.tick()
    for _ in range(101):
        bad = np.tile(near(0.1), (4, 1))
        bad[1, 3] = np.nan
        assert not rig.chunk(None, chunk=bad)
        np.testing.assert_array_equal(rig.tick(), before)
    assert rig.core.state is ArmState.HOLD
    assert 'newest refusal: action chunk is not finite: row 1, left_forearm_roll is nan' in rig.core.reason
    assert rig.core.chunks.refused == 101


@pytest.mark.parametrize('state', [ArmState.HOMING, ArmState.POLICY])
def test_old_joint_states_stop_all_motion(state):
    rig = Rig(AWAY)
    rig.tick()
    rig.enter(state)
    rig.chunk(near(0.5))
    rig.tick()
    rig.joints_stamp = rig.now
    command = rig.tick(12)
    assert rig.core.state is state
    assert rig.tick() is None, 'the servos hold by themselves; a driver that comes back must not find an old goal'
    assert rig.core.state is ArmState.HOLD
    assert rig.core.reason == 'joint states are 0.26 s old, the limit is 0.25 s'
    assert not rig.core.at_home and rig.tick(10) is None
    rig.joints_stamp = None
    np.testing.assert_array_equal(rig.tick(), command)


@pytest.mark.parametrize('joints, message', [
    (np.full(14, -np.pi), 'implausible: left_shoulder reads -3.142'),
    (np.full(14, np.nan), 'implausible: left_waist is nan'),
    (np.zeros(13), r'expected 14 numbers'),
    (None, 'no joint states received yet'),
])
def test_unusable_joint_states_stop_all_motion(rig, joints, message):
    rig.enter(ArmState.POLICY)
    rig.chunk(near(0.02))
    command = rig.tick()
    rig.follow, rig.joints = False, joints
    assert rig.tick() is None
    assert rig.core.state is ArmState.HOLD and message in rig.core.reason
    rig.joints = command
    np.testing.assert_array_equal(rig.tick(), command)


def test_a_clock_that_jumps_back_stops_all_motion(rig):
    rig.enter(ArmState.POLICY)
    rig.chunk(near(0.5))
    command = rig.tick()
    rig.joints_stamp = rig.now
    rig.now -= 10 * S
    assert rig.tick() is None
    np.testing.assert_array_equal(rig.core.filter.command, command)
    assert rig.core.state is ArmState.HOLD and 'in the future' in rig.core.reason
    assert rig.core.summary().clock_jumps == 1


def test_a_paused_control_loop_abandons_the_chunk(rig):
    rig.enter(ArmState.POLICY)
    rig.chunk(near(0.5))
    command = rig.tick()
    rig.now += S
    np.testing.assert_array_equal(rig.tick(), command)
    assert rig.core.state is ArmState.POLICY and rig.core.remaining == 0
    assert '2 rows of chunk 1 abandoned' in rig.core.chunks.last_refusal
    assert rig.chunk(near(0.5))
    assert rig.tick()[0] > command[0]


def test_hold_repeats_the_current_target_not_the_lagging_arms(rig):
    rig.enter(ArmState.POLICY)
    rig.follow = False
    rig.chunk(near(0.5))
    command = rig.tick(3)
    np.testing.assert_array_equal(rig.enter(ArmState.HOLD), command)
    np.testing.assert_array_equal(rig.enter(ArmState.POLICY), command)


def test_arms_that_left_their_target_are_taken_over_where_they_are_but_keep_their_grip(rig):
    rig.enter(ArmState.HOLD)
    rig.follow = False
    fallen = np.array(START_JOINTS)
    fallen[1] = -1.5
    fallen[[6, 13]] = 0.5
    rig.joints = fallen
    command = rig.enter(ArmState.POLICY)
    np.testing.assert_array_equal(command[[6, 13]], START_JOINTS[[6, 13]])
    assert command[1] == -1.5


def test_hold_is_granted_without_joint_states_once_a_target_stands(rig):
    rig.enter(ArmState.POLICY)
    command, rig.joints_stamp = rig.tick(), rig.now - S
    assert rig.tick() is None and rig.core.state is ArmState.HOLD
    assert rig.core.request(ArmState.HOLD) == (True, '')
    granted, why = rig.core.request(ArmState.POLICY)
    assert not granted and 'joint states are' in why
    rig.joints_stamp = None
    np.testing.assert_array_equal(rig.tick(), command)


def test_what_goes_wrong_while_the_arms_hold_is_said(rig):
    rig.enter(ArmState.HOLD)
    assert (rig.core.reason, rig.core.fault) == ('requested', '')
    rig.follow, rig.joints = False, np.full(14, -np.pi)
    assert rig.tick(2) is None
    assert rig.core.reason == rig.core.fault and 'left_shoulder reads -3.142' in rig.core.fault
    rig.joints = np.array(START_JOINTS)
    rig.tick(2)
    assert 'left_shoulder' in rig.core.fault, 'it stays said until a state is asked for'
    rig.enter(ArmState.POLICY)
    assert (rig.core.reason, rig.core.fault) == ('requested', '')


@pytest.mark.parametrize('way, fault', [('asked', False), ('asked for a fault', True), ('home', False),
                                        ('blocked', True), ('starved', True)])
def test_arms_that_hold_for_a_fault_are_told_from_those_that_were_asked_to(way, fault):
    rig = Rig(START_JOINTS, lead_limit=0.3)
    rig.tick()
    rig.enter(ArmState.HOMING if way == 'home' else ArmState.POLICY)
    if way.startswith('asked'):
        assert rig.core.request(ArmState.HOLD, 'because', fault=fault)[0]
    rig.follow = way != 'blocked'
    for _ in range(300):
        if way == 'blocked' and rig.core.state is ArmState.POLICY:
            rig.chunk(near(0.8))
        rig.tick()
    assert rig.core.state is ArmState.HOLD
    assert bool(rig.core.fault) is fault and rig.core.fault in ('', rig.core.reason)


def test_ten_cycles_through_all_states_end_where_they_began():
    rig = Rig(AWAY)
    rig.tick()
    for cycle in range(10):
        rig.enter(ArmState.HOMING)
        while rig.core.state is ArmState.HOMING:
            rig.tick()
        assert rig.core.reason == 'home reached', cycle
        np.testing.assert_allclose(rig.enter(ArmState.POLICY), START_JOINTS)
        rig.sequence, rig.version = 0, f'v{cycle % 2}'
        for _ in range(5):
            assert rig.chunk(near(0.3)), rig.core.chunks.last_refusal
            rig.tick(3)
        assert rig.joints[0] > 0.2
        rig.enter(ArmState.HOLD)
        assert rig.core.teleoperation.offer(near(0.3), rig.now), rig.core.teleoperation.last_refusal
        rig.enter(ArmState.TELEOP)
        for _ in range(10):
            assert rig.core.teleoperation.offer(near(0.25), rig.now), rig.core.teleoperation.last_refusal
            rig.tick()
        assert rig.core.state is ArmState.TELEOP
        rig.enter(ArmState.PARKING)
        while rig.core.state is ArmState.PARKING:
            rig.tick()
        assert rig.core.reason == 'parked', cycle
        rig.core.emergency_stop(True)
        rig.core.emergency_stop(False)
        assert rig.tick() is None
        assert rig.core.reset_emergency_stop()[0]
        rig.enter(ArmState.IDLE)
    assert (rig.core.chunks.accepted, rig.core.chunks.refused) == (50, 0)


@pytest.mark.parametrize('setting', [
    {'joint_age_limit_s': 0.0}, {'starve_limit_s': float('nan')}, {'homing_joint_speed': -1.0},
    {'settle_limit_s': float('inf')}, {'ramp_periods': -1}, {'home': np.zeros(13)}])
def test_unusable_settings_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ControllerConfig(**setting)


def test_grippers_that_measure_beyond_open_have_arrived():
    """They do where a calibration is a little off."""
    rig = Rig()
    rig.tick()
    rig.core.request(ArmState.PARKING)
    for _ in range(400):
        rig.now += PERIOD_NS
        measured = np.array(rig.joints)
        measured[list(GRIPPER_COLUMNS)] *= 1.29
        command = rig.core.tick(rig.now, measured, rig.now)
        if command is not None:
            rig.joints = np.array(command)
    assert rig.core.reason == 'parked'
