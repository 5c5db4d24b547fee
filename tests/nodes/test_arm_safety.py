"""The arm controller's node passes limits and readings to the core, and says what acts."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402

from fpo_ros.hardware.currents import error_words, side_currents, side_registers  # noqa: E402
from fpo_ros.hardware.modes import FOLLOWER_SETTINGS  # noqa: E402
from fpo_ros.hardware.names import FOLLOWERS, JOINT_STATE_NAMES, SIDES  # noqa: E402
from fpo_ros.hardware.xs import MOTORS  # noqa: E402
from fpo_ros.nodes.arm_controller import ArmController  # noqa: E402
from fpo_ros.nodes.arm_parameters import ArmControllerParameters  # noqa: E402
from fpo_ros.nodes.logic.health import OK, WARN  # noqa: E402
from fpo_ros.nodes.safety import geometry_of, motor_limits, park_pose, safety_config, safety_health  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS, PolicyContract  # noqa: E402
from fpo_ros.policy.limits import JointLimits  # noqa: E402
from fpo_ros.runtime.controller import ArmControllerCore  # noqa: E402
from fpo_ros.runtime.controller_config import PARK_JOINTS, ArmState  # noqa: E402
from fpo_ros.runtime.motor_watch import MotorLimits, MotorReadings  # noqa: E402
from fpo_ros.runtime.safety import SafetyFilter  # noqa: E402
from fpo_ros.runtime.safety_config import SafetyConfig  # noqa: E402
from fpo_ros.sim.clearances import CellGeometry, Clearances  # noqa: E402
from fpo_ros.sim.twin.driver import XsDriver  # noqa: E402
from fpo_ros.sim.twin.motors import AMBIENT_C  # noqa: E402
from fpo_ros.sim.twin.physics import TwinPhysics  # noqa: E402

pytestmark = pytest.mark.ros


def test_the_nodes_defaults_are_those_of_the_core() -> None:
    p = ArmControllerParameters()
    ours, core = safety_config(p), SafetyConfig()
    np.testing.assert_array_equal(ours.workspace, core.workspace)
    for name in ('position_margin', 'acceleration', 'gripper_acceleration', 'jerk', 'tcp_speed', 'reduced',
                 'look_ahead', 'on_violation'):
        assert getattr(ours, name) == getattr(core, name), name
    assert ours.max_step == pytest.approx(core.max_step, abs=1e-4)
    assert motor_limits(p) == MotorLimits()
    assert geometry_of(p).clearances == Clearances() == CellGeometry().clearances


def test_the_park_pose_is_the_cells_and_six_numbers() -> None:
    assert park_pose(ArmControllerParameters()) is PARK_JOINTS
    pose = park_pose(ArmControllerParameters(park_joints='0, -1.5, 1.4, 0, -1, 0.5'))
    np.testing.assert_array_equal(pose, [0, -1.5, 1.4, 0, -1, 0.5, 1] * 2)
    for text in ('0, 1', 'sleep', '0, 0, 0, 0, 0, nan'):
        with pytest.raises(ValueError, match=f"park_joints is '{text}': give six numbers"):
            park_pose(ArmControllerParameters(park_joints=text))


def test_targets_stay_inside_the_position_limits_that_each_arms_servos_have() -> None:
    tight = '1365, 2731, ' + ', '.join(['841, 2867', '898, 3094', '0, 4095', '830, 3504', '0, 4095'])
    filters = SafetyFilter(JointLimits(), 0.02, safety_config(ArmControllerParameters(right_servo_limits=tight)))
    turn = 2 * np.pi / 4096
    assert filters.limits.upper[7] == pytest.approx((2731 - 2048) * turn - 0.01)
    assert filters.limits.lower[7] == pytest.approx((1365 - 2048) * turn + 0.01)
    assert filters.limits.upper[0] > 3, 'the left arm has those of its own'
    with pytest.raises(ValueError, match='right_servo_limits is .*: give twelve counts'):
        safety_config(ArmControllerParameters(right_servo_limits='1, 2'))
    outside = tight.replace('841, 2867', '2048, 2867')
    with pytest.raises(ValueError, match="the start pose lies outside the position limits of right_shoulder's servo"):
        safety_config(ArmControllerParameters(right_servo_limits=outside))


def test_arms_that_hold_for_a_fault_are_a_warning_and_are_logged_again_when_the_fault_is_another(ros, monkeypatch):
    node = ArmController(parameter_overrides=[Parameter('geometry', value=False)])
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        words, now = [], [10**10]
        logger = SimpleNamespace(info=words.append, warning=lambda text: words.append(f'warning: {text}'))
        monkeypatch.setattr(node, 'get_logger', lambda: logger)
        monkeypatch.setattr(node, 'steady_ns', lambda: now[0])
        node.logged, node.logged_ns = (ArmState.POLICY, 'requested'), 0
        core = node.core
        core.filter.start(START_JOINTS)

        def tell(reason: str, fault: bool) -> int:
            core._enter(ArmState.HOLD, reason, fault)
            node._log(core.state, core.reason, core.fault)
            return node.health()[0].level

        assert tell('episode ended: success', False) == OK
        assert tell('joint states are lost', True) == WARN
        assert words == ['POLICY -> HOLD: episode ended: success'], 'not more than one word a second'
        now[0] += 2 * 10**9
        tell('joint states are lost', True)
        assert words[1:] == ['warning: HOLD -> HOLD: joint states are lost']
    finally:
        node.destroy_node()


def test_a_cell_without_a_model_says_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'fpo_ros.sim.clearances', None)
    with pytest.raises(RuntimeError, match='install mujoco, gymnasium and gym-aloha, or set geometry to false'):
        geometry_of(ArmControllerParameters())
    assert geometry_of(ArmControllerParameters(geometry=False)) is None


def test_diagnostics_name_the_limit_that_acts() -> None:
    core = ArmControllerCore(PolicyContract())
    assert safety_health(core).level == OK
    core.filter.start(START_JOINTS)
    target = np.array(START_JOINTS)
    target[0] = 1.0
    core.filter.step(target)
    health = safety_health(core)
    assert health.values['limited_by_speed'] == 1
    assert health.values['last_projection'] == 'left_waist: target 1.0000 sent as 0.0400 (speed limit)'
    hot = np.full(14, 30.0)
    hot[6] = 72.0
    core.motors.look(MotorReadings(temperature_c=hot))
    health = safety_health(core)
    assert health.level == WARN and health.message.startswith('left_gripper has 72 degrees Celsius')


def test_currents_come_by_name_and_may_be_absent() -> None:
    effort = list(range(9))
    np.testing.assert_array_equal(side_currents((), effort), range(7))
    np.testing.assert_array_equal(side_currents(JOINT_STATE_NAMES[::-1], effort[::-1]), range(7))
    assert np.isnan(side_currents(JOINT_STATE_NAMES, [])).all(), 'xs_sdk_sim reports none'
    with pytest.raises(ValueError, match='of 3 motors came, of 7 expected'):
        side_registers('Present_Temperature', [30, 31, 32])


def test_arms_move_only_while_hold_to_run_is_true_where_that_is_asked_for(ros) -> None:
    node = ArmController(parameter_overrides=[Parameter('hold_to_run_limit', value=0.3),
                                              Parameter('geometry', value=False)])
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS

        node.core.filter.start(START_JOINTS)

        def left_in(state: ArmState) -> ArmState:
            node.core.state = state
            node.supervisor.heard(node.steady_ns())
            node._watch_others()
            return node.core.state

        node._on_hold_to_run(Bool(data=True))
        assert left_in(ArmState.POLICY) is ArmState.POLICY
        node._on_hold_to_run(Bool(data=False))
        assert left_in(ArmState.POLICY) is ArmState.HOLD and node.core.reason == 'hold-to-run is let go'
        assert left_in(ArmState.IDLE) is ArmState.IDLE
        node._on_hold_to_run(Bool(data=True))
        node.held_ns -= 310_000_000
        assert left_in(ArmState.TELEOP) is ArmState.HOLD, 'its silence counts as let go'
        node.params = replace(node.params, hold_to_run_limit=0.0)
        assert left_in(ArmState.TELEOP) is ArmState.TELEOP
    finally:
        node.destroy_node()


def test_temperatures_and_errors_are_read_from_the_drivers_registers(ros) -> None:
    physics = TwinPhysics('transfer_cube')
    physics.arms[FOLLOWERS['left']].motors.errors[MOTORS.index('waist')] = 0x20
    drivers = [XsDriver(FOLLOWERS[side], '/', physics, FOLLOWER_SETTINGS, time_scale=0.0) for side in SIDES]
    physics.arms[FOLLOWERS['right']].motors.temperatures[MOTORS.index('elbow')] = 71
    node = ArmController(parameter_overrides=[Parameter('temperature_period', value=0.1),
                                              Parameter('geometry', value=False)])
    executor = SingleThreadedExecutor()
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        for one in (node, *drivers):
            executor.add_node(one)
        assert np.isnan(node.temperatures.newest()).all(), 'unknown before the first reading'
        until = time.monotonic() + 20
        while np.isnan(seen := [node.temperatures.newest(), node.errors.newest()]).any():
            assert time.monotonic() < until, 'no temperatures and errors of both followers within 20 s'
            executor.spin_once(timeout_sec=0.1)
        expected = np.full(14, AMBIENT_C)
        expected[9] = 71
        np.testing.assert_array_equal(seen[0], expected)
        assert error_words(seen[1]) == ('overload', *[''] * 13)
        executor.remove_node(drivers[1])
        time.sleep(0.4)
        assert np.isnan(node.temperatures.newest()[7:]).all(), 'an old reading is none'
    finally:
        executor.shutdown()
        for driver in drivers:
            driver.close()
        node.destroy_node()
