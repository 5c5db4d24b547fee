"""Pictures as a film."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np


def encode(frames: Iterable[np.ndarray], fps: float) -> bytes:
    """Return frames as an MP4 film that browsers play (H.264, 4:2:0).

    :param frames: (H, W, 3) uint8 RGB pictures of one size, at least one; an odd last row or column is left out.
    :param fps: frames per second [Hz].
    :raises ValueError: without a frame.
    """
    buffer = io.BytesIO()
    with av.open(buffer, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=Fraction(fps).limit_denominator(1000),
                                      options={'crf': '28', 'preset': 'veryfast'})
        stream.pix_fmt = 'yuv420p'
        empty = True
        for frame in frames:
            if empty:
                stream.height, stream.width = (side - side % 2 for side in frame.shape[:2])
                empty = False
            image = np.ascontiguousarray(frame[:stream.height, :stream.width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')):
                container.mux(packet)
        if empty:
            raise ValueError('a film needs at least one frame')
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()
