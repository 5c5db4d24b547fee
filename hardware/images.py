"""Image message buffers as (H, W, 3) uint8 RGB arrays and back."""

from __future__ import annotations

import numpy as np

#: Encoding → (channels, order of the colour channels).
_ENCODINGS = {
    'rgb8': (3, (0, 1, 2)),
    'bgr8': (3, (2, 1, 0)),
    'rgba8': (4, (0, 1, 2)),
    'bgra8': (4, (2, 1, 0)),
    'mono8': (1, (0, 0, 0)),
}


class ImageError(ValueError):
    """An image buffer that cannot be read; the message says why."""


def rgb_image(data: bytes | memoryview | np.ndarray, encoding: str, height: int, width: int,
              step: int) -> np.ndarray:
    """Return an (height, width, 3) uint8 RGB view or copy of an image buffer.

    :param data: row-major bytes of sensor_msgs/Image.
    :param encoding: rgb8, bgr8, rgba8, bgra8 or mono8.
    :param step: bytes per row, padding included.
    :raises ImageError: for an unknown encoding or a buffer of the wrong size.
    """
    if encoding not in _ENCODINGS:
        raise ImageError(f"image encoding '{encoding}' is not supported: use {', '.join(_ENCODINGS)}")
    channels, order = _ENCODINGS[encoding]
    flat = np.frombuffer(data, np.uint8)
    if height < 1 or width < 1 or step < width * channels or flat.size != step * height:
        raise ImageError(f'image buffer of {flat.size} bytes does not hold {height} rows of {width} pixels '
                         f'({encoding}, {step} bytes a row)')
    pixels = flat.reshape(height, step)[:, :width * channels].reshape(height, width, channels)
    if order == (0, 1, 2):
        return pixels[..., :3]
    return np.ascontiguousarray(pixels[..., list(order)])
