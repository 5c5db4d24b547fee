"""Camera images of simulated worlds: gym-aloha's own, to the byte, or fast enough for learning from pixels."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Sequence
from functools import cache

import mujoco
import numpy as np

from fpo_ros.policy.contract import SIDES
from fpo_ros.policy.transforms import fitted_size
from fpo_ros.sim.appearance import Appearance
from fpo_ros.sim.decimation import decimate_model
from fpo_ros.sim.dressing import Dresser, draw_background
from fpo_ros.sim.latency import Seen
from fpo_ros.sim.model import load_model
from fpo_ros.sim.robots import VX300S, robot_of

#: Rows and columns of a frame of the cell's cameras and of gym-aloha's [pixels].
CAMERA_SIZE = (480, 640)
#: ``'fast'``: without shadows and smoothed edges, from meshes of an eighth of the faces. ``'faithful'``: what
#: ``physics.render`` of gym-aloha's environments returns, every byte of it.
MODES = ('fast', 'faithful')
#: A group of geoms that MuJoCo does not draw unless it is asked to.
_UNDRAWN = 5


class RenderError(RuntimeError):
    """No picture can be drawn; the message says what is missing."""


def check_camera(camera: str, robot: str = VX300S.name) -> None:
    """Refuse a camera that the simulated cell lacks.

    :raises RenderError: naming the known ones.
    """
    known = robot_of(robot).cameras
    if camera not in known:
        raise RenderError(f"unknown camera '{camera}': known cameras are {', '.join(known)}")


def check_mode(mode: str) -> str:
    """Return a mode of drawing.

    :raises RenderError: for an unknown one, naming the known ones.
    """
    if mode not in MODES:
        raise RenderError(f"unknown mode '{mode}' of drawing: use {' or '.join(MODES)}")
    return mode


@cache
def _open_renderers() -> weakref.WeakSet[mujoco.Renderer]:
    """Return those that are closed when the interpreter ends; call it when a GL context was made.

    Contexts that outlive GL end in a traceback. MuJoCo ends GL at exit too: what is registered last comes first.
    """
    renderers: weakref.WeakSet[mujoco.Renderer] = weakref.WeakSet()
    atexit.register(lambda: [renderer.close() for renderer in list(renderers)])
    return renderers


class WorldRenderer:
    """Renders cameras from generalised positions.

    Not thread-safe: the GL context belongs to the thread that made it.

    :param task: key of ``TASKS``.
    :param height: rows [pixels].
    :param width: columns [pixels].
    :param mode: one of :data:`MODES`.
    :param robot: key of ``ROBOTS``.
    :raises RenderError: for an unknown mode, a size below one pixel, and when no GL context can be made.
    """

    def __init__(self, task: str, height: int, width: int, mode: str = 'fast', robot: str = VX300S.name) -> None:
        self._fast = check_mode(mode) == 'fast'
        if height < 1 or width < 1:
            raise RenderError(f'a picture of {height} rows and {width} columns cannot be drawn: use 1 or more')
        scene = load_model(task, robot)
        self._robot, model = scene.robot, scene.mj.__copy__()
        for side in SIDES:  # gym-aloha's models do not have them
            model.site(f'{side}/tool').rgba[3] = 0.0
        size = model.vis.global_
        if self._fast:
            model.vis.quality.offsamples = 0
            size.offheight, size.offwidth = height, width
            decimate_model(model)
        else:
            size.offheight, size.offwidth = max(height, size.offheight), max(width, size.offwidth)
        self._aspect = width / height
        self._model, self._data = model, mujoco.MjData(model)
        self._cameras = {name: _fixed(model.camera(theirs).id) for name, theirs in scene.robot.cameras.items()}
        self._dresser = Dresser(scene, model)
        self._groups, self._radius = model.geom_group.copy(), _radii(model)
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:
            raise RenderError(
                f'cannot make a GL context with MUJOCO_GL={os.environ.get("MUJOCO_GL", "")}: {error}. Install software '
                'GL (Debian/Ubuntu: apt-get install libegl1 libgl1-mesa-dri), or set MUJOCO_GL=osmesa with '
                'libosmesa6 installed. In a program of your own, import fpo_ros.sim before mujoco, which chooses its '
                'GL when it is imported') from error
        _open_renderers().add(self._renderer)
        if self._fast:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = False

    def render(self, qpos: np.ndarray, camera: str, appearance: Appearance | None = None,
               frame: int = 0) -> np.ndarray:
        """Return an (H, W, 3) uint8 RGB picture of (nq,) positions.

        :param camera: one of the robot's ``cameras``.
        :param appearance: what it looks like; as the model says if None.
        :param frame: number of the frame, from 0; noise of an appearance depends on it.
        :raises RenderError: for an unknown camera.
        :raises AppearanceError: for an appearance of another model.
        """
        return self._pictures(qpos, (camera,), appearance, frame)[0]

    def _pictures(self, qpos: np.ndarray, cameras: Sequence[str], look: Appearance | None,
                  frame: int) -> list[np.ndarray]:
        """Return a picture of each camera; what they share is computed once."""
        for camera in cameras:
            check_camera(camera, self._robot.name)
        model, data = self._model, self._data
        if np.shape(qpos) != (model.nq,):
            raise ValueError(f'positions have shape {np.shape(qpos)}, expected ({model.nq},) of one world')
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        if look is None:
            return [self._draw(self._cameras[camera]) for camera in cameras]
        try:
            self._dresser.dress(look)
            self._dresser.place(look, data)
            pictures = [self._draw(self._cameras[camera], look) for camera in cameras]
        finally:
            self._dresser.undress()
        return [look.of_sensor(picture, frame, self._cameras[camera].fixedcamid)
                for picture, camera in zip(pictures, cameras, strict=True)]

    def _draw(self, camera: mujoco.MjvCamera, look: Appearance | None = None) -> np.ndarray:
        model, data = self._model, self._data
        if self._fast:
            model.geom_group[:] = np.where(self._out_of_view(camera.fixedcamid, look), _UNDRAWN, self._groups)
        self._renderer.update_scene(data, camera)
        if look is not None and any(look.background):
            draw_background(look.background, model, data, camera.fixedcamid, self._aspect,
                            self._renderer.scene)
        return self._renderer.render()

    def _out_of_view(self, camera: int, look: Appearance | None) -> np.ndarray:
        """Return (ngeom,) bool, the geoms of which a camera sees nothing: drawing them would take time for nothing.

        A sphere around each is held against the planes through the camera and the borders of the picture.
        """
        model, data = self._model, self._data
        if model.cam_sensorsize[camera].any():  # its field of view is given otherwise
            return np.zeros(model.ngeom, bool)
        seen = (data.geom_xpos - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
        up = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
        slopes = np.array([up * self._aspect, up])
        ahead = -seen[:, 2:]
        beyond = (np.abs(seen[:, :2]) - ahead * slopes) / np.hypot(1, slopes)
        return np.maximum(beyond, -ahead).max(1) > self._radius * max(1.0, look.object_size if look else 1.0)

    def close(self) -> None:
        """Release the GL context."""
        self._renderer.close()

    def __enter__(self) -> WorldRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BatchRenderer(WorldRenderer):
    """Renders the cameras of a contract for many worlds, as the contract's pictures of real cameras look.

    The cameras' own aspect ratio is drawn, as large as it fits, and stands in the middle of black, where the
    transform of real pictures puts it.

    :param cameras: camera names in the order of the contract.
    :param height: rows of the contract [pixels].
    :param width: columns of the contract [pixels].
    :raises RenderError: for an unknown camera, and as :class:`WorldRenderer`.
    """

    def __init__(self, task: str, cameras: tuple[str, ...], height: int, width: int, mode: str = 'fast',
                 robot: str = VX300S.name) -> None:
        for camera in cameras:
            check_camera(camera, robot)
        rows, columns = fitted_size(CAMERA_SIZE, height, width)
        super().__init__(task, rows, columns, mode, robot)
        self._names, self._size = cameras, (height, width)
        top, left = (height - rows) // 2, (width - columns) // 2
        self._filled = slice(top, top + rows), slice(left, left + columns)

    def render_all(self, qpos: np.ndarray, appearances: Sequence[Appearance | None] | None = None,
                   frames: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return (N, cameras, H, W, 3) uint8 pictures of (N, nq) or (N, cameras, nq) positions.

        :param appearances: N of them, one per world; all as the model says if None.
        :param frames: (N,) or (N, cameras) numbers of frames, from 0, for the noise; all 0 if None.
        :raises ValueError: for another number of appearances or frames.
        """
        count = len(qpos)
        looks = [None] * count if appearances is None else appearances
        numbers = [0] * count if frames is None else frames
        if len(looks) != count or len(numbers) != count:
            raise ValueError(f'{len(looks)} appearances and {len(numbers)} frame numbers for {count} worlds: give one '
                             'of each per world')
        out = np.zeros((count, len(self._names), *self._size, 3), np.uint8)
        for world, (row, look, number) in enumerate(zip(qpos, looks, numbers, strict=True)):
            if np.ndim(row) == 1 and np.ndim(number) == 0:
                pictures = self._pictures(row, self._names, look, int(number))
            else:  # each camera has a time of its own
                rows, each = np.broadcast_to(row, (len(self._names), self._model.nq)), len(self._names)
                pictures = [self._pictures(one, (name,), look, int(which))[0] for one, name, which in
                            zip(rows, self._names, np.broadcast_to(number, each), strict=True)]
            for index, picture in enumerate(pictures):
                out[world, index][self._filled] = picture
        return out

    def render_seen(self, seen: Seen) -> np.ndarray:
        """Return (N, cameras, H, W, 3) uint8 pictures that the cameras of N randomised worlds show."""
        columns = [list(self._cameras).index(name) for name in self._names]
        return self.render_all(seen.camera_qpos[:, columns], list(seen.looks), seen.camera_frames[:, columns])


def _fixed(camera: int) -> mujoco.MjvCamera:
    """Return the view of a camera of the model."""
    view = mujoco.MjvCamera()
    view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, camera
    return view


def _radii(model: mujoco.MjModel) -> np.ndarray:
    """Return (ngeom,) radii of spheres around the geoms [m], infinite for a plane."""
    radius = np.where(model.geom_rbound > 0, model.geom_rbound, np.inf)
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
        mesh = model.geom_dataid[geom]
        start = model.mesh_vertadr[mesh]
        radius[geom] = np.linalg.norm(model.mesh_vert[start:start + model.mesh_vertnum[mesh]], axis=1).max()
    return radius
