"""Pictures of any driver: topic and transport per camera, encodings, compressed ones, and what cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from fpo_ros.hardware.cameras import CameraStream, camera_streams, entries  # noqa: E402
from fpo_ros.hardware.cell import CellError, load_cell  # noqa: E402
from fpo_ros.hardware.images import ImageError, decoded_image, rgb_image  # noqa: E402
from fpo_ros.nodes import convert, qos, raw_images  # noqa: E402
from fpo_ros.nodes.camera_ingest import CameraIngest  # noqa: E402
from fpo_ros.nodes.graph import GraphError, GraphOptions, check_drivers, describe  # noqa: E402
from fpo_ros.nodes.locate import share_path  # noqa: E402
from fpo_ros.nodes.raw_images import read_compressed  # noqa: E402
from fpo_ros.nodes.ros_client import RosClient  # noqa: E402
from fpo_ros.sim.twin.cameras import jpeg_message  # noqa: E402

pytestmark = pytest.mark.ros
STAMP = Time(sec=1_700_000_000, nanosec=123_456_789)
#: Left half red, right half blue.
FRAME = np.zeros((16, 32, 3), np.uint8)
FRAME[:, :16, 0] = FRAME[:, 16:, 2] = 255


def png(pixels: np.ndarray, form: str = 'rgb8; png compressed bgr8') -> CompressedImage:
    """Return a message of (H, W, 3) RGB pixels, as an encoder that takes blue first writes them."""
    message = CompressedImage(format=form, data=cv2.imencode('.png', pixels[..., ::-1])[1].tobytes())
    message.header.stamp, message.header.frame_id = STAMP, 'cam'
    return message


# ---- topics and transports

def test_cameras_are_those_of_realsense_drivers_unless_something_else_is_said() -> None:
    streams = camera_streams(('cam_high', 'cam_low', 'cam_side'), 'image_raw',
                             'cam_low=/usb_cam/image_raw, cam_side = other/image/compressed',
                             'cam_side=compressed,cam_high=compressed')
    assert streams == {'cam_high': CameraStream('cam_high/camera/color/image_raw/compressed', True),
                       'cam_low': CameraStream('/usb_cam/image_raw'),
                       'cam_side': CameraStream('other/image/compressed', True)}
    assert camera_streams(('cam_high',)) == {'cam_high': CameraStream('cam_high/camera/color/image_rect_raw')}
    assert entries('  ', 'image_topics') == {}


@pytest.mark.parametrize(('topics', 'transports', 'why'), [
    ('cam_hihg=/a', '', r"image_topics names camera 'cam_hihg'.*did you mean 'cam_high'"),
    ('', 'cam_low=theora', "'theora' is no transport of pictures: use raw or compressed"),
    ('cam_low=usb cam/image', '', "'usb cam/image' is no topic"), ('cam_low=/1/image', '', 'is no topic'),
    ('cam_low', '', "image_topics 'cam_low' has an incomplete"), ('cam_low=a,cam_low=b', '', 'repeated entry'),
    ('cam_low=/a/compressed', '', "'/a/compressed' holds compressed pictures: set .* to compressed"),
    ('cam_low=/a,cam_high=/a', '', "cameras 'cam_high' and 'cam_low' have the same topic /a")])
def test_streams_that_cannot_be_are_refused_with_what_to_do(topics, transports, why) -> None:
    with pytest.raises(ValueError, match=why):
        camera_streams(('cam_high', 'cam_low'), topics=topics, transports=transports)


@pytest.fixture
def file(tmp_path) -> Path:
    """A copy of the example of a stationary cell."""
    return Path(shutil.copy(share_path('config/cells/aloha_stationary.yaml'), tmp_path / 'cell.yaml'))


def test_the_cells_topics_and_transports_reach_ingestion_twin_and_drivers(file, monkeypatch) -> None:
    file.write_text(file.read_text().replace('topics: {} ', 'topics: {cam_low: /usb_cam/image_raw, side: /s/image} ')
                    .replace('transports: {} ', 'transports: {cam_high: compressed, side: compressed} ')
                    .replace('cam_high: ""', 'cam_high: "21"'))
    options = GraphOptions(mode='real', cell=str(file), cameras='cam_high,cam_low')
    description = describe(options)
    ingest = next(spec.parameters for spec in description.nodes if spec.name == 'camera_ingest')
    assert (ingest['image_topics'], ingest['image_transports']) == ('cam_low=/usb_cam/image_raw', 'cam_high=compressed')
    cameras = [driver for driver in description.drivers if driver.package == 'realsense2_camera']
    assert [driver.namespace for driver in cameras] == ['cam_high'], 'usb_cam is started by whoever has it'
    monkeypatch.setattr('fpo_ros.nodes.drivers.missing_packages', lambda drivers: [])
    check_drivers(description.drivers)  # it has no serial number, and needs none
    twin = describe(GraphOptions(mode='real', use_twin=True, cell=str(file), cameras='cam_high,cam_low')).nodes[0]
    assert {name: twin.parameters[name] for name in ('image_topics', 'image_transports')} == {
        name: ingest[name] for name in ('image_topics', 'image_transports')}


def test_a_realsense_camera_with_a_serial_number_may_have_another_topic(file) -> None:
    file.write_text(file.read_text().replace('topics: {} ', 'topics: {cam_high: cam_high/color/image_rect_raw} ')
                    .replace('cam_high: ""', 'cam_high: "21"'))
    description = describe(GraphOptions(mode='real', cell=str(file)))
    assert description.drivers[-1].namespace == 'cam_high'


@pytest.mark.parametrize(('before', 'after', 'why'), [
    ('topics: {} ', 'topics: {cam_low: "a b"} ', r"cameras\.topics\.cam_low: 'a b' is no topic"),
    ('topics: {} ', 'topics: {cam_low: a/compressed} ', r'cameras\.topics\.cam_low: .* set .* to compressed'),
    ('topics: {} ', 'topics: {"cam low": a} ', r'cameras\.topics\.cam low: a camera is named as ROS names go'),
    ('transports: {} ', 'transports: {cam_low: theora} ', r'transports\.cam_low: must be one of raw, compressed'),
    ('transports: {} ', 'transports: {cam_lo: raw} ', r"transports\.cam_lo: unknown key: did you mean 'cam_low'")])
def test_what_is_wrong_with_a_camera_of_the_cell_is_named(file, before, after, why) -> None:
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(CellError, match=f'cell.yaml.*{why}'):
        load_cell(file)


def test_a_misspelt_camera_of_a_configuration_is_refused(tmp_path) -> None:
    mine = tmp_path / 'mine.yaml'
    mine.write_text('/**: {ros__parameters: {image_topics: cam_hihg=/usb_cam/image_raw}}')
    with pytest.raises(GraphError, match=r"image_topics names camera 'cam_hihg': did you mean 'cam_high'"):
        describe(GraphOptions(mode='real', config=str(mine)))


# ---- encodings

@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422_yuy2', 'YUYV'), ('yuyv', 'YUYV'), ('yuv422', 'UYVY'), ('uyvy', 'UYVY')])
def test_two_pixels_of_yuv_by_hand(encoding, order) -> None:
    """BT.601: white is Y 235 and black Y 16 without colour; Y 81, U 90, V 240 is red."""
    def row(*values: int) -> bytes:
        y0, u, y1, v = values
        return bytes([y0, u, y1, v] if order == 'YUYV' else [u, y0, v, y1])

    pixels = rgb_image(row(235, 128, 16, 128) + row(81, 90, 81, 240), encoding, 2, 2, 4).astype(int)
    np.testing.assert_allclose(pixels, [[[255] * 3, [0] * 3], [[255, 0, 0]] * 2], atol=2)


def test_yuv_rows_with_padding_and_odd_widths() -> None:
    rows = np.zeros((3, 12), np.uint8)
    rows[:, :8] = np.tile([81, 90, 81, 240], 2)
    np.testing.assert_allclose(rgb_image(rows.tobytes(), 'yuyv', 3, 4, 12), np.tile([255, 0, 0], (3, 4, 1)), atol=2)
    with pytest.raises(ImageError, match='3 columns cannot be yuyv'):
        rgb_image(bytes(12), 'yuyv', 2, 3, 6)
    with pytest.raises(ImageError, match="'bayer_rggb8' is not supported: let the driver send rgb8, .*uyvy"):
        rgb_image(bytes(4), 'bayer_rggb8', 2, 2, 2)


# ---- compressed pictures

@pytest.mark.parametrize('form', ['rgb8; png compressed bgr8', 'bgr8; png compressed bgr8', 'png', 'PNG'])
def test_a_compressed_picture_keeps_its_colours(form) -> None:
    found = read_compressed(serialize_message(png(FRAME, form)))
    np.testing.assert_array_equal(found.pixels, FRAME)
    assert (found.stamp_ns, found.frame_id) == (convert.nanoseconds(STAMP), b'cam')


def test_an_encoder_that_took_red_for_blue_says_so_in_the_format() -> None:
    message = png(FRAME[..., ::-1], 'rgb8; png compressed rgb8')
    np.testing.assert_array_equal(read_compressed(serialize_message(message)).pixels, FRAME)


def test_what_the_twin_compresses_is_read_and_grey_becomes_rgb() -> None:
    found = read_compressed(serialize_message(jpeg_message(FRAME, STAMP, 'cam', 95)))
    assert np.abs(found.pixels.astype(int) - FRAME)[:, 4:12].max() < 20
    grey = cv2.imencode('.jpg', FRAME[..., 0])[1].tobytes()
    assert decoded_image(grey, 'mono8; jpeg compressed ').shape == (16, 32, 3)
    assert decoded_image(grey + bytes(37), 'jpeg').shape == (16, 32, 3), 'webcams pad'


def test_compressed_messages_of_another_middleware_are_read_by_its_own_code(monkeypatch) -> None:
    data = serialize_message(png(FRAME))
    monkeypatch.setattr(raw_images, '_ORDERS', {})
    np.testing.assert_array_equal(read_compressed(data).pixels, FRAME)
    with pytest.raises(ImageError, match='cannot be read'):
        read_compressed(data[:10])


@pytest.mark.parametrize('kind', ['.png', '.jpg'])
def test_no_part_of_a_compressed_picture_passes_for_the_whole(kind) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    data, form = cv2.imencode(kind, noise)[1].tobytes(), {'.png': 'png', '.jpg': 'jpeg'}[kind]
    assert decoded_image(data, form).shape == (12, 16, 3)
    for kept in range(len(data)):
        with pytest.raises(ImageError):
            decoded_image(data[:kept], form)


@pytest.mark.parametrize(('form', 'data', 'why'), [
    ('16UC1; compressedDepth', b'', "'16UC1; compressedDepth' is not supported: let the driver send jpeg or png"),
    ('', b'', "format '' is not supported"), ('jpeg', b'\x89PNG\r\n\x1a\n....', 'is no jpeg, as its format'),
    ('jpeg', b'\xff\xd8\xff\xe0....', 'is truncated: its jpeg has no end'),
    ('jpeg', b'\xff\xd8\xff\xd9', 'cannot be decoded'),
    ('png', b'\x89PNG\r\n\x1a\n' + bytes(30) + b'\0\0\0\0IEND\xaeB`\x82', 'cannot be decoded')])
def test_what_is_no_picture_is_refused_with_the_reason(form, data, why) -> None:
    with pytest.raises(ImageError, match=why):
        decoded_image(data, form)


def test_truncated_messages_of_compressed_pictures_are_refused() -> None:
    data = serialize_message(png(FRAME))
    for kept in range(len(data) - 4):
        with pytest.raises(ImageError):
            read_compressed(data[:kept])


# ---- the node

@pytest.fixture
def ingest(ros):
    """An active node with a raw camera of another driver and a compressed one; it keeps what it says and sends."""
    node = CameraIngest(parameter_overrides=[Parameter(name, value=value) for name, value in {
        'cameras': 'cam_usb,cam_high', 'image_topics': 'cam_usb=/usb_cam/image_raw', 'image_width': 32,
        'image_transports': 'cam_high=compressed', 'image_height': 16, 'max_age': 10.0, 'expected_rate': 0.1}.items()])
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    node.said, node.sent = [], {camera: [] for camera in node.outputs}
    node.error_once = node.said.append
    for camera, output in node.outputs.items():
        output.publish = node.sent[camera].append
    yield node
    node.trigger_shutdown()
    node.destroy_node()


def line(node: CameraIngest, camera: str):
    return next(line for line in node.health() if line.part == camera)


def test_pictures_of_both_transports_come_through_dds_at_the_size_of_the_contract(ingest) -> None:
    with RosClient('camera_drivers') as drivers:
        raw = drivers.node.create_publisher(Image, '/usb_cam/image_raw', qos.DRIVER)
        small = drivers.node.create_publisher(CompressedImage, 'cam_high/camera/color/image_rect_raw/compressed',
                                              qos.DRIVER)
        executor = SingleThreadedExecutor()
        executor.add_node(ingest)
        deadline = ingest.steady_ns() + 10_000_000_000
        message = Image(height=16, width=32, encoding='yuv422_yuy2', step=64,
                        data=np.tile(np.uint8([81, 90, 81, 240]), 16 * 16).tobytes())
        while not all(ingest.sent.values()):
            assert ingest.steady_ns() < deadline, f'waited 10 s for a picture of each camera: {ingest.sent}'
            raw.publish(message)
            small.publish(png(FRAME))
            executor.spin_once(timeout_sec=0.05)
        executor.remove_node(ingest)
        executor.shutdown()
    found = {camera: convert.image_array(deserialize_message(sent[0], Image)) for camera, sent in ingest.sent.items()}
    np.testing.assert_array_equal(found['cam_high'], FRAME)
    np.testing.assert_allclose(found['cam_usb'], np.tile([255, 0, 0], (16, 32, 1)), atol=2)
    assert not ingest.said


def test_a_picture_that_cannot_be_read_is_counted_and_named_with_its_topic(ingest) -> None:
    ingest._on_frame('cam_high', read_compressed, serialize_message(png(FRAME))[:-40])
    ingest._on_frame('cam_high', read_compressed, serialize_message(png(FRAME, 'theora')))
    assert not ingest.sent['cam_high'] and line(ingest, 'cam_high').values['rejected'] == 2
    assert ingest.said[0].startswith('cam_high, topic cam_high/camera/color/image_rect_raw/compressed: ')
    assert 'truncated' in ingest.said[0] and 'let the driver send jpeg or png' in ingest.said[1]
    assert 'let the driver send' in line(ingest, 'cam_high').message


def test_a_silent_camera_says_what_its_topic_lacks(ingest) -> None:
    assert 'nobody publishes /usb_cam/image_raw: start its driver' in line(ingest, 'cam_usb').message
    with RosClient('wrong_drivers') as drivers:
        drivers.node.create_publisher(CompressedImage, '/usb_cam/image_raw/compressed', qos.DRIVER)
        other = drivers.node.create_publisher(Image, 'cam_high/camera/color/image_rect_raw/compressed', qos.DRIVER)
        drivers.wait_for(lambda: 'set image_transports to compressed' in line(ingest, 'cam_usb').message,
                         'the topic beside it to be seen', 10.0)
        drivers.wait_for(lambda: 'which holds sensor_msgs/msg/Image' in line(ingest, 'cam_high').message,
                         'the wrong type to be seen', 10.0)
        assert other.topic_name in line(ingest, 'cam_high').message.replace(' cam_high/', ' /cam_high/')
