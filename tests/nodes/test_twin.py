"""The driver twin behaves as the drivers it stands for."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand  # noqa: E402
from interbotix_xs_msgs.srv import RobotInfo, TorqueEnable  # noqa: E402
from rclpy.time import Time  # noqa: E402

from fpo_ros.hardware.gripper import GYM_ALOHA  # noqa: E402
from fpo_ros.hardware.joints import side_joints  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.sim.task import sample_object_pose  # noqa: E402
from fpo_ros.sim.twin.driver import XsDriver  # noqa: E402
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
    node = XsDriver('left', '/', physics, GYM_ALOHA)
    yield node
    node.destroy_node()


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
    assert np.abs(fallen - START_JOINTS[:7])[:6].max() > 0.1
    np.testing.assert_allclose(physics.follower('right').positions, START_JOINTS[7:], atol=0.02)
    request.enable = True
    driver._on_torque(request, TorqueEnable.Response())
    physics.step(500)
    assert np.abs(left(physics) - fallen)[:6].max() < 0.3


def test_robot_info_describes_the_arm_as_the_python_client_expects(driver) -> None:
    info = driver._on_info(RobotInfo.Request(cmd_type='group', name='arm'), RobotInfo.Response())
    assert (
        info.num_joints == 6
        and list(info.joint_names)[0] == 'waist'
        and list(info.joint_ids) == [1, 2, 4, 6, 7, 8]
    )
    assert info.joint_lower_limits[1] == pytest.approx(-1.85005)
    whole = driver._on_info(RobotInfo.Request(cmd_type='group', name='all'), RobotInfo.Response())
    assert list(whole.joint_names)[-1] == 'left_finger' and whole.num_joints == 7


def test_twin_is_the_world_policies_train_in(physics) -> None:
    """The same targets give the same trajectory as World, bit for bit."""
    world = World('transfer_cube', 5)
    physics.reset(5)
    target = START_JOINTS.copy()
    target[[0, 9]] += 0.1
    world.set_targets(target)
    physics.set_arm('left', target[:6])
    physics.set_arm('right', target[7:13])
    for _ in range(20):
        world.step(5)
        physics.step(5)
    np.testing.assert_array_equal(np.concatenate([physics.follower(s).positions for s in ('left', 'right')]),
                                  world.joints())
    np.testing.assert_array_equal(physics.object_pose(), world.object_pose())


def test_reset_places_the_object_by_its_seed(physics) -> None:
    np.testing.assert_allclose(physics.reset(3), sample_object_pose('transfer_cube', 3))
    assert physics.judge() == (0, False)
