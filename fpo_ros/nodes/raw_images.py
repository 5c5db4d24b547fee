"""Pictures as the bytes that DDS carries: rclpy would copy every pixel several times on the way to a message.

The layout is CDR (OMG DDSI-RTPS 2.5, chapter 10): four bytes that name the encoding, then the fields in order, numbers
aligned to their size, text and sequences behind their length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from fpo_ros.hardware.images import ImageError, decoded_image, rgb_image

#: Encodings that are read here, all alike for these fields: CDR and plain CDR2, big and little endian.
_ORDERS = {b'\x00\x00': '>', b'\x00\x01': '<', b'\x00\x06': '>', b'\x00\x07': '<'}
_START = 4


@dataclass(frozen=True)
class RawImage:
    """A picture and its header.

    :param stamp_ns: instant of the picture [ns].
    :param frame_id: its frame.
    :param pixels: (H, W, 3) uint8 RGB.
    """

    stamp_ns: int
    frame_id: bytes
    pixels: np.ndarray


def read_image(data: bytes) -> RawImage:
    """Return the picture of a serialised sensor_msgs/Image; its pixels are a view of ``data`` where they are RGB.

    :raises fpo_ros.hardware.images.ImageError: for an unsupported encoding, a wrong size or a truncated message.
    """
    order = _ORDERS.get(bytes(data[:2]))
    if order is None:
        message = _deserialised(data, Image)
        return RawImage(*_header(message), rgb_image(
            message.data, message.encoding, message.height, message.width, message.step))
    try:
        sec, nanosec = struct.unpack_from(f'{order}iI', data, _START)
        frame_id, at = _text(data, order, _START + 8)
        height, width = struct.unpack_from(f'{order}II', data, at := _aligned(at))
        encoding, at = _text(data, order, at + 8)
        step, size = struct.unpack_from(f'{order}II', data, at := _aligned(at + 1))  # after is_bigendian
    except struct.error as error:
        raise ImageError(f'an image message of {len(data)} bytes is truncated') from error
    pixels = memoryview(data)[at + 8:at + 8 + size]
    return RawImage(sec * 1_000_000_000 + nanosec, frame_id,
                    rgb_image(pixels, encoding.decode('ascii', 'replace'), height, width, step))


def read_compressed(data: bytes) -> RawImage:
    """Return the decoded picture of a serialised sensor_msgs/CompressedImage.

    :raises fpo_ros.hardware.images.ImageError: for an unsupported format, or a picture or message that is truncated.
    """
    order = _ORDERS.get(bytes(data[:2]))
    if order is None:
        message = _deserialised(data, CompressedImage)
        return RawImage(*_header(message), decoded_image(message.data, message.format))
    try:
        sec, nanosec = struct.unpack_from(f'{order}iI', data, _START)
        frame_id, at = _text(data, order, _START + 8)
        form, at = _text(data, order, _aligned(at))
        size, = struct.unpack_from(f'{order}I', data, at := _aligned(at))
    except struct.error as error:
        raise ImageError(f'an image message of {len(data)} bytes is truncated') from error
    picture = memoryview(data)[at + 4:at + 4 + size]
    if len(picture) != size:
        raise ImageError(f'an image message of {len(data)} bytes is truncated')
    return RawImage(sec * 1_000_000_000 + nanosec, frame_id, decoded_image(picture, form.decode('ascii', 'replace')))


def write_image(image: RawImage) -> bytes:
    """Return the serialised rgb8 message of a picture."""
    height, width = image.pixels.shape[:2]
    head = bytearray(b'\x00\x01\x00\x00')
    head += struct.pack('<iI', *divmod(image.stamp_ns, 1_000_000_000))
    head += struct.pack('<I', len(image.frame_id) + 1) + image.frame_id + b'\x00'
    head += bytes(_aligned(len(head)) - len(head)) + struct.pack('<III', height, width, 5) + b'rgb8\x00'
    head += b'\x00'  # is_bigendian
    head += bytes(_aligned(len(head)) - len(head)) + struct.pack('<II', 3 * width, 3 * width * height)
    return b''.join((head, np.ascontiguousarray(image.pixels)))


def _deserialised(data: bytes, kind: type) -> Any:
    """Return a message in an encoding of another middleware, which its own code reads."""
    try:
        return deserialize_message(data, kind)
    except RuntimeError as error:  # RMWError is one
        raise ImageError(f'an image message of {len(data)} bytes cannot be read: {error}') from error


def _header(message: Any) -> tuple[int, bytes]:
    """Return stamp [ns] and frame of a message."""
    stamp = message.header.stamp
    return stamp.sec * 1_000_000_000 + stamp.nanosec, message.header.frame_id.encode()


def _aligned(at: int) -> int:
    """Return the next multiple of four; the encoding's own four bytes change nothing."""
    return at + -at % 4


def _text(data: bytes, order: str, at: int) -> tuple[bytes, int]:
    """Return a text without its final zero, and where it ends."""
    size, = struct.unpack_from(f'{order}I', data, at)
    return bytes(data[at + 4:at + 4 + size - 1]) if size else b'', at + 4 + size
