"""The client of the arms against the twin over DDS, and Interbotix's own Python calls, re-enacted."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand  # noqa: E402
from interbotix_xs_msgs.srv import OperatingModes, RegisterValues, RobotInfo, TorqueEnable  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from fpo_ros.hardware import xs  # noqa: E402
from fpo_ros.hardware.xs_client import ARMS, AlohaClient, XsClient  # noqa: E402
from fpo_ros.hardware.xs_types import RawReading, XsError  # noqa: E402
from fpo_ros.nodes import convert, qos  # noqa: E402
from fpo_ros.nodes.ros_client import RosClient  # noqa: E402
from fpo_ros.nodes.running import make_executor  # noqa: E402
from fpo_ros.nodes.xs_transport import RosXsTransport, TransportTimeoutError  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.sim.twin.faults import Fault  # noqa: E402
from fpo_ros.sim.twin.node import DriverTwin  # noqa: E402

pytestmark = pytest.mark.ros

LEFT, RIGHT = 'follower_left', 'follower_right'


@pytest.fixture(scope='module')
def twin(ros) -> Iterator[DriverTwin]:
    """The active twin of a cell with four arms; what the bus costs is a tenth."""
    node = DriverTwin(parameter_overrides=[Parameter('leaders', value=True), Parameter('bus_time_scale', value=0.1)])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS, node.failure
    executor, ending = make_executor(), threading.Event()
    executor.add_node(node)

    def spin() -> None:
        while not ending.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    yield node
    ending.set()
    thread.join()
    executor.remove_node(node)
    node.trigger_shutdown()
    node.destroy_node()


@pytest.fixture(scope='module')
def client() -> Iterator[RosClient]:
    """A node beside the twin."""
    with RosClient('xs_client_test') as out:
        yield out


@pytest.fixture(scope='module')
def cell(twin, client) -> AlohaClient:
    """All four arms."""
    out = AlohaClient(RosXsTransport(client.node, tuple(ARMS)))
    for arm in ARMS:  # the drivers set the motors up first
        out[arm].transport.wait_for(lambda arm=arm: out[arm].info('gripper').mode, f'the set-up of {arm}', 20.0)
    return out


@pytest.fixture
def left(twin, cell) -> Iterator[XsClient]:
    """The left follower at the start of scene 0, without faults afterwards."""
    cell[LEFT].set_torque('all', True)
    twin.physics.reset(0)
    yield cell[LEFT]
    with twin.physics.lock:
        twin.physics.faults.inject(Fault('clear'), 0.0)


def strike(twin: DriverTwin, name: str, **values) -> None:
    with twin.physics.lock:
        twin.physics.faults.inject(Fault(name, LEFT, **values), twin.physics.time_s)


def test_followers_start_with_torque_and_leaders_without(cell) -> None:
    assert all(cell[RIGHT].torques().values()) and not any(cell['leader_left'].torques().values())
    assert cell[RIGHT].info('gripper').mode == 'current_based_position'


def test_readings_have_units_and_order(left) -> None:
    reading = left.read()
    np.testing.assert_allclose(reading.joints, START_JOINTS[:6], atol=0.02)
    assert reading.finger_m == pytest.approx(0.0224, abs=1e-3)
    assert abs(reading.currents_ma[2]) > 100, 'the elbow carries the forearm [mA]'
    assert abs(time.time_ns() - reading.stamp_ns) < 1e9


def test_arm_and_gripper_go_where_they_are_sent(left) -> None:
    target = START_JOINTS[:6] + [0.3, 0.1, -0.1, 0.0, 0.1, 0.0]
    assert np.abs(left.reach(target, 5.0).joints - target).max() <= 0.05
    left.send_gripper(1.2)
    left.transport.wait_for(lambda: abs(left.read().gripper_rad - 1.2) < 0.1, 'the gripper to open', 5.0)


def test_a_target_that_the_motor_ignores_is_reported_with_wanted_and_found(left) -> None:
    with pytest.raises(XsError, match=r'follower_left: shoulder did not reach .* wanted -2\.050 rad, found -0\.9'):
        left.reach([0.0, -2.05, 1.16, 0.0, -0.3, 0.0], 0.5)


def test_modes_gains_and_registers_are_confirmed(left) -> None:
    left.set_mode('gripper', 'pwm')
    assert left.register('gripper', 'Operating_Mode') == {'gripper': 16}
    left.set_mode('gripper', 'linear_position')
    assert left.info('gripper').mode == 'linear_position'
    left.set_mode('gripper', 'current_based_position', profile_velocity=105)
    left.set_mode('arm', 'position', profile_velocity=63, profile_acceleration=10)
    assert set(left.register('arm', 'Profile_Velocity').values()) == {63}
    left.set_gains('arm', {'Position_P_Gain': 640})
    assert left.register('arm', 'Position_P_Gain')['elbow'] == 640
    left.set_gains('arm', {})
    left.set_torque('gripper', False)
    left.set_register('gripper', 'Current_Limit', 300)
    assert left.current_limits_ma()['gripper'] == pytest.approx(807.0)
    left.set_register('gripper', 'Current_Limit', 200)
    left.set_mode('arm', 'position')


def test_what_empty_replies_hide_is_raised_with_motor_register_wanted_and_found(twin, left) -> None:
    with pytest.raises(XsError, match='follower_left: gripper: register Current_Limit: wanted 300, found 200'):
        left.set_register('gripper', 'Current_Limit', 300)  # its torque is on
    with pytest.raises(XsError, match="unknown register 'current_limit'"):
        left.set_register('gripper', 'current_limit', 300)
    strike(twin, 'overload', motor='gripper')
    left.transport.wait_for(left.errors, 'the overload', 5.0)
    assert left.errors() == {'gripper': ('overload',)} and left.torques()['gripper'] is False
    with pytest.raises(XsError, match=r'gripper: register Torque_Enable: wanted 1, found 0 \(shut down: overload'):
        left.set_torque('gripper', True)
    left.reboot('all', only_in_error=True)
    assert left.errors() == {} and all(left.torques().values())


def test_heat_shows_and_a_hot_motor_cannot_be_rebooted(twin, left) -> None:
    assert set(left.temperatures_c().values()) == {25}
    strike(twin, 'overheating', motor='wrist_angle')
    left.transport.wait_for(lambda: left.temperatures_c()['wrist_angle'] == 80, 'the heat', 5.0)
    driver = next(driver for driver in twin.drivers if driver.arm == LEFT)
    driver.time_scale = 1.0  # the motor is up again only after a time in which physics goes on
    try:
        with pytest.raises(XsError, match='wrist_angle: register Hardware_Error_Status: wanted 0, found 4'):
            left.reboot('wrist_angle')
    finally:
        driver.time_scale = 0.1
    with twin.physics.lock:
        twin.physics.faults.inject(Fault('clear', LEFT), 0.0)
        twin.physics.arms[LEFT].motors.temperatures[:] = 25.0  # twenty minutes later
    left.reboot('wrist_angle')


@pytest.mark.parametrize(('value', 'why'), [(0.0, 'every motor reads -pi'), (1.0, 'waist reads nan')])
def test_failed_reads_are_no_positions(twin, left, value, why) -> None:
    strike(twin, 'read_failure', value=value)
    with pytest.raises(XsError, match=why):
        for _ in range(20):  # what was read before the failure may be under way
            left.read()


def test_a_stalled_bus_is_silent_and_serves_what_waited(twin, left) -> None:
    strike(twin, 'usb_stall')
    with pytest.raises(TransportTimeoutError, match=r'waited 0\.2 s for follower_left/joint_states'):
        for _ in range(20):  # what was read before the stall may be under way
            left.transport.reading(LEFT, 0.2)
    strike(twin, 'usb_stall', duration=0.5)
    begun = time.monotonic()
    left.set_torque('gripper', True)
    assert time.monotonic() - begun > 0.2
    assert left.read().joints.shape == (6,)


def test_dropped_commands_move_nothing_and_are_noticed(twin, left) -> None:
    strike(twin, 'dropped_commands')
    with pytest.raises(XsError, match='waist did not reach its target'):
        left.reach([0.4, *START_JOINTS[1:6]], 0.6)


def test_joint_states_pause_while_a_request_blocks_the_bus(twin, client, left) -> None:
    driver = next(driver for driver in twin.drivers if driver.arm == LEFT)
    stamps: list[float] = []
    subscription = client.node.create_subscription(JointState, f'{LEFT}/joint_states',
                                                   lambda message: stamps.append(
                                                       convert.nanoseconds(message.header.stamp) * 1e-9), qos.SENSOR)
    driver.time_scale = 1.0
    try:
        left.transport.wait_for(lambda: len(stamps) > 20, 'joint_states', 5.0)
        stamps.clear()
        begun, begun_s = time.monotonic(), client.node.get_clock().now().nanoseconds * 1e-9
        left.set_mode('arm', 'position')
        assert time.monotonic() - begun > 0.36
        left.transport.wait_for(lambda: stamps and stamps[-1] > begun_s + 0.5, 'joint_states afterwards', 5.0)
        assert max(np.diff([begun_s, *stamps])) > 0.3
    finally:
        driver.time_scale = 0.1
        client.node.destroy_subscription(subscription)


def test_a_person_moves_the_leader_and_the_client_reads_it(twin, client, cell) -> None:
    leader = cell['leader_left']
    hand = client.node.create_publisher(JointState, '/driver_twin/move_leader_left', qos.DRIVER)
    leader.transport.wait_for(hand.get_subscription_count, 'the twin to listen to the hand', 5.0)
    wanted = [0.3, -0.9, 1.1, 0.0, -0.3, 0.0]
    hand.publish(JointState(name=list(xs.MOTORS), position=[*wanted, 0.5]))
    leader.transport.wait_for(lambda: np.abs(leader.read().joints - wanted).max() < 0.05, 'the leader to follow', 10.0)
    hand.publish(JointState())
    leader.transport.wait_for(lambda: leader.read().joints[1] < -1.4, 'the leader to fall', 10.0)


# ---- Interbotix's Python interface, re-enacted (interbotix_xs_modules xs_robot core.py, arm.py, gripper.py)


@pytest.fixture
def bot(client, left):
    """What InterbotixRobotXSCore does when it is made: publishers, service clients, the first joint_states."""
    node, kinds = client.node, {'torque_enable': TorqueEnable, 'get_robot_info': RobotInfo,
                                'set_operating_modes': OperatingModes, 'set_motor_registers': RegisterValues,
                                'get_motor_registers': RegisterValues}
    services = {name: node.create_client(kind, f'{LEFT}/{name}') for name, kind in kinds.items()}
    for name, service in services.items():
        assert service.wait_for_service(timeout_sec=5.0), f'waited 5 s for {name}'
    states: list[JointState] = []
    subscription = node.create_subscription(JointState, f'{LEFT}/joint_states', states.append, 10)
    group = node.create_publisher(JointGroupCommand, f'{LEFT}/commands/joint_group', 10)
    single = node.create_publisher(JointSingleCommand, f'{LEFT}/commands/joint_single', 10)
    client.wait_for(lambda: states and group.get_subscription_count() and single.get_subscription_count(),
                    'the driver', 5.0)

    def call(service: str, **fields):
        return client.result(services[service].call_async(kinds[service].Request(**fields)), service, 10.0)

    yield SimpleNamespace(call=call, states=states, group=group, single=single,
                          until=lambda condition, what: client.wait_for(condition, what, 10.0))
    node.destroy_subscription(subscription)
    for entity in (group, single):
        node.destroy_publisher(entity)


def test_interbotix_arm_interface_finds_six_joints_and_moves_them(bot) -> None:
    info = bot.call('get_robot_info', cmd_type='group', name='arm')
    assert info.num_joints == 6 and list(info.joint_names) == list(xs.MOTORS[:6])
    assert list(info.joint_state_indices) == [0, 1, 2, 3, 4, 5] and info.profile_type in ('time', 'velocity')
    assert list(bot.states[-1].name)[6:] == ['gripper', 'left_finger', 'right_finger']
    goal, moving_time = [0.2, -0.8, 1.0, 0.0, -0.2, 0.1], 2.0
    last = [bot.states[-1].position[index] for index in info.joint_state_indices]
    for position, before, low, high, speed in zip(goal, last, info.joint_lower_limits, info.joint_upper_limits,
                                                  info.joint_velocity_limits, strict=True):
        assert low <= position <= high and abs(position - before) / moving_time <= speed, 'the check of arm.py'
    bot.group.publish(JointGroupCommand(name='arm', cmd=[int(value * 1000) / 1000 for value in goal]))
    bot.until(lambda: np.abs(np.array(bot.states[-1].position[:6]) - goal).max() < 0.05, 'the arm to arrive')
    bot.single.publish(JointSingleCommand(name='waist', cmd=0.0))
    bot.until(lambda: abs(bot.states[-1].position[0]) < 0.05, 'the waist to turn back')


def test_interbotix_gripper_interface_grasps_by_pwm_until_the_finger_limit(bot) -> None:
    info = bot.call('get_robot_info', cmd_type='single', name='gripper')
    assert list(info.joint_names) == ['left_finger'] and list(info.joint_state_indices) == [6]
    low, high = info.joint_lower_limits[0], info.joint_upper_limits[0]
    finger = info.joint_state_indices[0] + 1  # gripper.py's left_finger_index
    bot.call('set_operating_modes', cmd_type='single', name='gripper', mode='pwm', profile_type='velocity')
    for effort, arrived in ((250.0, lambda: bot.states[-1].position[finger] > 0.95 * high),
                            (-250.0, lambda: bot.states[-1].position[finger] < 1.05 * low)):
        bot.single.publish(JointSingleCommand(name='gripper', cmd=effort))
        bot.until(arrived, f'the fingers to travel at PWM {effort}')
    bot.single.publish(JointSingleCommand(name='gripper', cmd=0.0))
    bot.call('set_operating_modes', cmd_type='single', name='gripper', mode='current_based_position',
             profile_type='velocity')


def test_aloha_scripts_prepare_a_follower_as_they_do(bot) -> None:
    """The opening of dual_side_teleop.py, with the register that they misspell."""
    bot.call('set_operating_modes', cmd_type='group', name='arm', mode='position', profile_type='velocity')
    bot.call('set_motor_registers', cmd_type='single', name='gripper', reg='current_limit', value=300)
    values = bot.call('get_motor_registers', cmd_type='single', name='gripper', reg='Current_Limit', value=0).values
    assert list(values) == [200], 'the wrong case has no effect, and nobody says so'
    bot.call('torque_enable', cmd_type='group', name='legs', enable=False)
    on = bot.call('get_motor_registers', cmd_type='group', name='all', reg='Torque_Enable', value=0).values
    assert list(on) == [1] * 7


# ---- without a driver


class Recorded:
    """A transport that hands out one reading."""

    def __init__(self, **changes) -> None:
        fields = {'names': (*xs.MOTORS, 'left_finger', 'right_finger'), 'position': [0.1] * 9, 'velocity': [0.0] * 9,
                  'effort': [0.0] * 9, 'stamp_ns': 5}
        self.raw = RawReading(**(fields | changes))

    def reading(self, arm: str, timeout_s: float) -> RawReading:
        return self.raw


def test_readings_are_found_by_name_in_any_order() -> None:
    names = ('left_finger', *xs.MOTORS, 'right_finger')
    reading = XsClient(Recorded(names=names, position=[0.03, 1, 2, 3, 4, 5, 6, 7, -0.03]), LEFT).read()
    assert reading.joints.tolist() == [1, 2, 3, 4, 5, 6] and (reading.gripper_rad, reading.finger_m) == (7, 0.03)


@pytest.mark.parametrize(('changes', 'why'), [
    ({'names': xs.MOTORS, 'position': [0.0] * 7}, "lacks 'left_finger'"),
    ({'position': [0.0] * 8}, '9 names but 8 positions'),
    ({'position': [0.0] * 8 + [math.inf]}, 'right_finger reads inf'),
    ({'position': [-math.pi] * 7 + [0.0, 0.0]}, 'every motor reads -pi')])
def test_readings_that_are_none_are_refused(changes, why) -> None:
    with pytest.raises(XsError, match=f'follower_left: .*{why}'):
        XsClient(Recorded(**changes), LEFT).read()


@pytest.mark.parametrize(('call', 'why'), [
    (lambda arm: arm.send_arm([0.0] * 5), '6 finite numbers'),
    (lambda arm: arm.send_arm([math.nan] * 6), '6 finite numbers'),
    (lambda arm: arm.send_gripper(math.nan), 'finite number'),
    (lambda arm: arm.set_mode('arm', 'positon'), "unknown mode 'positon'"),
    (lambda arm: arm.set_gains('arm', {'P': 800}), "unknown gain 'P'"),
    (lambda arm: arm.set_torque('arms', True), "unknown group or motor 'arms'")])
def test_what_the_driver_would_pass_over_is_refused_before_it_is_sent(call, why) -> None:
    with pytest.raises(XsError, match=why):
        call(XsClient(Recorded(), LEFT))


def test_unknown_arms_are_refused() -> None:
    with pytest.raises(XsError, match="unknown arm 'follower_middle'"):
        XsClient(Recorded(), 'follower_middle')
