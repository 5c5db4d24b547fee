"""Pictures as DDS carries them: read and written as rclpy does, without its copies."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from fpo_ros.hardware.images import ImageError  # noqa: E402
from fpo_ros.nodes import convert, raw_images  # noqa: E402
from fpo_ros.nodes.raw_images import read_image, write_image  # noqa: E402

pytestmark = pytest.mark.ros
STAMP = Time(sec=1_700_000_000, nanosec=123_456_789)
FRAME = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


@pytest.mark.parametrize('frame_id', ['', 'a', 'cam', 'cam_high_color_optical_frame', 'ä'])
def test_what_rclpy_writes_is_read_and_what_is_written_rclpy_reads(frame_id) -> None:
    message = convert.image_message(FRAME, STAMP, frame_id)
    found = read_image(serialize_message(message))
    assert (found.stamp_ns, found.frame_id.decode()) == (convert.nanoseconds(STAMP), frame_id)
    np.testing.assert_array_equal(found.pixels, FRAME)
    assert deserialize_message(write_image(found), Image) == message


def test_padded_rows_and_other_colour_orders() -> None:
    rows = np.zeros((4, 20), np.uint8)
    rows[:, :18] = FRAME[..., ::-1].reshape(4, 18)
    message = Image(height=4, width=6, encoding='bgr8', step=20, data=rows.tobytes())
    np.testing.assert_array_equal(read_image(serialize_message(message)).pixels, FRAME)


def test_big_endian_and_unknown_encodings_of_the_message(monkeypatch) -> None:
    message = convert.image_message(FRAME, STAMP, 'cam')
    little = serialize_message(message)
    big = bytearray(b'\x00\x00\x00\x00')
    for at, size in ((4, 4), (8, 4), (12, 4)):
        big += little[at:at + size][::-1]
    big += little[16:20]  # the text
    for at in (20, 24, 28):
        big += little[at:at + 4][::-1]
    big += little[32:40]  # the encoding, is_bigendian, padding
    for at in (40, 44):
        big += little[at:at + 4][::-1]
    big += little[48:]
    found = read_image(bytes(big))
    assert found.stamp_ns == convert.nanoseconds(STAMP)
    np.testing.assert_array_equal(found.pixels, FRAME)
    monkeypatch.setattr(raw_images, '_ORDERS', {})  # as of another middleware
    np.testing.assert_array_equal(read_image(little).pixels, FRAME)


@pytest.mark.parametrize('kept', [0, 2, 10, 18, 30, 45, 60])
def test_truncated_messages_are_refused(kept) -> None:
    data = serialize_message(convert.image_message(FRAME, STAMP, 'cam'))[:kept]
    with pytest.raises(ImageError):
        read_image(data)
