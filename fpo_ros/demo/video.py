"""A recorded episode as a short film."""

from __future__ import annotations

import io

import av
import numpy as np

from fpo_ros.episodes.store import Episode
from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.sim.model import start_qpos
from fpo_ros.sim.render import WorldRenderer

#: Frames per second of a film: every second control step.
_FPS = 25
_HEIGHT, _WIDTH = 240, 320


def episode_frames(episode: Episode, camera: str = 'cam_angle') -> list[np.ndarray]:
    """Return (H, W, 3) uint8 frames of an episode, 25 per second.

    Where the object's pose was recorded, the scene is drawn from the recorded joints and pose; else the
    recorded camera frames are shown.
    """
    if 'object_pose' not in episode.arrays:
        frames, _ = episode.images(episode.cameras[0])
        return [np.kron(frame, np.ones((3, 3, 1), np.uint8)) for frame in np.asarray(frames)]
    joints, poses = (np.asarray(episode.arrays[name]) for name in ('joint_positions', 'object_pose'))
    every = round(CONTROL_RATE_HZ / _FPS)
    with WorldRenderer(episode.meta.task, _HEIGHT, _WIDTH, fast=True, hulls=False) as renderer:
        return [renderer.render(start_qpos(pose, row), camera)
                for row, pose in zip(joints[::every].astype(float), poses[::every].astype(float), strict=True)]


def encode(frames: list[np.ndarray], fps: int = _FPS) -> bytes:
    """Return frames as an MP4 film that browsers play (H.264, 4:2:0)."""
    buffer = io.BytesIO()
    with av.open(buffer, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=fps, options={'crf': '28', 'preset': 'veryfast'})
        stream.height, stream.width = (side - side % 2 for side in frames[0].shape[:2])
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            image = np.ascontiguousarray(frame[:stream.height, :stream.width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()
