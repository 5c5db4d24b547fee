"""Worlds with physics of their own on one compiled model: of every world only what differs is kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import mujoco
import numpy as np

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.model import TaskModel
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation, RandomisationError

#: Scenes whose draws show which numbers of the model a randomisation changes.
_TRIALS = 8


def change_model(model: TaskModel, mj: mujoco.MjModel, data: mujoco.MjData, drawn: EpisodeParameters) -> None:
    """Give a copy of a task's model the physics of an episode, whatever it had before.

    What MuJoCo's compiler derives from masses, sizes and gains follows, by ``mj_setConst``.

    :param mj: the copy.
    :param data: of that model; scratch.
    """
    base = model.mj
    for side in (0, 1):
        joints, gripper = slice(7 * side, 7 * side + 6), 7 * side + 6
        for controls, dofs, columns in ((model.arm_ctrl, model.arm_dofs, joints),
                                        (model.finger_ctrl, model.finger_dofs, gripper)):
            controls, dofs = controls[side], dofs[side]
            # kp of a position servo: force = kp * (control - position) - kv * velocity.
            mj.actuator_gainprm[controls, 0] = base.actuator_gainprm[controls, 0] * drawn.actuator_gain[columns]
            mj.actuator_biasprm[controls, 1] = base.actuator_biasprm[controls, 1] * drawn.actuator_gain[columns]
            mj.dof_frictionloss[dofs] = base.dof_frictionloss[dofs] * drawn.joint_friction[columns]
            mj.dof_damping[dofs] = base.dof_damping[dofs] + drawn.joint_damping[columns]
    mj.geom_friction[:] = base.geom_friction * drawn.contact_friction
    for name, mass in zip(model.task.objects, drawn.object_mass, strict=True):
        body = base.body(name).id
        mj.body_mass[body] = base.body_mass[body] * mass
        # Of bodies alike in shape, inertia goes with mass times length squared.
        mj.body_inertia[body] = base.body_inertia[body] * (mass * drawn.object_size**2)
        geoms, first = _geoms(base, name), base.body_bvhadr[body]
        boxes = slice(first, first + base.body_bvhnum[body])
        for array, rows in (('geom_size', geoms), ('geom_pos', geoms), ('geom_rbound', geoms), ('geom_aabb', geoms),
                            ('bvh_aabb', boxes)):
            getattr(mj, array)[rows] = getattr(base, array)[rows] * drawn.object_size
    mujoco.mj_setConst(mj, data)
    # The compiler's alone, and the scale of the solver's tolerance. The other statistics are for pictures.
    if base.stat.meaninertia == _mean_inertia(base):  # else an author has chosen it
        mj.stat.meaninertia = _mean_inertia(mj)


def _mean_inertia(mj: mujoco.MjModel) -> float:
    """Return the mean inertia of the degrees of freedom at the reference pose, as MuJoCo's compiler adds it up."""
    return float(np.cumsum(mj.dof_M0)[-1] / mj.nv)


def start_pose(model: TaskModel, pose: np.ndarray, drawn: EpisodeParameters) -> np.ndarray:
    """Return (7 * objects,) start poses moved and turned as an episode drew.

    An object of another size starts as far above the table as before.
    """
    moved = pose.reshape(-1, 7).copy()
    for row, name in enumerate(model.task.objects):
        moved[row, :2] += drawn.object_offset_m[row]
        moved[row, 2] += (drawn.object_size - 1.0) * half_extent(model.mj, name)[2]
        half = drawn.object_yaw_rad[row] / 2
        turn = np.array([np.cos(half), 0.0, 0.0, np.sin(half)])
        mujoco.mju_mulQuat(moved[row, 3:], turn, pose[7 * row + 3:7 * row + 7])
    return moved.ravel()


def start_qpos(model: TaskModel, scene: int, drawn: EpisodeParameters | None) -> np.ndarray:
    """Return the (nq,) positions at which an episode begins.

    :param drawn: what it drew; None where nothing is randomised.
    """
    pose = model.task.sample_object_pose(scene)
    if drawn is None:
        return model.start_qpos(pose)
    # The arms measure that they are at the start pose.
    return model.start_qpos(start_pose(model, pose, drawn), START_JOINTS - drawn.joint_offset_rad)


def half_extent(mj: mujoco.MjModel, body: str) -> np.ndarray:
    """Return the (3,) largest distances of an object's surface from its centre along its axes [m]."""
    geoms = _geoms(mj, body)
    return (np.abs(mj.geom_pos[geoms]) + mj.geom_aabb[geoms, 3:]).max(0)


def _geoms(mj: mujoco.MjModel, body: str) -> slice:
    index = mj.body(body).id
    first = mj.body_geomadr[index]
    return slice(first, first + mj.body_geomnum[index])


def check_fits(randomisation: Randomisation, model: TaskModel) -> None:
    """Refuse a randomisation that does not fit a task on a robot.

    :raises RandomisationError: for a camera that the robot lacks, and objects that may start inside each other.
    """
    known = model.robot.cameras
    for name in randomisation.camera_latency_s:
        if name not in known:
            raise RandomisationError(f"camera_latency_s names an unknown camera '{name}'; allowed: {', '.join(known)}")
    size, offset = randomisation.object_size[1], max(map(abs, randomisation.object_offset_m))
    extents = [size * half_extent(model.mj, name)[:2] for name in model.task.objects]
    regions = [np.array(region)[:, :2] for region in model.task.regions]
    for one, other in combinations(range(len(extents)), 2):
        apart = np.maximum(regions[one][0] - regions[other][1], regions[other][0] - regions[one][1]) - 2 * offset
        if any(randomisation.object_yaw_rad):
            gap = np.linalg.norm(np.maximum(apart, 0.0)) - sum(map(np.linalg.norm, (extents[one], extents[other])))
        else:
            gap = (apart - extents[one] - extents[other]).max()
        if gap <= 0:
            raise RandomisationError(
                f'the {model.task.objects[one]} and the {model.task.objects[other]} could start inside each other, by '
                f'{-gap * 1e3:.0f} mm: allowed is less of object_offset_m (up to {offset:g}) or object_size (up to '
                f'{size:g})')


class Dynamics:
    """What differs between the models of many worlds, written into a thread's copy before a world is stepped there.

    Which numbers these are is found by comparing whole models; every world writes all of them, so that nothing of
    the world before it stays.

    :param model: of the task; it stays as it is.
    :param randomisation: what worlds draw from.
    :param worlds: number of worlds N.
    """

    def __init__(self, model: TaskModel, randomisation: Randomisation, worlds: int) -> None:
        self._model, self._scratch = model, model.mj.__copy__()
        self._data = mujoco.MjData(self._scratch)
        self._changed = self._find(randomisation)
        total = sum(len(indices) for indices in self._changed.values())
        self._values = np.zeros((worlds, total))
        self._mean_inertia = np.full(worlds, model.mj.stat.meaninertia)

    def _find(self, randomisation: Randomisation) -> dict[str, np.ndarray]:
        """Return array → flat indices of what some worlds' models have different."""
        changed: dict[str, np.ndarray] = {}
        for scene in range(_TRIALS):
            change_model(self._model, self._scratch, self._data, randomisation.draw(scene, self._model))
            for name, before in model_arrays(self._model.mj):
                other = (getattr(self._scratch, name) != before).ravel()
                if other.any():
                    changed[name] = changed.get(name, False) | other
        return {name: np.flatnonzero(other) for name, other in changed.items()}

    @property
    def active(self) -> bool:
        """Whether any world's model differs."""
        return bool(self._changed)

    def begin(self, world: int, drawn: EpisodeParameters) -> None:
        """Give a world the physics that its episode drew."""
        if not self.active:
            return
        change_model(self._model, self._scratch, self._data, drawn)
        self._values[world] = np.concatenate([values[indices] for values, indices in self.views(self._scratch)])
        self._mean_inertia[world] = self._scratch.stat.meaninertia

    def views(self, mj: mujoco.MjModel) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return what :meth:`write` writes to in a copy of the model: flat arrays, and indices in each."""
        return [(getattr(mj, name).reshape(-1), indices) for name, indices in self._changed.items()]

    def write(self, world: int, mj: mujoco.MjModel, views: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Turn a copy of the model into that of a world.

        :param views: of that copy.
        """
        first, row = 0, self._values[world]
        for values, indices in views:
            last = first + len(indices)
            values[indices] = row[first:last]
            first = last
        mj.stat.meaninertia = self._mean_inertia[world]


def model_arrays(mj: mujoco.MjModel) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and values of every array of a model."""
    for name in dir(mj):
        if not name.startswith('_') and isinstance(value := getattr(mj, name), np.ndarray):
            yield name, value
