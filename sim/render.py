"""Camera images of simulated worlds: faithful, or fast enough for learning from pixels.

Fast mode draws the convex hulls of the meshes without shadows or multi-sampling.
"""

from __future__ import annotations

import os

import mujoco
import numpy as np

from fpo_ros.policy.transforms import fitted_size, resize_with_pad
from fpo_ros.sim.model import load_model
from fpo_ros.sim.robots import VX300S, robot_of

#: Rows and columns of a frame of the cell's cameras and of gym-aloha's [pixels].
CAMERA_SIZE = (480, 640)


class RenderError(RuntimeError):
    """No picture can be drawn; the message says what is missing."""


def check_camera(camera: str, robot: str = VX300S.name) -> None:
    """Refuse a camera that the simulated cell lacks.

    :raises RenderError: naming the known ones.
    """
    known = robot_of(robot).cameras
    if camera not in known:
        raise RenderError(f"unknown camera '{camera}': known cameras are {', '.join(known)}")


class WorldRenderer:
    """Renders one camera at a time from generalised positions.

    Not thread-safe: the GL context belongs to the thread that made it.

    :param task: key of ``TASKS``.
    :param height: rows [pixels].
    :param width: columns [pixels].
    :param fast: no shadows and no multi-sampling, or gym-aloha's own picture.
    :param hulls: in fast mode, draw the convex hulls of the meshes: many fewer triangles.
    :raises RenderError: when no GL context can be made.
    """

    def __init__(self, task: str, height: int, width: int, fast: bool = True,
                 hulls: bool = True, robot: str = VX300S.name) -> None:
        scene = load_model(task, robot)
        self._robot, model = scene.robot, scene.mj.__copy__()
        model.vis.global_.offheight, model.vis.global_.offwidth = max(height, 480), max(width, 640)
        if fast:
            model.vis.quality.offsamples = 0
            model.vis.global_.offheight, model.vis.global_.offwidth = height, width
        self._model, self._data = model, mujoco.MjData(model)
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:
            raise RenderError(
                f"cannot make a GL context with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: {error}. Install software "
                'GL (Debian/Ubuntu: apt-get install libegl1 libgl1-mesa-dri), or set MUJOCO_GL=osmesa with '
                'libosmesa6 installed. In a program of your own, import fpo_ros.sim before mujoco, which chooses its '
                'GL when it is imported') from error
        self._option = mujoco.MjvOption()
        if fast:
            self._option.flags[mujoco.mjtVisFlag.mjVIS_CONVEXHULL] = hulls
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False

    def render(self, qpos: np.ndarray, camera: str) -> np.ndarray:
        """Return an (H, W, 3) uint8 RGB picture of (nq,) positions.

        :param camera: one of the robot's ``cameras``.
        :raises RenderError: for an unknown camera.
        """
        check_camera(camera, self._robot.name)
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        self._renderer.update_scene(self._data, self._robot.cameras[camera], self._option)
        return self._renderer.render().copy()

    def close(self) -> None:
        """Release the GL context."""
        self._renderer.close()

    def __enter__(self) -> WorldRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BatchRenderer(WorldRenderer):
    """Renders the cameras of a contract for many worlds, as the contract's pictures of real cameras look.

    The cameras' own aspect ratio is drawn, as large as it fits, and goes through the transform of real pictures.

    :param cameras: camera names in the order of the contract.
    :param height: rows of the contract [pixels].
    :param width: columns of the contract [pixels].
    """

    def __init__(self, task: str, cameras: tuple[str, ...], height: int, width: int) -> None:
        super().__init__(task, *fitted_size(CAMERA_SIZE, height, width))
        self._cameras, self._size = cameras, (height, width)

    def render_all(self, qpos: np.ndarray) -> np.ndarray:
        """Return (N, cameras, H, W, 3) uint8 pictures of (N, nq) positions."""
        return np.stack([np.stack([resize_with_pad(self.render(row, camera), *self._size)
                                   for camera in self._cameras]) for row in qpos])
