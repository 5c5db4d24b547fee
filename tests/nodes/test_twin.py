"""The driver twin behaves as the drivers it stands for."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand  # noqa: E402
from interbotix_xs_msgs.srv import RobotInfo, TorqueEnable  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.time import Time  # noqa: E402

from fpo_ros.hardware.gripper import CALIBRATIONS, GYM_ALOHA, INTERBOTIX  # noqa: E402
from fpo_ros.hardware.joints import side_joints  # noqa: E402
from fpo_ros.hardware.modes import FOLLOWER_SETTINGS  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.sim.render import RenderError  # noqa: E402
from fpo_ros.sim.task import sample_object_pose  # noqa: E402
from fpo_ros.sim.twin import node as twin_node  # noqa: E402
from fpo_ros.sim.twin.driver import XsDriver  # noqa: E402
from fpo_ros.sim.twin.node import DriverTwin  # noqa: E402
from fpo_ros.sim.twin.physics import TwinPhysics  # noqa: E402
from fpo_ros.sim.world import World  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def physics() -> TwinPhysics:
    """The simulated cell at the start of seed 0."""
    return TwinPhysics('transfer_cube')


@pytest.fixture
def driver(ros, physics):
    """The left follower's driver."""
    node = XsDriver('follower_left', '/', physics, FOLLOWER_SETTINGS, time_scale=0.0)
    yield node
    node.close()


def left(physics: TwinPhysics) -> np.ndarray:
    return physics.follower('left').positions


def test_names_are_those_of_the_driver(driver) -> None:
    assert driver.get_fully_qualified_name() == '/follower_left/xs_sdk'
    topics = dict(driver.get_publisher_names_and_types_by_node('xs_sdk', '/follower_left'))
    assert topics['/follower_left/joint_states'] == ['sensor_msgs/msg/JointState']


def test_joint_states_have_nine_entries_with_mirrored_fingers(driver) -> None:
    driver.publish(Time(nanoseconds=5))
    message = driver.message
    assert (len(message.position), len(message.velocity), len(message.effort)) == (9, 9, 9)
    assert message.position[7] == -message.position[8] == pytest.approx(0.02239, abs=1e-4)
    np.testing.assert_allclose(
        side_joints(message.name, message.position, GYM_ALOHA), START_JOINTS[:7], atol=1e-3
    )


def test_commands_move_the_arm_and_the_gripper(driver, physics) -> None:
    target = START_JOINTS[:6] + np.array([0.2, 0, 0, 0, 0, 0])
    driver._on_group(JointGroupCommand(name='arm', cmd=target.astype('f4').tolist()))
    driver._on_single(JointSingleCommand(name='gripper', cmd=1.4910))
    physics.step(500)
    assert left(physics)[0] == pytest.approx(0.2, abs=0.01)
    assert left(physics)[6] == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(physics.follower('right').positions, START_JOINTS[7:], atol=0.02)


def test_motors_ignore_goals_beyond_their_position_limits_and_the_others_move(driver, physics) -> None:
    driver._on_group(JointGroupCommand(name='arm', cmd=[0.3, -1.9, 1.16, 0.0, -0.3, 0.0]))
    physics.step(500)
    assert left(physics)[0] == pytest.approx(0.3, abs=0.01)
    assert left(physics)[1] == pytest.approx(-0.96, abs=0.01), '-1.9 rad are 809 counts, the limit is 841'


def test_gripper_goals_beyond_the_fingers_range_squeeze(driver, physics) -> None:
    driver._on_single(JointSingleCommand(name='gripper', cmd=3.0))
    physics.step(500)
    assert left(physics)[6] == pytest.approx(1.0, abs=0.05)


def test_physics_that_diverges_begins_the_scene_anew_and_is_counted(ros) -> None:
    node = twin(seed=5)
    try:
        node.trigger_configure()
        node.physics._world.data.qvel[:] = 1e12
        node._tick()
        assert node.physics.divergences == 1 and node.health()[0].values['divergences'] == 1
        np.testing.assert_array_equal(node.physics.object_pose(), sample_object_pose('transfer_cube', 5))
        node._tick()
        assert node.physics.divergences == 1 and np.isfinite(node.physics.positions()).all()
        node.trigger_shutdown()
    finally:
        node.destroy_node()


@pytest.mark.parametrize('command', [JointGroupCommand(name='arm', cmd=[0.0] * 5),
                                     JointGroupCommand(name='legs', cmd=[0.0] * 6),
                                     JointGroupCommand(name='arm', cmd=[float('nan')] * 6)])
def test_unfit_commands_are_dropped(driver, physics, command) -> None:
    before = left(physics).copy()
    driver._on_group(command)
    physics.step(100)
    np.testing.assert_allclose(left(physics), before, atol=0.02)


def test_without_torque_the_arm_yields_to_gravity_and_holds_where_it_is_when_switched_on(
    driver, physics
) -> None:
    request = TorqueEnable.Request(cmd_type='group', name='arm', enable=False)
    driver._on_torque(request, TorqueEnable.Response())
    physics.step(500)
    fallen = left(physics).copy()
    assert np.abs(fallen - START_JOINTS[:7])[:6].max() > 0.5
    np.testing.assert_allclose(physics.follower('right').positions, START_JOINTS[7:], atol=0.02)
    request.enable = True
    driver._on_torque(request, TorqueEnable.Response())
    physics.step(500)
    assert np.abs(left(physics) - fallen)[:6].max() < 0.02


def test_robot_info_describes_the_arm_as_the_python_client_expects(driver) -> None:
    info = driver._on_info(RobotInfo.Request(cmd_type='group', name='arm'), RobotInfo.Response())
    assert (
        info.num_joints == 6
        and list(info.joint_names)[0] == 'waist'
        and list(info.joint_ids) == [1, 2, 4, 6, 7, 8]
    )
    assert info.joint_lower_limits[1] == pytest.approx(-1.85005) and info.mode == 'position'
    assert list(info.joint_sleep_positions)[1] == pytest.approx(-2.05)
    whole = driver._on_info(RobotInfo.Request(cmd_type='group', name='all'), RobotInfo.Response())
    assert list(whole.joint_names)[-1] == 'left_finger' and whole.num_joints == 7
    assert list(whole.name) == ['arm', 'all'] and whole.joint_upper_limits[6] == pytest.approx(0.057)
    unknown = driver._on_info(RobotInfo.Request(cmd_type='group', name='legs'), RobotInfo.Response())
    assert unknown.num_joints == 0 and not unknown.joint_names


@pytest.mark.parametrize('gripper', CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_twin_has_the_gripper_it_is_told_and_the_scales_of_the_cell_fit_it(ros, gripper) -> None:
    physics = TwinPhysics('transfer_cube', calibrations={'left': gripper})
    driver = XsDriver('follower_left', '/', physics, FOLLOWER_SETTINGS, time_scale=0.0)
    try:
        driver.publish(Time(nanoseconds=5))
        message = driver.message
        finger = (gripper.linkage.finger(gripper.angle(START_JOINTS[6])) if gripper.linkage
                  else 0.01844 + START_JOINTS[6] * 0.03956)
        assert message.position[7] == pytest.approx(finger, abs=1e-4)
        np.testing.assert_allclose(side_joints(message.name, message.position, gripper), START_JOINTS[:7], atol=1e-3)
        stands_at = side_joints(message.name, message.position, gripper)[6]
        driver._on_single(JointSingleCommand(name='gripper', cmd=gripper.angle(stands_at)))
        physics.step(200)
        assert left(physics)[6] == pytest.approx(START_JOINTS[6], abs=0.02), 'the first command moves nothing'
        driver._on_single(JointSingleCommand(name='gripper', cmd=gripper.joint_open_rad))
        physics.step(500)
        assert left(physics)[6] == pytest.approx(1.0, abs=0.05)
    finally:
        driver.close()


def twin(**values: object) -> DriverTwin:
    return DriverTwin(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])


def test_twin_takes_its_calibration_from_its_parameters(ros) -> None:
    node = twin(left_gripper_joint_open=1.6214, left_gripper_joint_closed=0.6197, right_gripper_joint_open=1.5,
                right_gripper_joint_closed=0.7, gripper_horn=0.0275, gripper_arm=0.035)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert [driver.core.gripper.calibration for driver in node.drivers] == [
            INTERBOTIX, replace(INTERBOTIX, joint_open_rad=1.5, joint_closed_rad=0.7)]
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_pictures_have_the_aspect_of_real_cameras_under_the_drivers_name(ros) -> None:
    node, frames = twin(cameras='cam_high', image_name='image_raw'), []
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        output, compressed = node.camera_outputs['cam_high']
        assert compressed is None
        assert output.topic_name == '/cam_high/camera/color/image_raw'
        output.publish = frames.append
        node.trigger_activate()
        deadline = time.monotonic() + 10.0
        while not frames:
            assert time.monotonic() < deadline, f'waited 10 s for a picture: {node.failure}'
            time.sleep(0.02)
        assert (frames[0].height, frames[0].width) == (72, 96) and len(set(frames[0].data)) > 10
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_twin_publishes_a_camera_under_the_topic_and_transport_of_another_driver(ros) -> None:
    node = twin(cameras='cam_high,cam_low', image_topics='cam_low=/usb_cam/image_raw',
                image_transports='cam_low=compressed')
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert [output and output.topic_name for outputs in node.camera_outputs.values() for output in outputs] == [
            '/cam_high/camera/color/image_rect_raw', None, '/usb_cam/image_raw', '/usb_cam/image_raw/compressed']
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_twin_without_gl_refuses_to_configure_and_says_what_is_missing(ros, monkeypatch) -> None:
    def no_gl(*args: object) -> None:
        raise RenderError('cannot make a GL context. Install software GL')

    monkeypatch.setattr(twin_node, 'WorldRenderer', no_gl)
    node, said = twin(cameras='cam_high'), []
    node._complain = lambda what, error: said.append((type(error), str(error)))
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert said == [(ValueError, 'no camera pictures: cannot make a GL context. Install software GL. '
                                     'Or run without cameras')]
        node.trigger_shutdown()
    finally:
        node.destroy_node()


def test_twin_leaves_scene_and_judgement_to_the_operator_where_told(ros) -> None:
    for judge in (True, False):
        node = twin(judge=judge)
        try:
            node.trigger_configure()
            services = {service.srv_name.lstrip('/') for service in node.services}
            assert ('reset_scene' in services) is judge
            assert ('/task_reward' in {publisher.topic_name for publisher in node.publishers}) is judge
            node._tick()
            node._tick()
            node.trigger_shutdown()
        finally:
            node.destroy_node()


def test_twin_is_the_world_policies_train_in(physics) -> None:
    """Targets within the motors' speed move arms in the modes a cell starts with as they move World, bit for bit."""
    world = World('transfer_cube', 5)
    for arm in physics.arms.values():
        for index, one in enumerate(FOLLOWER_SETTINGS):
            arm.motors.set_mode(index, one.mode, one.profile_type, one.profile_velocity, one.profile_acceleration)
    physics.reset(5)
    target = START_JOINTS.copy()
    for period in range(14):  # 0.06 rad in each period of 20 ms: 3 rad/s; 0.079 strokes: 3.95 strokes/s
        target[[0, 8]] += 0.06 if period < 7 else -0.06
        target[[6, 13]] = 0.08 + 0.079 * (period if period < 7 else 13 - period)
        for side, part in (('left', target[:7]), ('right', target[7:])):
            physics.arms[f'follower_{side}'].group('arm', part[:6])
            list(physics.arms[f'follower_{side}'].single('gripper', GYM_ALOHA.angle(part[6])))
        # The gripper's angle and back costs the last bit of its target.
        world.set_targets(np.where(np.isin(np.arange(14), (6, 13)),
                                   GYM_ALOHA.normalise(GYM_ALOHA.angle(target)), target))
        for _ in range(2):
            world.step(5)
            physics.step(5)
    np.testing.assert_array_equal(np.concatenate([physics.follower(s).positions for s in ('left', 'right')]),
                                  world.joints())
    np.testing.assert_array_equal(physics.object_pose(), world.object_pose())


def test_reset_places_the_object_by_its_seed(physics) -> None:
    np.testing.assert_allclose(physics.reset(3), sample_object_pose('transfer_cube', 3))
    assert physics.judge() == (0, False)


def test_a_capped_gripper_with_a_crank_is_as_strong_as_its_present_angle_allows() -> None:
    physics = TwinPhysics('transfer_cube', calibrations={'left': INTERBOTIX})
    arm, plant = physics.arms['follower_left'], physics._plants['follower_left']
    arm.motors.set_mode(6, 'current_based_position', 'velocity', 0, 0)
    assert arm.motors.write(6, 'Goal_Current', 50, plant.positions()) == ''
    forces = []
    for normalised in (0.1, 0.9):
        list(arm.single('gripper', INTERBOTIX.angle(normalised)))
        physics.step(500)
        forces.append(plant._mj.actuator_forcerange[plant._ctrl[6], 1])
        torque = 50 * 2.69e-3 * 0.897  # counts, A per count, N m per A
        expected = torque / abs(plant._metres_per_radian(plant.positions()[6])) / 2
        assert forces[-1] == pytest.approx(expected, rel=0.05)
    assert abs(forces[0] - forces[1]) > 0.05 * forces[0], 'the crank turns the same torque into another force'
