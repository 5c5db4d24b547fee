"""The ALOHA model of gym-aloha, with native contact sensors and tool sites added."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

import mujoco
import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, CONTROL_RATE_HZ, START_JOINTS, TASKS

#: MuJoCo steps of 2 ms per control step of 20 ms (gym-aloha constants.py, DT).
SUBSTEPS = 10
#: Finger positions of the normalised gripper values 1 and 0 [m] (gym-aloha constants.py).
FINGER_OPEN_M, FINGER_CLOSE_M = 0.05800, 0.01844
#: Motor angles of the same [rad] (gym-aloha constants.py, PUPPET_GRIPPER_JOINT_*).
GRIPPER_OPEN_RAD, GRIPPER_CLOSE_RAD = 1.4910, -0.6213
#: Camera name on the cell → camera in the model.
CAMERAS = {'cam_high': 'top', 'cam_low': 'front_close', 'cam_angle': 'angle',
           'cam_left_wrist': 'left_wrist', 'cam_right_wrist': 'right_wrist'}
#: Distance of the point between the fingertips ahead of gripper_link [m].
TOOL_OFFSET_M = 0.1347

#: Contact sensors of the cube: with the left arm's left finger, the right arm's right finger and the table, which
#: gym-aloha's reward looks at, and with any part of the right arm.
SENSORS = ('box_left_finger', 'box_right_finger', 'box_table', 'box_right_arm')
_GEOM, _SUBTREE = mujoco.mjtObj.mjOBJ_GEOM, mujoco.mjtObj.mjOBJ_XBODY
_SENSOR_PARTS = ((_GEOM, 'vx300s_left/10_left_gripper_finger'), (_GEOM, 'vx300s_right/10_right_gripper_finger'),
                 (_GEOM, 'table'), (_SUBTREE, 'vx300s_right'))
_XML = {'transfer_cube': 'bimanual_viperx_transfer_cube.xml'}

# Columns of qpos: each arm has six joints and two mirrored fingers, then the free joint of the box.
_ARM_QPOS = (slice(0, 6), slice(8, 14))
_FINGER_QPOS = (6, 14)
OBJECT_QPOS = slice(16, 23)


class UnknownTaskError(ValueError):
    """A task name that the simulation does not know."""

    def __init__(self, task: str) -> None:
        super().__init__(f"unknown task '{task}': known tasks are {', '.join(TASKS)}")


def task_xml(task: str) -> Path:
    """Return the path of gym-aloha's model of a task.

    :raises UnknownTaskError: if there is no such task.
    """
    if task not in _XML:
        raise UnknownTaskError(task)
    spec = importlib.util.find_spec('gym_aloha')
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError('gym-aloha is not installed: pip install --no-deps gym-aloha')
    return Path(spec.submodule_search_locations[0]) / 'assets' / _XML[task]


@lru_cache(maxsize=4)
def load_model(task: str = 'transfer_cube') -> mujoco.MjModel:
    """Compile the model of a task with contact sensors and a ``<side>/tool`` site per gripper.

    :raises UnknownTaskError: if there is no such task.
    """
    spec = mujoco.MjSpec.from_file(str(task_xml(task)))
    for name, (kind, part) in zip(SENSORS, _SENSOR_PARTS, strict=True):
        spec.add_sensor(name=name, type=mujoco.mjtSensor.mjSENS_CONTACT,
                        objtype=_GEOM, objname='red_box', reftype=kind, refname=part,
                        intprm=[1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1])
    for side in ('left', 'right'):
        spec.body(f'vx300s_{side}/gripper_link').add_site(name=f'{side}/tool', pos=[TOOL_OFFSET_M, 0, 0])
    model = spec.compile()
    period = SUBSTEPS * model.opt.timestep
    if not np.isclose(period, 1 / CONTROL_RATE_HZ):
        raise RuntimeError(f'gym-aloha steps {model.opt.timestep} s; {SUBSTEPS} of them are not 20 ms')
    return model


def joints_of(qpos: np.ndarray) -> np.ndarray:
    """Return the (..., 14) joint vector of (..., nq) generalised positions."""
    out = np.empty((*qpos.shape[:-1], ACTION_DIM))
    for side in (0, 1):
        out[..., 7 * side:7 * side + 6] = qpos[..., _ARM_QPOS[side]]
        finger = qpos[..., _FINGER_QPOS[side]]
        out[..., 7 * side + 6] = (finger - FINGER_CLOSE_M) / (FINGER_OPEN_M - FINGER_CLOSE_M)
    return out


def controls_of(targets: np.ndarray) -> np.ndarray:
    """Return the (..., 16) actuator controls of (..., 14) joint targets."""
    out = np.empty((*targets.shape[:-1], 16))
    for side in (0, 1):
        out[..., 8 * side:8 * side + 6] = targets[..., 7 * side:7 * side + 6]
        finger = targets[..., 7 * side + 6] * (FINGER_OPEN_M - FINGER_CLOSE_M) + FINGER_CLOSE_M
        out[..., 8 * side + 6] = finger
        out[..., 8 * side + 7] = -finger
    return out


def start_qpos(object_pose: np.ndarray, joints: np.ndarray | None = None) -> np.ndarray:
    """Return (..., nq) positions with the arms at ``joints`` (START_JOINTS) and the object at (..., 7)."""
    arms = controls_of(START_JOINTS if joints is None else joints)
    return np.concatenate([np.broadcast_to(arms, (*object_pose.shape[:-1], 16)), object_pose], -1)
