"""Motors of the twin: limits, speed, modes, torque, registers, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fpo_ros.hardware import xs
from fpo_ros.sim.twin.motors import AMBIENT_C, OFF, POSITION, STALL_TORQUE, TORQUE, TORQUE_PER_AMPERE, Measured, Motors

REST = np.zeros(7)
TICK_S = 0.01


@pytest.fixture
def motors() -> Motors:
    """A follower at zero with its torque on."""
    out = Motors(xs.FOLLOWER, xs.FOLLOWER.linkage, REST)
    for index in range(7):
        out.set_torque(index, True, REST)
    return out


def seconds_to(motors: Motors, index: int, goal: float) -> float:
    """Return how long the reference of a motor needs to a goal [s]."""
    motors.advance(TICK_S, REST)
    assert motors.command(index, goal) == ''
    for tick in range(1, 2000):
        if motors.advance(TICK_S, REST).values[index] == goal:
            return tick * TICK_S
    raise AssertionError(f'{goal} rad was not reached in 20 s')


def measured(position: float = 0.0, torque: float = 0.0) -> Measured:
    return Measured(np.full(7, position), np.zeros(7), np.full(7, torque))


def test_a_far_goal_takes_as_long_as_the_velocity_limit_says(motors) -> None:
    assert seconds_to(motors, 0, 1.0) == pytest.approx(1.0 / 3.14, abs=0.02), '131 counts of 0.229 rpm are 3.14 rad/s'


def test_a_goal_within_the_speed_of_a_control_period_is_reached_at_once(motors) -> None:
    assert seconds_to(motors, 0, 0.06) == TICK_S
    assert motors.advance(TICK_S, REST).values[0] == 0.06


def test_profile_velocity_slows_down(motors) -> None:
    motors.set_mode(0, 'position', 'velocity', 63, 0)
    assert seconds_to(motors, 0, 0.755) == pytest.approx(0.5, abs=0.03), '63 x 0.229 rpm are 1.51 rad/s'


def test_profile_acceleration_starts_and_stops_gently(motors) -> None:
    motors.set_mode(0, 'position', 'velocity', 131, 15)  # 5.6 rad/s^2
    steps, last = [], 0.0
    motors.command(0, 1.0)
    for _ in range(200):
        value = motors.advance(TICK_S, REST).values[0]
        steps.append(value - last)
        last = value
    assert last == 1.0
    assert max(np.diff(steps)) <= 5.7 * TICK_S**2, 'never more than its acceleration'
    assert steps[0] < 0.001 and max(steps) < 3.14 * TICK_S


def test_time_profile_takes_its_time(motors) -> None:
    motors.set_mode(0, 'position', 'time', 2000, 500)
    assert motors.read(0, 'Drive_Mode', measured()) == 4
    assert seconds_to(motors, 0, 1.0) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize('model', [xs.FOLLOWER, xs.LEADER], ids=lambda model: model.name)
def test_every_joint_limit_of_the_urdf_is_within_the_position_limits(model) -> None:
    for (low, high), (lower, upper) in zip(model.counts, model.joints, strict=False):
        assert low <= xs.counts_of(lower) and xs.counts_of(upper) <= high


def test_goals_beyond_the_position_limits_are_ignored_and_explained(motors) -> None:
    motors.command(1, 0.5)
    assert '841..2867 counts' in motors.command(1, -2.05), 'the sleep pose lies outside'
    assert motors.goals[1] == 0.5
    motors.set_mode(1, 'ext_position', 'velocity', 0, 0)
    assert motors.command(1, -2.05) == ''


def test_goals_that_are_no_numbers_are_ignored(motors) -> None:
    assert motors.command(0, math.nan) and motors.command(0, math.inf)
    assert motors.goals[0] == 0.0


def test_current_mode_gives_torque_up_to_the_current_limit(motors) -> None:
    motors.set_mode(6, 'current', 'velocity', 0, 0)
    motors.command(6, 100.0)
    drive = motors.advance(TICK_S, REST)
    assert drive.kinds[6] == TORQUE and drive.values[6] == pytest.approx(0.1 * TORQUE_PER_AMPERE[6])
    motors.command(6, -5000.0)
    assert motors.advance(TICK_S, REST).values[6] == pytest.approx(-0.538 * TORQUE_PER_AMPERE[6]), '200 x 2.69 mA'


def test_pwm_mode_gives_a_share_of_the_stall_torque_and_brakes_by_back_emf(motors) -> None:
    motors.set_mode(6, 'pwm', 'velocity', 0, 0)
    motors.command(6, 250.0)
    drive = motors.advance(TICK_S, REST)
    assert drive.values[6] == pytest.approx(STALL_TORQUE[6] * 250 / 885) and drive.damping[6] > 0


def test_velocity_mode_runs_at_its_speed_and_waits_for_a_blocked_joint(motors) -> None:
    motors.set_mode(0, 'velocity', 'velocity', 0, 0)
    motors.command(0, 0.5)
    for _ in range(10):
        drive = motors.advance(TICK_S, REST)
    assert drive.values[0] == pytest.approx(0.05)
    for _ in range(1000):
        drive = motors.advance(TICK_S, REST)
    assert drive.values[0] == pytest.approx(0.2)


def test_current_based_position_has_the_torque_of_its_current_limit(motors) -> None:
    motors.set_mode(6, 'current_based_position', 'velocity', 0, 0)
    assert motors.advance(TICK_S, REST).limits[6] == pytest.approx(0.538 * TORQUE_PER_AMPERE[6])
    motors.write(6, 'Goal_Current', 50, REST)
    assert motors.advance(TICK_S, REST).limits[6] == pytest.approx(0.1345 * TORQUE_PER_AMPERE[6])
    motors.set_mode(6, 'position', 'velocity', 0, 0)
    assert math.isinf(motors.advance(TICK_S, REST).limits[6]), 'plain position mode has no limit'


def test_linear_position_is_the_distance_of_both_fingers(motors) -> None:
    motors.set_mode(6, 'linear_position', 'velocity', 0, 0)
    motors.command(6, 2 * xs.FOLLOWER.linkage.finger(1.0))
    assert motors.goals[6] == pytest.approx(1.0)


def test_no_torque_no_drive_and_torque_again_holds_where_it_is(motors) -> None:
    motors.command(0, 1.0)
    motors.set_torque(0, False, REST)
    assert motors.advance(TICK_S, REST).kinds[0] == OFF
    motors.set_torque(0, True, np.full(7, 0.3))
    drive = motors.advance(TICK_S, REST)
    assert drive.kinds[0] == POSITION and drive.values[0] == 0.3


def test_an_error_latches_until_the_reboot(motors) -> None:
    motors.latch(6, 'overload')
    assert motors.read(6, 'Hardware_Error_Status', measured()) == 0x20
    assert motors.read(6, 'Torque_Enable', measured()) == 0
    assert 'overload' in motors.set_torque(6, True, REST) and not motors.torque[6]
    motors.reboot(6, REST)
    assert not motors.errors[6] and not motors.torque[6] and motors.set_torque(6, True, REST) == ''


def test_reboot_forgets_ram_and_keeps_eeprom(motors) -> None:
    motors.torque[:] = False
    motors.write(6, 'Current_Limit', 300, REST)
    motors.set_mode(6, 'current_based_position', 'velocity', 105, 0)
    motors.write(6, 'Position_P_Gain', 400, REST)
    motors.reboot(6, REST)
    assert [motors.read(6, name, measured()) for name in ('Current_Limit', 'Operating_Mode', 'Profile_Velocity',
                                                          'Position_P_Gain')] == [300, 5, 0, 800]


def test_heat_shuts_a_motor_down_and_it_stays_down_while_hot(motors) -> None:
    rates = np.zeros(7)
    rates[2] = 20.0
    for _ in range(270):
        motors.warm(rates, TICK_S)
    assert motors.torque[2] and motors.read(2, 'Present_Temperature', measured()) == round(AMBIENT_C + 54)
    for _ in range(10):
        motors.warm(rates, TICK_S)
    assert motors.errors[2] == 0x04 and not motors.torque[2]
    motors.reboot(2, REST)
    motors.warm(rates, TICK_S)
    assert motors.errors[2] == 0x04, 'still hot'
    for _ in range(60):
        motors.warm(np.zeros(7), 60.0)
    motors.reboot(2, REST)
    motors.warm(np.zeros(7), TICK_S)
    assert not motors.errors[2] and motors.temperatures[2] == pytest.approx(AMBIENT_C, abs=1.0)


@pytest.mark.parametrize(('register', 'value', 'why'), [
    ('current_limit', 300, 'spelling and case'), ('Current_Limit', 300, 'while its torque is on'),
    ('Present_Temperature', 20, 'cannot be written')])
def test_registers_that_motors_ignore(motors, register, value, why) -> None:
    before = motors.read(6, register, measured())
    assert why in motors.write(6, register, value, REST)
    assert motors.read(6, register, measured()) == before


def test_registers_read_back_in_their_units(motors) -> None:
    assert motors.read(0, 'Present_Position', measured(position=math.pi / 2)) == 2048 + 1023
    assert motors.read(0, 'Present_Current', measured(torque=1.793)) == round(1000 / 2.69)
    motors.torque[:] = False
    assert 'allowed is 0 to 1193' in motors.write(6, 'Current_Limit', 1194, REST)
    assert motors.write(6, 'Current_Limit', 300, REST) == '' and motors.read(6, 'Current_Limit', measured()) == 300


def test_position_gain_scales_the_servo(motors) -> None:
    motors.write(0, 'Position_P_Gain', 100, REST)
    assert motors.advance(TICK_S, REST).gains[0] == 0.125
