"""A recorded episode as a short film."""

from __future__ import annotations

import numpy as np

from fpo_ros.episodes.store import Episode
from fpo_ros.sim.model import load_model
from fpo_ros.sim.render import WorldRenderer

#: Control steps between the frames of a drawn film.
_EVERY = 2
_HEIGHT, _WIDTH = 240, 320


def episode_frames(episode: Episode, camera: str = 'cam_angle') -> tuple[list[np.ndarray], float]:
    """Return (H, W, 3) uint8 frames of an episode and how many of them are one second [Hz].

    Where the object's pose was recorded, the scene is drawn from the recorded joints and pose; else the
    recorded camera frames are shown.

    :raises RenderError: when nothing can be drawn.
    """
    rate_hz = episode.meta.control_rate_hz
    if 'object_pose' not in episode.arrays:
        frames, steps = episode.images(episode.cameras[0])
        every = (steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 1
        return [np.kron(frame, np.ones((3, 3, 1), np.uint8)) for frame in frames], float(rate_hz / every)
    joints, poses = (np.asarray(episode.arrays[name]) for name in ('joint_positions', 'object_pose'))
    with WorldRenderer(episode.meta.task, _HEIGHT, _WIDTH) as renderer:
        scene = load_model(episode.meta.task)
        return [renderer.render(scene.start_qpos(pose, row), camera)
                for row, pose in zip(joints[::_EVERY].astype(float), poses[::_EVERY].astype(float), strict=True)
                ], rate_hz / _EVERY
