"""What the environments show: joints, object poses and pictures, as arrays and as gymnasium spaces."""

from __future__ import annotations

import atexit
import weakref
from functools import cache
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces

from fpo_ros.policy.contract import ACTION_DIM
from fpo_ros.sim.appearance import Appearance
from fpo_ros.sim.latency import Seen
from fpo_ros.sim.model import TaskModel
from fpo_ros.sim.render import CAMERA_SIZE, WorldRenderer, check_camera
from fpo_ros.sim.robots import Robot

#: ``'state'``: ``agent_pos`` and ``environment_state``. ``'pixels'`` and ``'pixels_agent_pos'``: as gym-aloha's.
OBS_TYPES = ('state', 'pixels', 'pixels_agent_pos')
#: Bound of joints, as gym-aloha declares it [rad, grippers 0..1].
_JOINT_BOUND = 1000.0


def cell_camera(name: str, robot: Robot) -> str:
    """Return the cell's name of a camera that is named so (``cam_high``) or as in the model (``top``).

    :raises RenderError: for an unknown one.
    """
    for ours, in_model in robot.cameras.items():
        if name in (ours, in_model):
            return ours
    check_camera(name, robot.name)
    raise AssertionError('check_camera refuses what is not among the cameras')


def action_space_of(model: TaskModel) -> spaces.Box:
    """Return the space of (14,) float32 joint targets within each joint's own range [rad, grippers 0..1]."""
    return spaces.Box(model.lower.astype(np.float32), model.upper.astype(np.float32), dtype=np.float32)


class Observations:
    """Observations of a model, and the pictures beside them.

    Renderers are made when a picture is first asked for: what looks at none needs no GL, and a process may fork
    before. Not thread-safe, as the renderer is not.

    :param obs_type: one of :data:`OBS_TYPES`.
    :param cameras: names, the cell's or the model's; they are the keys of the pictures. The overhead camera if None,
        by the model's name, ``top`` for gym-aloha's.
    :param size: rows and columns of a picture that is observed [pixels].
    :param fast: quick pictures, or gym-aloha's own.
    :raises ValueError: for an unknown ``obs_type``, no or a repeated camera, or a size below one pixel.
    :raises RenderError: for an unknown camera.
    """

    def __init__(self, model: TaskModel, obs_type: str = 'state', cameras: tuple[str, ...] | None = None,
                 size: tuple[int, int] = CAMERA_SIZE, fast: bool = False) -> None:
        if obs_type not in OBS_TYPES:
            raise ValueError(f"unknown obs_type '{obs_type}': use {', '.join(OBS_TYPES)}")
        if isinstance(cameras, str):
            raise ValueError(f"cameras must be a list of names, got '{cameras}': write ['{cameras}']")
        cameras = (next(iter(model.robot.cameras.values())),) if cameras is None else tuple(cameras)
        if not cameras or len(set(cameras)) < len(cameras):
            raise ValueError(f'cameras must be different names, at least one, got {list(cameras)}')
        self._cameras = {name: cell_camera(name, model.robot) for name in cameras}
        self._model, self._obs_type, self._fast = model, obs_type, fast
        self._size = checked_size(size)
        self._renderers: dict[tuple[int, int], WorldRenderer] = {}
        self.space = self._space()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, as they were asked for."""
        return tuple(self._cameras)

    def _space(self) -> spaces.Dict:
        pixels = spaces.Dict({name: spaces.Box(0, 255, (*self._size, 3), np.uint8) for name in self._cameras})
        if self._obs_type == 'pixels':
            return pixels
        joints = spaces.Box(-_JOINT_BOUND, _JOINT_BOUND, (ACTION_DIM,), np.float64)
        if self._obs_type == 'pixels_agent_pos':
            return spaces.Dict({'pixels': pixels, 'agent_pos': joints})
        # Beyond this bound MuJoCo takes positions for diverged.
        poses = spaces.Box(-mujoco.mjMAXVAL, mujoco.mjMAXVAL, self._model.object_qpos.shape, np.float64)
        return spaces.Dict({'agent_pos': joints, 'environment_state': poses})

    def of(self, qpos: np.ndarray, seen: Seen | None = None) -> dict[str, Any]:
        """Return the observation of (..., nq) generalised positions, an element of :attr:`space` for (nq,).

        ``agent_pos`` is (..., 14) [rad, grippers 0..1]; ``environment_state`` (..., 7 * objects) positions [m] and
        quaternions (w, x, y, z) in gym-aloha's "world"; pictures are (..., H, W, 3) uint8 RGB.

        :param seen: what the sensors show of a randomised world, or of (...,) many: joints and pictures are its; the
            poses of objects, which no sensor measures, are true.
        :raises RenderError: when pictures are wanted and no GL context can be made.
        """
        if self._obs_type == 'state':
            return {'agent_pos': self._joints(qpos, seen), 'environment_state': self._model.object_pose_of(qpos)}
        pixels = {name: self._pictures(qpos, camera, seen) for name, camera in self._cameras.items()}
        if self._obs_type == 'pixels':
            return pixels
        return {'pixels': pixels, 'agent_pos': self._joints(qpos, seen)}

    def _joints(self, qpos: np.ndarray, seen: Seen | None) -> np.ndarray:
        return self._model.joints_of(qpos) if seen is None else seen.joints.copy()

    def _pictures(self, qpos: np.ndarray, camera: str, seen: Seen | None) -> np.ndarray:
        if seen is not None:
            qpos = seen.camera_qpos[..., self._number(camera), :]
        rows = qpos.reshape(-1, qpos.shape[-1])
        out = np.empty((len(rows), *self._size, 3), np.uint8)
        for picture, row, look in zip(out, rows, self._looks(seen, camera, len(rows)), strict=True):
            picture[:] = self._renderer(self._size).render(row, camera, *look)
        return out.reshape(*qpos.shape[:-1], *self._size, 3)

    def _looks(self, seen: Seen | None, camera: str, count: int) -> list[tuple[Appearance | None, int]]:
        """Return appearance and number of the frame of ``count`` pictures of a camera."""
        if seen is None:
            return [(None, 0)] * count
        frames = seen.camera_frames[..., self._number(camera)]
        return list(zip(np.ravel(seen.looks), np.ravel(frames).tolist(), strict=True))

    def _number(self, camera: str) -> int:
        return list(self._model.robot.cameras).index(camera)

    def frame(self, qpos: np.ndarray, seen: Seen | None, size: tuple[int, int]) -> np.ndarray:
        """Return the (H, W, 3) uint8 RGB picture of the first camera in a size of its own, for people to look at.

        :param seen: of the world: the picture has its looks, but is neither late nor lost.
        """
        camera = next(iter(self._cameras.values()))
        [look] = self._looks(seen, camera, 1)
        return self._renderer(size).render(qpos, camera, *look)

    def _renderer(self, size: tuple[int, int]) -> WorldRenderer:
        if size not in self._renderers:
            task, robot = self._model.task.name, self._model.robot.name
            self._renderers[size] = WorldRenderer(task, *size, 'fast' if self._fast else 'faithful', robot)
            _closed_at_exit().add(self)
        return self._renderers[size]

    def close(self) -> None:
        """Release the GL contexts; they are made anew when needed."""
        while self._renderers:
            self._renderers.popitem()[1].close()


@cache
def _closed_at_exit() -> weakref.WeakSet[Observations]:
    """Return those that are closed when the interpreter ends; call it when a GL context was made.

    Contexts that outlive GL end in a traceback. MuJoCo ends GL at exit too: what is registered last comes first.
    """
    some: weakref.WeakSet[Observations] = weakref.WeakSet()
    atexit.register(lambda: [one.close() for one in list(some)])
    return some


def checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of a picture.

    :raises ValueError: for less than one pixel or anything but whole numbers.
    """
    if not all(isinstance(side, (int, np.integer)) and side >= 1 for side in size):
        raise ValueError(f'a picture of {size[0]} rows and {size[1]} columns cannot be drawn: use whole numbers from 1')
    return int(size[0]), int(size[1])
