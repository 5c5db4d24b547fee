"""A model on which appearances are put for a picture, and taken off again exactly."""

from __future__ import annotations

import mujoco
import numpy as np

from fpo_ros.policy.contract import SIDES
from fpo_ros.sim.appearance import Appearance, Vector
from fpo_ros.sim.model import TaskModel

#: MuJoCo's default colour of a geom, which a material's colour replaces.
_DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)
#: Narrowest and widest field of view of a camera [degrees].
_FOV = (1.0, 170.0)
#: Emission of the background: its colour is so many times weaker, and lights add next to nothing to it.
_GLOW = 1e4


class Dresser:
    """Changes a model as an appearance says.

    :param scene: the model that the appearances were drawn for.
    :param model: a copy of its model in MuJoCo, for pictures.
    """

    def __init__(self, scene: TaskModel, model: mujoco.MjModel) -> None:
        self._scene, self._model = scene, model
        rgba, material = model.geom_rgba.copy(), model.geom_matid
        plain = (material >= 0) & (rgba == np.float32(_DEFAULT_RGBA)).all(1)
        rgba[plain] = model.mat_rgba[material[plain]]
        self._base_rgba = rgba
        self._objects = [_geoms_below(model, name) for name in scene.task.objects]
        self._bodies = [model.body(name).id for name in scene.task.objects]
        self._arms = np.concatenate([_geoms_below(model, scene.robot.arm_body.format(side=side)) for side in SIDES])
        self._table = model.geom(scene.robot.table_top).id
        headlight = model.vis.headlight
        #: What an appearance changes, and how it was.
        self._changed = [(array, array.copy()) for array in (
            model.geom_rgba, model.geom_size, model.cam_fovy, model.light_diffuse, model.light_specular,
            headlight.ambient, headlight.diffuse, headlight.specular)]

    def dress(self, look: Appearance) -> None:
        """Put an appearance on the model; :meth:`undress` takes it off.

        :raises AppearanceError: for one of another model.
        """
        look.check(self._scene)
        rgba, sizes, fovy, diffuse, specular, *headlight = (array for array, _ in self._changed)
        self._paint(rgba, self._arms, look.arm_colour)
        self._paint(rgba, self._table, look.table_colour)
        for geoms, colour in zip(self._objects, look.object_colours, strict=True):
            self._paint(rgba, geoms, colour)
            sizes[geoms] *= look.object_size
        # At 0 the field of view that an author chose stays, however wide it is.
        turned = np.array(look.camera_fov_rad) != 0
        fovy[turned] = np.clip(fovy + np.rad2deg(look.camera_fov_rad), *_FOV)[turned]
        for light in (diffuse, specular):
            light *= np.array(look.light_diffuse)[:, None]
        for light, factor in zip(headlight, (look.ambient, look.headlight, look.headlight), strict=True):
            light *= factor

    def _paint(self, rgba: np.ndarray, geoms: np.ndarray | int, colour: Vector) -> None:
        if any(colour):
            rgba[geoms] = self._base_rgba[geoms]
            rgba[geoms, :3] = np.clip(self._base_rgba[geoms, :3] + np.float32(colour), 0, 1)

    def undress(self) -> None:
        """Give the model its own looks again."""
        for array, before in self._changed:
            array[:] = before

    def place(self, look: Appearance, data: mujoco.MjData) -> None:
        """Move cameras, lights and parts of objects of some data; kinematics and ``mj_camlight`` put them back."""
        if look.object_size != 1.0:
            for geoms, body in zip(self._objects, self._bodies, strict=True):
                centre = data.xpos[body]
                data.geom_xpos[geoms] = centre + (data.geom_xpos[geoms] - centre) * look.object_size
        frames = data.cam_xmat.reshape(-1, 3, 3)
        data.cam_xpos += np.einsum('nij,nj->ni', frames, np.array(look.camera_shifts_m).reshape(-1, 3))
        for index, turn in enumerate(look.camera_turns_rad):
            if any(turn):
                frames[index] = frames[index] @ _rotation(turn)
        data.cam_xmat[:] = frames.reshape(-1, 9)
        data.light_xpos += np.array(look.light_shifts_m).reshape(-1, 3)
        for index, turn in enumerate(look.light_turns_rad):
            if any(turn):
                data.light_xdir[index] = _rotation(turn) @ data.light_xdir[index]


def draw_background(colour: Vector, model: mujoco.MjModel, data: mujoco.MjData, camera: int, aspect: float,
                    scene: mujoco.MjvScene) -> None:
    """Put a wall that glows in a colour behind everything that a camera sees into the geoms to be drawn.

    :param aspect: width of the picture by its height.
    """
    frame = data.cam_xmat[camera].reshape(3, 3)
    far = 0.5 * model.vis.map.zfar * model.stat.extent
    reach = 1.5 * far * np.tan(np.deg2rad(model.cam_fovy[camera]) / 2) * max(1.0, aspect)
    wall = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(wall, mujoco.mjtGeom.mjGEOM_PLANE.value, np.array([reach, reach, 1.0]),
                        data.cam_xpos[camera] - far * frame[:, 2], frame.flatten(),
                        np.float32([*(np.array(colour) / _GLOW), 1.0]))
    wall.emission, wall.specular = _GLOW, 0.0
    wall.category = mujoco.mjtCatBit.mjCAT_DECOR.value
    scene.ngeom += 1


def _geoms_below(model: mujoco.MjModel, body: str) -> np.ndarray:
    """Return the geoms of a body and of all that hangs on it."""
    root, found = model.body(body).id, []
    for geom, at in enumerate(model.geom_bodyid):
        while at not in (0, root):
            at = model.body_parentid[at]
        if at == root:
            found.append(geom)
    return np.array(found, int)


def _rotation(turn: Vector) -> np.ndarray:
    """Return the (3, 3) matrix of a rotation vector [rad]."""
    angle, quaternion, matrix = float(np.linalg.norm(turn)), np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, np.array(turn) / angle, angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)
