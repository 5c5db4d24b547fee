"""The compiled model of a task on a robot, with native contact sensors and tool sites, and how to read it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, CONTROL_RATE_HZ, SIDES, START_JOINTS
from fpo_ros.sim.aloha2 import build_scene
from fpo_ros.sim.robots import ALOHA2, VX300S, Robot, robot_of
from fpo_ros.sim.task import Contact, Task, task_of

#: MuJoCo steps of 2 ms per control step of 20 ms (gym-aloha constants.py, DT).
SUBSTEPS = 10
_GEOM, _BODY, _SUBTREE = mujoco.mjtObj.mjOBJ_GEOM, mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_XBODY


def task_xml(task: str) -> Path:
    """Return the path of gym-aloha's model of a task.

    :raises UnknownTaskError: if there is no such task.
    :raises ModuleNotFoundError: without gym-aloha.
    """
    name = task_of(task).model
    spec = importlib.util.find_spec('gym_aloha')
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError('gym-aloha is not installed: pip install --no-deps gym-aloha')
    return Path(spec.submodule_search_locations[0]) / 'assets' / name


class TaskModel:
    """A model in MuJoCo, and the columns of joints, fingers, objects and contacts in it.

    :param task: what is to be done.
    :param robot: with which arms.
    :param spec: the model; contact sensors and a site ``<side>/tool`` per gripper are added to it.
    """

    def __init__(self, task: Task, robot: Robot, spec: mujoco.MjSpec) -> None:
        self.task, self.robot = task, robot
        for name, contact in task.contacts.items():
            for number, geom in enumerate(contact.geoms):
                kind, partner = _partner(contact, robot)
                spec.add_sensor(name=f'{name}/{number}', type=mujoco.mjtSensor.mjSENS_CONTACT,
                                objtype=_GEOM, objname=geom, reftype=kind, refname=partner,
                                intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1])
        for side in SIDES:
            spec.body(robot.tool_body.format(side=side)).add_site(name=f'{side}/tool', pos=[robot.tool_offset_m, 0, 0])
        #: Shared by all that use this model: copy it before changing anything.
        self.mj = spec.compile()
        # A diverged world must show, not begin anew on its own.
        self.mj.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        period = SUBSTEPS * self.mj.opt.timestep
        if not np.isclose(period, 1 / CONTROL_RATE_HZ):
            raise RuntimeError(f'the model steps {self.mj.opt.timestep} s; {SUBSTEPS} of them are not 20 ms')
        self._find_columns()

    def _find_columns(self) -> None:
        mj, robot = self.mj, self.robot
        of_joint = {mj.actuator(index).trnid[0]: index for index in range(mj.nu)}
        arms = [[mj.joint(name) for name in robot.arm_joints(side)] for side in SIDES]
        fingers = [[mj.joint(name) for name in robot.finger_joints(side)] for side in SIDES]
        #: (2, 6) columns of the arms' joints in the positions, velocities and controls; left, then right.
        self.arm_qpos = np.array([[int(joint.qposadr[0]) for joint in arm] for arm in arms])
        self.arm_dofs = np.array([[int(joint.dofadr[0]) for joint in arm] for arm in arms])
        self.arm_ctrl = np.array([[of_joint[joint.id] for joint in arm] for arm in arms])
        #: (2, 2) the same of the fingers; a finger that another drives has the control of that one.
        self.finger_qpos = np.array([[int(joint.qposadr[0]) for joint in pair] for pair in fingers])
        self.finger_dofs = np.array([[int(joint.dofadr[0]) for joint in pair] for pair in fingers])
        self.finger_ctrl = np.array([[of_joint.get(joint.id, of_joint.get(pair[0].id)) for joint in pair]
                                     for pair in fingers])
        #: (7 * objects,) columns of the objects' poses.
        starts = [int(mj.joint(mj.body(name).jntadr[0]).qposadr[0]) for name in self.task.objects]
        self.object_qpos = np.concatenate([np.arange(start, start + 7) for start in starts])
        self._sensor_columns = {
            name: [int(mj.sensor(f'{name}/{number}').adr[0]) for number in range(len(contact.geoms))]
            for name, contact in self.task.contacts.items()}
        #: (14,) smallest and largest target [rad, grippers 0..1]; MuJoCo would clip what is beyond.
        self.lower, self.upper = np.zeros(ACTION_DIM), np.ones(ACTION_DIM)
        for index in (0, 1):
            columns = slice(7 * index, 7 * index + 6)
            self.lower[columns], self.upper[columns] = mj.actuator_ctrlrange[self.arm_ctrl[index]].T

    def joints_of(self, qpos: np.ndarray) -> np.ndarray:
        """Return the (..., 14) joints [rad, grippers 0..1] of (..., nq) generalised positions."""
        out = np.empty((*qpos.shape[:-1], ACTION_DIM))
        for index in (0, 1):
            out[..., 7 * index:7 * index + 6] = qpos[..., self.arm_qpos[index]]
            out[..., 7 * index + 6] = self.robot.gripper_of(qpos[..., self.finger_qpos[index, 0]])
        return out

    def controls_of(self, targets: np.ndarray) -> np.ndarray:
        """Return the (..., nu) actuator controls of (..., 14) joint targets."""
        out = np.zeros((*targets.shape[:-1], self.mj.nu))
        self._place(out, targets, self.arm_ctrl, self.finger_ctrl)
        return out

    def start_qpos(self, object_pose: np.ndarray, joints: np.ndarray = START_JOINTS) -> np.ndarray:
        """Return (..., nq) positions with the arms at ``joints`` and the objects at (..., 7 * objects) poses.

        :param object_pose: in gym-aloha's "world".
        """
        out = np.zeros((*object_pose.shape[:-1], self.mj.nq))
        self._place(out, joints, self.arm_qpos, self.finger_qpos)
        out[..., self.object_qpos] = object_pose
        for number in range(len(self.task.objects)):
            out[..., self.object_qpos[7 * number:7 * number + 3]] += self.robot.workspace_m
        return out

    def _place(self, out: np.ndarray, joints: np.ndarray, arms: np.ndarray, fingers: np.ndarray) -> None:
        for index in (0, 1):
            out[..., arms[index]] = joints[..., 7 * index:7 * index + 6]
            finger = self.robot.finger_of(joints[..., 7 * index + 6])
            # Last first: of two fingers with one control, the first one's sign counts.
            for number in (1, 0):
                out[..., fingers[index, number]] = self.robot.finger_signs[number] * finger

    def object_pose_of(self, qpos: np.ndarray) -> np.ndarray:
        """Return the (..., 7 * objects) object poses in gym-aloha's "world" of (..., nq) positions."""
        pose = qpos[..., self.object_qpos]
        for number in range(len(self.task.objects)):
            pose[..., 7 * number:7 * number + 3] -= self.robot.workspace_m
        return pose

    def touching(self, sensordata: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return contact → (...,) bool of (..., nsensordata) sensors."""
        return {name: (sensordata[..., columns] > 0).any(-1) for name, columns in self._sensor_columns.items()}

    def judge(self, sensordata: np.ndarray, qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (...,) int8 stages 0..4 and (...,) bool of the stricter success rule."""
        touching = self.touching(sensordata)
        return self.task.stage_of(touching), self.task.strict_of(touching, self.joints_of(qpos))


def _partner(contact: Contact, robot: Robot) -> tuple[mujoco.mjtObj, str]:
    """Return kind and name of what a contact sensor looks at beside the object."""
    if contact.partner in ('left_finger', 'right_finger'):
        return _BODY, robot.grasping_fingers[contact.partner == 'right_finger']
    if contact.partner == 'right_arm':
        return _SUBTREE, robot.arm_body.format(side='right')
    return _GEOM, robot.table if contact.partner == 'table' else contact.partner


def load_model(task: str = 'transfer_cube', robot: str = VX300S.name) -> TaskModel:
    """Compile the model of a task; the same object at every call.

    :raises UnknownTaskError: if there is no such task.
    :raises UnknownRobotError: if there is no such robot.
    :raises RobotModelError: if the robot's model is not part of gym-aloha and cannot be had.
    """
    return _compiled(task, robot)  # names that are left out must not make a second model


@lru_cache(maxsize=4)
def _compiled(task_name: str, robot_name: str) -> TaskModel:
    task, robot = task_of(task_name), robot_of(robot_name)
    path = task_xml(task.name)
    return TaskModel(task, robot, build_scene(task, path) if robot is ALOHA2 else mujoco.MjSpec.from_file(str(path)))
