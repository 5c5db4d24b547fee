"""Grippers that squeeze too long ease off; hot and overloaded motors make the arms hold or stop."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import PERIOD_NS, Rig, near

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.runtime.motor_watch import MotorLimits, MotorReadings, MotorWatch

LIMITS = MotorLimits(gripper_current_ma=450.0, gripper_seconds=0.1, gripper_squeeze=0.05, joint_seconds=0.1)


def currents(**columns):
    values = np.zeros(14)
    for name, value in columns.items():
        values[{'shoulder': 1, 'left': 6, 'right': 13}[name]] = value
    return MotorReadings(current_ma=values)


def temperatures(column, value):
    values = np.full(14, 40.0)
    values[column] = value
    return MotorReadings(temperature_c=values)


def squeeze(watch, readings, periods, command=(0.0, 0.0), where=(0.4, 0.4)):
    for _ in range(periods):
        watch.look(readings, np.array(command), np.array(where))


def test_a_gripper_that_squeezes_too_long_is_kept_slightly_beyond_where_it_is():
    watch = MotorWatch(LIMITS, 0.02)
    squeeze(watch, currents(left=-500.0), 4)
    assert not np.isfinite(watch.lower).any(), '80 ms are not yet too long'
    squeeze(watch, currents(left=-500.0), 1)
    np.testing.assert_allclose(watch.lower, [0.35, -np.inf])
    assert watch.last_easing.startswith('left_gripper drew more than 450 mA for 0.1 s: its target is kept at 0.350')


def test_one_that_squeezes_still_goes_to_where_it_is():
    watch = MotorWatch(LIMITS, 0.02)
    squeeze(watch, currents(right=500.0), 10)
    np.testing.assert_allclose(watch.lower, [-np.inf, 0.4])
    assert watch.eased == 2


def test_an_opening_gripper_that_is_blocked_is_eased_the_other_way():
    watch = MotorWatch(LIMITS, 0.02)
    squeeze(watch, currents(left=500.0), 5, command=(1.0, 0.0))
    np.testing.assert_allclose(watch.upper, [0.45, np.inf])


def test_short_squeezes_count_anew():
    watch = MotorWatch(LIMITS, 0.02)
    for _ in range(5):
        squeeze(watch, currents(left=500.0), 4)
        squeeze(watch, currents(left=300.0), 1)
    assert not watch.eased


def test_a_target_on_the_other_side_frees_an_eased_gripper():
    watch = MotorWatch(LIMITS, 0.02)
    squeeze(watch, currents(left=500.0), 5)
    watch.wanted(np.array([0.2, 0.0]))
    assert watch.lower[0] == pytest.approx(0.35)
    watch.wanted(np.array([0.6, 0.0]))
    assert watch.lower[0] == -np.inf


def test_unknown_currents_and_temperatures_say_nothing():
    watch = MotorWatch(LIMITS, 0.02)
    squeeze(watch, MotorReadings(np.full(14, np.nan), np.full(14, np.nan)), 20)
    assert (watch.powerless, watch.warm, watch.hot, watch.eased) == ('', '', '', 0)
    with pytest.raises(ValueError, match='current_ma must be 14 numbers'):
        watch.look(MotorReadings(np.zeros(7)))


def test_zero_switches_a_limit_off():
    watch = MotorWatch(MotorLimits(0.0, 0.1, 0.05, 0.0, 0.1, 0.0, 0.0), 0.02)
    squeeze(watch, MotorReadings(np.full(14, 9e3), np.full(14, 99.0)), 50)
    assert (watch.powerless, watch.warm, watch.hot, watch.eased) == ('', '', '', 0)


@pytest.mark.parametrize('change, message', [
    ({'joint_current': -0.1}, 'joint_current must be 0 or more'),
    ({'temperature_stop_c': 60.0}, r'temperature_stop_c \(60.0\) must not be below temperature_hold_c \(70.0\)')])
def test_limits_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MotorLimits(**change)


class ReadingRig(Rig):
    """A rig whose motors report what they are told to."""

    readings = MotorReadings()

    def tick(self, count=1):
        for _ in range(count):
            self.now += PERIOD_NS
            command = self.core.tick(self.now, self.joints, self.now, self.readings)
            if command is not None and self.follow:
                self.joints = np.array(command)
        return command


@pytest.fixture
def rig():
    rig = ReadingRig(motors=LIMITS)
    rig.tick()
    rig.enter(ArmState.POLICY)
    return rig


def work(rig, state):
    rig.core.teleoperation.offer(rig.joints, rig.now)
    rig.enter(state)
    assert rig.core.state is state


WORK = pytest.mark.parametrize('state', [ArmState.HOMING, ArmState.POLICY, ArmState.TELEOP], ids=lambda s: s.name)


@WORK
def test_a_warm_motor_ends_all_work(rig, state):
    work(rig, state)
    rig.readings = temperatures(8, 71.0)
    rig.tick()
    assert rig.core.state is ArmState.HOLD
    assert rig.core.reason.startswith('right_shoulder has 71 degrees Celsius, the limit is 70')


@WORK
def test_a_hot_motor_latches_the_stop_and_can_be_parked_after_the_reset(rig, state):
    work(rig, state)
    rig.readings = temperatures(8, 77.0)
    assert rig.tick() is None and rig.core.state is ArmState.STOPPED
    rig.tick(5)
    assert rig.core.reset_emergency_stop() == (True, '')
    rig.tick(5)
    rig.enter(ArmState.PARKING)
    for _ in range(400):
        rig.tick()
        if rig.core.state is not ArmState.PARKING:
            break
    assert (rig.core.state, rig.core.reason) == (ArmState.HOLD, 'parked'), 'at 80 degrees it would fall'
    rig.core.request(ArmState.HOMING)
    assert rig.tick() is None and rig.core.state is ArmState.STOPPED


@pytest.mark.parametrize('state', [ArmState.HOMING, ArmState.POLICY, ArmState.TELEOP, ArmState.PARKING],
                         ids=lambda s: s.name)
def test_a_motor_that_has_switched_itself_off_makes_the_arms_hold_until_it_is_rebooted(rig, state):
    work(rig, state)
    rig.readings = MotorReadings(errors=('', '', 'overload', *[''] * 11))
    rig.tick()
    assert rig.core.state is ArmState.HOLD
    assert rig.core.reason.startswith('left_elbow has switched its torque off (overload): support the arm, ask for')
    rig.core.request(ArmState.HOMING)
    rig.tick()
    assert rig.core.state is ArmState.HOLD
    rig.readings = MotorReadings(errors=('',) * 14)
    rig.enter(ArmState.HOMING)
    assert rig.core.state is ArmState.HOMING


def test_a_motor_that_is_rebooted_finds_its_target_where_the_arm_fell_to(rig):
    rig.readings, rig.follow = MotorReadings(errors=('', 'overload', *[''] * 12)), False
    rig.tick()
    for fallen in (0.02, 0.1, 0.3, 0.45):
        rig.joints = np.array(START_JOINTS)
        rig.joints[1] += fallen
        np.testing.assert_array_equal(rig.tick()[:6], rig.joints[:6])
    rig.readings = MotorReadings(errors=('',) * 14)
    np.testing.assert_array_equal(rig.tick()[:6], rig.joints[:6])
    assert rig.core.state is ArmState.HOLD


def test_an_overloaded_joint_makes_the_arms_hold_where_they_stand(rig):
    rig.follow, rig.joints = False, near(0.1)
    rig.readings = currents(shoulder=3000.0)
    command = rig.tick(5)
    assert rig.core.state is ArmState.HOLD and command[0] == near(0.1)[0]
    rig.joints = near(0.15)
    assert rig.tick(7)[0] == near(0.15)[0], 'it yields in HOLD, too'
    assert rig.core.reason == 'left_shoulder draws 3000 mA for 0.2 s, the limit is 2640 mA'


def test_held_arms_ease_a_gripper_that_squeezes(rig):
    rig.follow, rig.joints = False, np.array(START_JOINTS)
    rig.joints[6] = 0.5
    rig.core.request(ArmState.HOLD)
    rig.readings = currents(left=540.0)
    command = rig.tick(12)
    assert command[6] == pytest.approx(0.5, abs=0.051) and command[6] >= 0.45
    assert command[13] == START_JOINTS[13] and rig.core.state is ArmState.HOLD


def test_arms_that_are_blocked_hold_with_the_reason():
    class Wall:
        names, leverage, smallest = ['left wrist and wall'], np.ones(14), 0.01

        def look(self, joints):
            from fpo_ros.runtime.geometry import Look

            gap = 0.2 - joints[0]
            return Look(np.zeros((2, 3)), np.array([gap]), gap)

    from fpo_ros.policy.contract import PolicyContract
    from fpo_ros.runtime.controller import ArmControllerCore

    rig = ReadingRig()
    rig.core = ArmControllerCore(PolicyContract(horizon=4, execute=3), None, rig.core.config, Wall())
    rig.tick()
    rig.enter(ArmState.POLICY)
    for _ in range(30):
        rig.chunk(near(0.5))
        command = rig.tick(3)
    assert 0.18 < command[0] <= 0.2 + 1e-9
    assert rig.core.state is ArmState.HOLD
    assert rig.core.reason == 'clearance: left wrist and wall would come too close; it kept the arms for 1 s'
