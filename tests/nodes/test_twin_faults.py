"""The twin's node: faults by service and by file, cameras, placing, start-up, the parameters of xs_sdk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from geometry_msgs.msg import Pose  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from fpo_ros.hardware.xs import MOTORS  # noqa: E402
from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.locate import share_path  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.sim.twin.node import DriverTwin  # noqa: E402
from fpo_ros.srv import InjectFault, PlaceObjects  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def make(ros):
    """Return a maker of configured twins, whose bus costs no time."""
    made = []

    def make(**values: object) -> DriverTwin:
        values = {'bus_time_scale': 0.0} | values
        node = DriverTwin(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
        made.append(node)
        return node

    yield make
    for node in made:
        node.trigger_shutdown()
        node.destroy_node()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, f'waited 10 s for {what}'
        time.sleep(0.005)


def fault(node: DriverTwin, **fields) -> InjectFault.Response:
    return node._on_fault(InjectFault.Request(**fields), InjectFault.Response())


def states(node: DriverTwin, arm: str = 'follower_left') -> list[JointState]:
    """Return a list that the arm's joint_states go to from now on."""
    driver, out = next(driver for driver in node.drivers if driver.arm == arm), []

    def keep(message: JointState) -> None:
        copy = JointState(name=list(message.name), position=message.position)
        copy.header.stamp = message.header.stamp
        out.append(copy)

    driver.output.publish = keep
    return out


def configured(node: DriverTwin) -> DriverTwin:
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    return node


def active(node: DriverTwin) -> DriverTwin:
    configured(node)
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    return node


def test_motors_are_pinged_at_the_start_and_torque_comes_as_the_mode_file_says(make) -> None:
    node = configured(make(leaders=True))
    pinged = []
    for driver in node.drivers:
        driver.ping = lambda driver=driver, ping=driver.ping: (ping(), pinged.append(
            driver.core.motors.torque.any()))
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert pinged == [False] * 4
    until(lambda: node.physics.arms['follower_left'].motors.torque.all(), 'the torque of the follower')
    assert not node.physics.arms['leader_left'].motors.torque.any()


def test_real_cells_mode_files_reach_the_motors(make) -> None:
    file = str(share_path('config/follower_left_modes.yaml'))
    node = active(make(left_mode_configs=file))
    left, right = (node.physics.arms[f'follower_{side}'].motors for side in ('left', 'right'))
    until(lambda: left.torque.all() and right.torque.all(), 'the motors')
    assert left.registers[0]['Profile_Velocity'] == 63 and right.registers[0]['Profile_Velocity'] == 0
    assert node.drivers[0].get_parameter('mode_configs').value == file
    assert {'motor_configs', 'load_configs', 'robot_description'} <= set(
        name for name in node.drivers[0]._parameters)


def test_a_motor_that_is_missing_at_the_start_keeps_the_twin_inactive(make, tmp_path) -> None:
    file = tmp_path / 'faults.yaml'
    file.write_text('faults: [{at: 0, fault: missing_motor, target: follower_right, motor: shoulder}]')
    node = configured(make(fault_schedule=str(file)))
    said = []
    node._complain = lambda what, error: said.append(f'{what}: {error}')
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert 'follower_right: motor shoulder (ID 2) does not answer' in said[0]


def test_a_bad_schedule_is_refused_with_its_key_when_the_twin_is_configured(make, tmp_path) -> None:
    file = tmp_path / 'faults.yaml'
    file.write_text('faults: [{at: 0, fault: usb_stall, duraton: 2}]')
    node, said = make(fault_schedule=str(file)), []
    node._complain = lambda what, error: said.append(str(error))
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "faults[0].duraton: unknown key 'duraton': did you mean 'duration'?" in said[0]


def test_scheduled_faults_strike_at_their_time_and_show_in_diagnostics(make, tmp_path) -> None:
    file = tmp_path / 'faults.yaml'
    file.write_text('faults: [{at: 0.2, fault: overload, target: follower_left, motor: gripper},\n'
                    '         {at: 0.3, fault: usb_stall, target: follower_left}]')
    node = active(make(fault_schedule=str(file)))
    until(lambda: node.physics.arms['follower_left'].motors.errors[6], 'the overload')
    assert node.physics.time_s - node.started_s >= 0.2
    until(lambda: node.health()[1].message == 'usb_stall follower_left', 'the stall in the diagnostics')


def test_the_service_refuses_what_cannot_be_and_says_why(make) -> None:
    node = configured(make())
    reply = fault(node, fault='usb_stal', target='follower_left')
    assert not reply.success and "did you mean 'usb_stall'" in reply.message
    assert not fault(node, fault='camera_stall').success, 'it has no cameras'
    assert fault(node, fault='usb_stall', target='follower_left').success
    assert fault(node, fault='clear').success and node.health()[1].message == 'none'


def test_failed_reads_stalls_and_clock_jumps_show_in_joint_states(make) -> None:
    node = configured(make())
    seen = states(node)
    node._tick()
    fault(node, fault='read_failure', target='follower_left')
    node._tick()
    fault(node, fault='read_failure', target='follower_left', value=1.0)
    node._tick()
    assert seen[0].position[1] == pytest.approx(-0.96, abs=0.01)
    assert list(seen[1].position[:7]) == [-math.pi] * 7 and np.isnan(seen[2].position).all()
    fault(node, fault='clear')
    fault(node, fault='usb_stall', target='follower_left', duration=0.05)
    for _ in range(20):
        node._tick()
    assert 16 <= len(seen) - 3 <= 17
    before, now = len(seen), convert.nanoseconds(node.get_clock().now().to_msg())
    fault(node, fault='clock_jump', target='follower_left', value=-30.0)
    node._tick()
    assert (convert.nanoseconds(seen[before].header.stamp) - now) * 1e-9 == pytest.approx(-30.0, abs=0.5)


def test_frozen_reads_repeat_with_fresh_stamps_and_a_missing_joint_is_left_out_while_the_truth_goes_on(make) -> None:
    node, truth = configured(make(ground_truth=True)), []
    seen = states(node)
    node.truth_output.publish = truth.append
    node._tick()
    fault(node, fault='frozen_read', target='follower_left')
    node.physics.arms['follower_left'].group('arm', [0.5, *START_JOINTS[1:6]])
    for _ in range(30):
        node._tick()
    assert all(message.position == seen[0].position for message in seen)
    assert convert.nanoseconds(seen[-1].header.stamp) > convert.nanoseconds(seen[0].header.stamp)
    assert truth[-1].name[0] == 'left_waist' and len(truth[-1].position) == 12
    assert truth[-1].position[0] > 0.3 and max(message.velocity[0] for message in truth) > 1.0
    fault(node, fault='clear')
    fault(node, fault='missing_joint', target='follower_left', motor='elbow')
    node._tick()
    assert 'elbow' not in seen[-1].name and len(seen[-1].name) == len(seen[-1].position) == 8
    assert seen[-1].position[0] > 0.3


def test_joint_states_come_at_100_hz(make) -> None:
    node = active(make())
    seen = states(node)
    until(lambda: len(seen) > 100, '100 joint_states')
    stamps = np.array([convert.nanoseconds(message.header.stamp) for message in seen[:101]])
    periods_s = np.diff(stamps) * 1e-9
    assert np.median(periods_s) == pytest.approx(0.01, abs=0.001), 'a busy machine skips some'
    assert (stamps[-1] - stamps[0]) * 1e-9 > 0.95, 'none is made up for'


@pytest.fixture
def cameras(make):
    """An active twin with two cameras, and what each publishes."""
    node = configured(make(cameras='cam_high,cam_low', compressed=True, image_height=60, image_width=80,
                           camera_rate=20.0))
    frames: dict[str, list] = {'cam_high': [], 'cam_low': [], 'jpeg': []}
    for camera in ('cam_high', 'cam_low'):
        node.camera_outputs[camera][0].publish = frames[camera].append
    node.camera_outputs['cam_low'][1].publish = frames['jpeg'].append
    assert node.camera_outputs['cam_low'][1].topic_name == '/cam_low/camera/color/image_rect_raw/compressed'
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    until(lambda: frames['jpeg'], 'pictures')
    return node, frames


def test_compressed_pictures_show_what_the_others_do(cameras) -> None:
    _, frames = cameras
    jpeg = frames['jpeg'][0]
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert jpeg.format == 'rgb8; jpeg compressed bgr8' and decoded.shape == (60, 80, 3)
    raw = convert.image_array(frames['cam_low'][0]).astype(int)
    assert np.abs(decoded.astype(int) - raw).mean() < 12 and raw.std() > 20


def test_pictures_come_at_the_rate_that_was_asked_for(cameras) -> None:
    node, frames = cameras
    begun, first = time.monotonic(), len(frames['cam_low'])
    until(lambda: len(frames['cam_low']) >= first + 20, '20 pictures')
    assert time.monotonic() - begun > 0.8, 'on a busy machine they may be late, never early'


def test_a_stalled_a_black_and_a_frozen_camera(cameras) -> None:
    node, frames = cameras
    fault(node, fault='camera_stall', target='cam_low')
    begun = len(frames['cam_high'])
    until(lambda: len(frames['cam_high']) > begun + 1, 'the end of the round that was under way')
    count, other = len(frames['cam_low']), len(frames['cam_high'])
    until(lambda: len(frames['cam_high']) > other + 4, 'the other camera')
    assert len(frames['cam_low']) == count
    fault(node, fault='camera_black', target='cam_high')
    until(lambda: not convert.image_array(frames['cam_high'][-1]).any(), 'a black picture')
    fault(node, fault='clear')
    until(lambda: convert.image_array(frames['cam_high'][-1]).any(), 'a picture again')
    fault(node, fault='camera_frozen', target='cam_high')
    time.sleep(0.1)
    frozen = frames['cam_high'][-1]
    node.physics.arms['follower_right'].group('arm', [1.0, *START_JOINTS[1:6]])
    until(lambda: node.physics.measure('follower_right').positions[0] > 0.8, 'the arm to move')
    last = frames['cam_high'][-1]
    assert last.data == frozen.data
    assert convert.nanoseconds(last.header.stamp) > convert.nanoseconds(frozen.header.stamp)
    fault(node, fault='clear')
    until(lambda: frames['cam_high'][-1].data != frozen.data, 'the camera to see the arm')


def test_objects_are_placed_by_service(make) -> None:
    node = configured(make())
    pose = convert.pose_message(np.array([0.05, 0.5, 0.02, 1.0, 0.0, 0.0, 0.0]))
    reply = node._on_place(PlaceObjects.Request(task='transfer_cube', object_poses=[pose]), PlaceObjects.Response())
    assert reply.success and node.physics.object_pose()[:3] == pytest.approx([0.05, 0.5, 0.02])
    for request, why in ((PlaceObjects.Request(task='insertion'), 'is not simulated here'),
                         (PlaceObjects.Request(task='transfer_cube'), '0 poses for 1 objects'),
                         (PlaceObjects.Request(task='transfer_cube', object_poses=[Pose()] * 2), '2 poses for 1')):
        reply = node._on_place(request, PlaceObjects.Response())
        assert not reply.success and why in reply.message


@pytest.mark.parametrize('message', [JointState(name=['toe'], position=[0.0]), JointState(name=list(MOTORS)),
                                     JointState(name=['waist'], position=[math.nan])])
def test_a_hand_that_is_none_is_refused(make, message) -> None:
    node, pulled = configured(make(leaders=True)), []
    node.physics.pull_leader = lambda *args: pulled.append(args)
    node._on_hand('left', message)
    node._on_hand('left', JointState(name=['waist'], position=[0.5]))
    assert pulled == [('left', {0: 0.5})]
