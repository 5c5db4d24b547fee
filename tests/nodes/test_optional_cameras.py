"""A camera that an observation may lack: its loss is a named fault, and the policy goes on without it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402

from fpo_ros.hardware.gripper import GYM_ALOHA  # noqa: E402
from fpo_ros.hardware.joints import joint_state_positions  # noqa: E402
from fpo_ros.hardware.names import JOINT_STATE_NAMES  # noqa: E402
from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.graph import GraphOptions, describe  # noqa: E402
from fpo_ros.nodes.logic.health import ERROR, OK  # noqa: E402
from fpo_ros.nodes.proprio_ingest import ProprioIngest  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS, PolicyContract  # noqa: E402

pytestmark = pytest.mark.ros
NOW_NS = 1_000_000_000_000


@pytest.fixture
def ingest(ros) -> Iterator[ProprioIngest]:
    """Active ``proprio_ingest`` of two cameras, one optional, that has joint states; it keeps what it publishes."""
    node = ProprioIngest(parameter_overrides=[
        Parameter(name, value=value) for name, value in {
            'cameras': 'cam_high,cam_low', 'optional_cameras': 'cam_low', 'object_pose': False}.items()])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.now_ns, node.sent = lambda: NOW_NS, []
    node.output.publish = node.sent.append
    node.active, node.quiet_until = True, NOW_NS
    joints = JointState(name=list(JOINT_STATE_NAMES), position=joint_state_positions(START_JOINTS[:7], GYM_ALOHA))
    joints.header.stamp = convert.stamp_of(NOW_NS)
    for side in ('left', 'right'):
        node._on_joints(side, joints)
    yield node
    node.trigger_shutdown()
    node.destroy_node()


def seen(node: ProprioIngest, camera: str, age_s: float = 0.0) -> None:
    """Let a frame of a camera arrive."""
    frame = Image(height=1, width=1, encoding='rgb8', step=3, data=b'\1\2\3')
    frame.header.stamp = convert.stamp_of(NOW_NS - round(age_s * 1e9))
    node._on_frame(camera, frame)


def test_observations_go_on_without_an_optional_camera_whose_loss_is_named(ingest) -> None:
    seen(ingest, 'cam_high', 0.05)
    ingest._publish()
    assert list(ingest.sent[-1].camera_names) == ['cam_high'] and len(ingest.sent[-1].images) == 1
    assert list(ingest.sent[-1].image_ages) == pytest.approx([0.05])
    levels = {line.part: line.level for line in ingest.health()}
    assert (levels['observation'], levels['cam_low']) == (OK, ERROR)
    seen(ingest, 'cam_low', 0.5)
    ingest._publish()
    assert list(ingest.sent[-1].camera_names) == ['cam_high'], 'older than max_image_age'
    seen(ingest, 'cam_low')
    ingest._publish()
    assert list(ingest.sent[-1].camera_names) == ['cam_high', 'cam_low']


def test_without_a_camera_that_is_needed_there_is_no_observation(ingest) -> None:
    seen(ingest, 'cam_low')
    ingest._publish()
    assert not ingest.sent and 'cam_high' in ingest.reason


def test_the_cell_of_a_release_goes_on_without_the_cameras_that_its_policy_does() -> None:
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_low'), optional_cameras=('cam_low',))
    nodes = {spec.name: spec.parameters for spec in describe(GraphOptions(contract=contract)).nodes}
    assert nodes['proprio_ingest']['optional_cameras'] == 'cam_low'
    assert describe(GraphOptions()).nodes[1].parameters['optional_cameras'] == ''


def test_an_optional_camera_that_is_frozen_is_left_out_and_a_needed_one_stops_the_observations(ingest) -> None:
    seen(ingest, 'cam_high')
    seen(ingest, 'cam_low')
    ingest.frozen.problems['cam_low'] = 'cam_low shows the same picture'
    ingest._publish()
    assert list(ingest.sent[-1].camera_names) == ['cam_high']
    ingest.frozen.problems['cam_high'] = 'cam_high shows the same picture'
    ingest._publish()
    assert len(ingest.sent) == 1 and ingest.reason == 'cam_high shows the same picture'
