"""Faults of the simulated cell: each does what it says, and nothing else; files of them are checked key by key."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fpo_ros.hardware import xs
from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.twin.faults import Fault, FaultError, FaultState
from fpo_ros.sim.twin.physics import TwinPhysics
from fpo_ros.sim.twin.schedule import ScheduleError, load_schedule

ARM = 'follower_left'


@pytest.fixture
def cell() -> TwinPhysics:
    """The simulated cell with a camera."""
    return TwinPhysics('transfer_cube', cameras=('cam_high',))


def inject(cell: TwinPhysics, name: str, target: str = ARM, **values) -> None:
    cell.faults.inject(Fault(name, target, **values), cell.time_s)


def register(cell: TwinPhysics, name: str, motor: str, arm: str = ARM) -> int:
    return cell.arms[arm].get_registers('single', motor, name)[0]


def test_overload_latches_one_motor_until_its_reboot(cell) -> None:
    inject(cell, 'overload', motor='elbow')
    cell.step(500)
    assert register(cell, 'Hardware_Error_Status', 'elbow') == 0x20
    assert [register(cell, 'Torque_Enable', motor) for motor in xs.MOTORS] == [1, 1, 0, 1, 1, 1, 1]
    assert cell.measure(ARM).positions[2] > 1.3, 'the elbow falls'
    np.testing.assert_allclose(cell.follower('right').positions, START_JOINTS[7:], atol=0.02)
    list(cell.arms[ARM].torque_enable('single', 'elbow', True))
    assert register(cell, 'Torque_Enable', 'elbow') == 0
    assert list(cell.arms[ARM].reboot('single', 'elbow', True, False)) == [1.0, 0.01]
    cell.step(50)
    assert register(cell, 'Torque_Enable', 'elbow') == 1 and register(cell, 'Hardware_Error_Status', 'elbow') == 0


def test_smart_reboot_leaves_sound_motors_alone(cell) -> None:
    inject(cell, 'overload', motor='gripper')
    cell.step(5)
    assert sum(list(cell.arms[ARM].reboot('group', 'all', True, True))) == pytest.approx(1.01)
    assert cell.arms[ARM].motors.torque.all()


def test_overheating_warms_a_motor_up_to_its_shutdown(cell) -> None:
    inject(cell, 'overheating', motor='shoulder', value=100.0)
    cell.step(125)
    assert 45 <= register(cell, 'Present_Temperature', 'shoulder') <= 55 and register(cell, 'Torque_Enable', 'shoulder')
    cell.step(200)
    assert register(cell, 'Hardware_Error_Status', 'shoulder') == 0x04
    assert register(cell, 'Torque_Enable', 'shoulder') == 0 and register(cell, 'Present_Temperature', 'shoulder') == 80


@pytest.mark.parametrize(('value', 'wanted'), [(0.0, -math.pi), (1.0, math.nan)])
def test_failed_reads_are_minus_pi_or_nan_in_every_motor(cell, value, wanted) -> None:
    inject(cell, 'read_failure', value=value, duration=0.1)
    np.testing.assert_array_equal(cell.arms[ARM].read().position[:7], [wanted] * 7)
    assert cell.arms['follower_right'].read().position[1] == pytest.approx(-0.96, abs=0.01)
    cell.step(75)
    assert cell.arms[ARM].read().position[1] == pytest.approx(-0.96, abs=0.01), 'it ends after its duration'


def test_a_missing_motor_keeps_the_driver_from_starting_and_names_its_id(cell) -> None:
    inject(cell, 'missing_motor', motor='forearm_roll')
    with pytest.raises(ValueError, match=r'follower_left: motor forearm_roll \(ID 6\) does not answer'):
        cell.arms[ARM].ping()
    cell.arms['follower_right'].ping()


def test_a_motor_that_goes_missing_falls_and_fails_the_read_of_all(cell) -> None:
    inject(cell, 'missing_motor', motor='elbow')
    cell.step(250)
    assert cell.measure(ARM).positions[2] > 1.3
    assert cell.arms[ARM].read().position[:7] == [-math.pi] * 7
    assert register(cell, 'Torque_Enable', 'elbow') == 0
    inject(cell, 'clear')
    cell.step(5)
    assert cell.arms[ARM].read().position[2] > 1.3 and register(cell, 'Torque_Enable', 'elbow') == 0


def test_dropped_commands_are_the_share_that_was_asked_for(cell) -> None:
    inject(cell, 'dropped_commands')
    cell.arms[ARM].group('arm', [0.5, *START_JOINTS[1:6]])
    cell.step(250)
    assert cell.measure(ARM).positions[0] == pytest.approx(0.0, abs=1e-3)
    inject(cell, 'dropped_commands', value=0.3)
    taken = 0
    for count in range(1000):
        goal = 1e-4 * (count + 1)
        cell.arms[ARM].group('arm', [goal, *START_JOINTS[1:6]])
        taken += cell.arms[ARM].motors.goals[0] == goal
    assert 650 < taken < 750


def test_a_stalled_bus_reads_nothing_until_it_goes_on(cell) -> None:
    inject(cell, 'usb_stall', duration=0.5)
    assert cell.arms[ARM].read() is None and cell.arms['follower_right'].read() is not None
    cell.step(255)
    assert cell.arms[ARM].read() is not None


def test_camera_faults_and_clock_jumps_strike_what_they_name() -> None:
    state = FaultState(['follower_left', 'leader_left'], ['cam_high', 'cam_low'])
    state.inject(Fault('camera_frozen', 'cam_low'), 0.0)
    assert state.value('camera_frozen', 'cam_low') is not None and state.value('camera_frozen', 'cam_high') is None
    state.inject(Fault('clock_jump', value=-2.5, duration=1.0), 0.0)
    assert [state.value('clock_jump', name) for name in (*state.arms, *state.cameras)] == [-2.5] * 4
    assert state.in_force()[0] == 'camera_frozen cam_low'
    state.expire(1.0)
    assert state.value('clock_jump', 'cam_low') is None
    state.inject(Fault('clear', 'cam_low'), 1.0)
    assert state.in_force() == []


@pytest.mark.parametrize(('fault', 'key', 'why'), [
    (Fault('overlod'), 'fault', "did you mean 'overload'"),
    (Fault('overload', 'follower_lft'), 'target', "did you mean 'follower_left'"),
    (Fault('overload', 'cam_high'), 'target', "unknown target of overload 'cam_high'"),
    (Fault('overload', ARM, 'elbw'), 'motor', "did you mean 'elbow'"),
    (Fault('usb_stall', ARM, 'elbow'), 'motor', 'leave it empty'),
    (Fault('dropped_commands', value=1.5), 'value', '0 to 1'),
    (Fault('read_failure', value=0.5), 'value', r'0 \(-pi\) or 1 \(NaN\)'),
    (Fault('usb_stall', value=1.0), 'value', r'none \(0\)'),
    (Fault('clock_jump'), 'value', 'other than 0'),
    (Fault('usb_stall', duration=-1.0), 'duration', '0 .for ever. or more'),
    (Fault('overload', duration=1.0), 'duration', 'does not end by itself'),
    (Fault('usb_stall', duration=math.nan), 'duration', 'no duration')])
def test_faults_that_cannot_be_are_refused_with_the_argument(fault, key, why) -> None:
    with pytest.raises(FaultError, match=why) as caught:
        FaultState(['follower_left', 'follower_right'], ['cam_high']).inject(fault, 0.0)
    assert caught.value.key == key


def test_a_schedule_gives_each_fault_once_when_it_is_due(tmp_path, cell) -> None:
    file = tmp_path / 'faults.yaml'
    file.write_text('faults:\n  - {at: 2, fault: usb_stall, target: follower_right, duration: 0.5}\n'
                    '  - {at: 1.0, fault: overload, target: follower_left, motor: gripper}\n')
    schedule = load_schedule(file, cell.faults)
    assert schedule.due(0.9) == []
    assert schedule.due(1.0) == [Fault('overload', 'follower_left', 'gripper')]
    assert schedule.due(9.0) == [Fault('usb_stall', 'follower_right', duration=0.5)] and len(schedule) == 0


@pytest.mark.parametrize(('text', 'why'), [
    ('faults: [{at: 1, fault: overload, targt: follower_left}]', r"faults\[0\]\.targt: unknown key .*'target'"),
    ('faults: [{at: 1, fault: usb_stall}, {fault: usb_stall}]', r'faults\[1\]\.at: is missing'),
    ('faults: [{at: -1, fault: usb_stall}]', r'faults\[0\]\.at: must be 0 or more'),
    ('faults: [{at: soon, fault: usb_stall}]', r"faults\[0\]\.at: must be a number, got 'soon'"),
    ('faults: [{at: 1, fault: usb_stall, target: leader_left}]', r'faults\[0\]\.target: unknown target'),
    ('faults: [5]', r'faults\[0\] must hold keys'),
    ('fault: []', "must hold one key, 'faults'"),
    ('faults: [', 'no YAML file')])
def test_schedules_that_cannot_be_are_refused_with_the_key(tmp_path, cell, text, why) -> None:
    file = tmp_path / 'faults.yaml'
    file.write_text(text)
    with pytest.raises(ScheduleError, match=why):
        load_schedule(file, cell.faults)


def test_a_schedule_that_is_not_there_is_named(tmp_path, cell) -> None:
    with pytest.raises(ScheduleError, match='nothing.yaml: No such file'):
        load_schedule(tmp_path / 'nothing.yaml', cell.faults)
