"""Image message buffers, plain and compressed, as (H, W, 3) uint8 RGB arrays."""

from __future__ import annotations

import cv2
import numpy as np

#: Encoding → (channels, order of the colour channels).
_ENCODINGS = {
    'rgb8': (3, (0, 1, 2)),
    'bgr8': (3, (2, 1, 0)),
    'rgba8': (4, (0, 1, 2)),
    'bgra8': (4, (2, 1, 0)),
    'mono8': (1, (0, 0, 0)),
}
#: Encoding with half the columns of colour → OpenCV's conversion (BT.601). usb_cam and v4l2_camera write the first and
#: the third name, sensor_msgs/image_encodings.hpp calls those outdated and has the others.
_YUV = {
    'yuv422_yuy2': cv2.COLOR_YUV2RGB_YUY2,
    'yuyv': cv2.COLOR_YUV2RGB_YUY2,
    'yuv422': cv2.COLOR_YUV2RGB_UYVY,
    'uyvy': cv2.COLOR_YUV2RGB_UYVY,
}
#: Compression → names in ``format``, first bytes, what the last bytes hold, and how many those are. JPEG of webcams
#: may be padded with zeros.
_COMPRESSIONS = {
    'jpeg': (('jpeg', 'jpg'), b'\xff\xd8\xff', b'\xff\xd9', 2),
    'png': (('png',), b'\x89PNG\r\n\x1a\n', b'IEND', 8),
}


class ImageError(ValueError):
    """An image buffer that cannot be read; the message says why."""


def rgb_image(data: bytes | memoryview | np.ndarray, encoding: str, height: int, width: int,
              step: int) -> np.ndarray:
    """Return an (height, width, 3) uint8 RGB view or copy of an image buffer.

    :param data: row-major bytes of sensor_msgs/Image.
    :param encoding: rgb8, bgr8, rgba8, bgra8, mono8 (grey in all three channels), yuyv, uyvy, or an older name of
        those two, yuv422_yuy2 and yuv422.
    :param step: bytes per row, padding included.
    :raises ImageError: for an unknown encoding or a buffer of the wrong size.
    """
    if encoding not in _ENCODINGS and encoding not in _YUV:
        raise ImageError(f"image encoding '{encoding}' is not supported: let the driver send "
                         f'{", ".join([*_ENCODINGS, *_YUV])}')
    channels, order = _ENCODINGS.get(encoding, (2, ()))
    flat = np.frombuffer(data, np.uint8)
    if height < 1 or width < 1 or step < width * channels or flat.size != step * height:
        raise ImageError(f'image buffer of {flat.size} bytes does not hold {height} rows of {width} pixels '
                         f'({encoding}, {step} bytes a row)')
    pixels = flat.reshape(height, step)[:, :width * channels].reshape(height, width, channels)
    if order == (0, 1, 2):
        return pixels[..., :3]
    if order:
        return np.ascontiguousarray(pixels[..., list(order)])
    if width % 2:
        raise ImageError(f'image of {width} columns cannot be {encoding}, in which two pixels share their colour')
    return cv2.cvtColor(pixels, _YUV[encoding])


def decoded_image(data: bytes | memoryview | np.ndarray, form: str) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB pixels of a compressed picture.

    :param data: JPEG or PNG.
    :param form: field ``format`` of sensor_msgs/CompressedImage: ``jpeg`` or ``png``, or as image_transport's
        compressed_publisher.cpp writes it, ``rgb8; jpeg compressed bgr8``. ``compressed rgb8`` means, as in its
        compressed_subscriber.cpp, that the encoder was given red as blue.
    :raises ImageError: for another compression, data that are not what ``form`` says, truncated data, or what OpenCV
        refuses; it takes a JPEG whose middle is damaged.
    """
    words = form.lower().rpartition(';')[2]
    kind = next((kind for kind, (names, *_) in _COMPRESSIONS.items() if any(name in words for name in names)), None)
    if kind is None:
        raise ImageError(f"compressed format '{form}' is not supported: let the driver send jpeg or png")
    flat = np.frombuffer(data, np.uint8)
    _, first, last, size = _COMPRESSIONS[kind]
    if flat[:len(first)].tobytes() != first:
        raise ImageError(f"compressed picture of {flat.size} bytes is no {kind}, as its format '{form}' says")
    # OpenCV gives a truncated picture a grey rest and no error.
    if last not in flat[-4096:].tobytes().rstrip(b'\0')[-size:]:
        raise ImageError(f'compressed picture of {flat.size} bytes is truncated: its {kind} has no end')
    try:
        pixels = cv2.imdecode(flat, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f'compressed picture of {flat.size} bytes cannot be decoded: {error.err}') from error
    if pixels is None:
        raise ImageError(f'compressed picture of {flat.size} bytes cannot be decoded: its {kind} is broken')
    return pixels if 'compressed rgb' in words else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
