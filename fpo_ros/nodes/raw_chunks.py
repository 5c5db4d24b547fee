"""Chunk messages written as the bytes that leave, which costs less than to make a message and convert it.

Between two chunks a processor forgets what Python needs for either, which then takes some twenty times as long as in a
loop. The layout is plain CDR (OMG DDSI-RTPS, XCDR1); rclpy publishes it as it is.
"""

from __future__ import annotations

import struct

import numpy as np

from fpo_ros.msg import ActionChunk

#: Plain CDR, little-endian.
_ENCAPSULATION = b'\x00\x01\x00\x00'
_NS = 1_000_000_000


def write_chunk(chunk: np.ndarray, *, sequence: int, observation_ns: int, measured_ns: int, now_ns: int,
                version: str, period_s: float, inference_s: float,
                joining: int = ActionChunk.JOIN_AFTER) -> bytes:
    """Return the serialised ActionChunk of a (horizon, width) chunk.

    :param observation_ns: stamp of the observation that it answers [ns].
    :param measured_ns: when the oldest part of that was measured [ns].
    """
    horizon, width = chunk.shape
    name = version.encode() + b'\x00'
    # From the stamp of the header, whose frame is empty, up to the length of the version.
    head = struct.pack('<iII4xQiIiII', *divmod(now_ns, _NS), 1, sequence, *divmod(observation_ns, _NS),
                       *divmod(measured_ns, _NS), len(name)) + name
    head += bytes(-len(head) % 8) + struct.pack('<dIII', period_s, horizon, width, horizon * width)
    actions = np.ascontiguousarray(chunk, '<f4').tobytes()
    tail = bytes(-(len(head) + len(actions)) % 8) + struct.pack('<dB', inference_s, int(joining))
    return b''.join((_ENCAPSULATION, head, actions, tail))
