"""Scripted bimanual expert for TransferCube: waypoints of both grippers, solved by inverse kinematics.

The plan is made from the cube's start pose; the recorded data hold what a policy would see and the
joint targets that were sent, nothing else. The hand-over follows ACT's script (scripted_policy.py of
tonyzhaozh/act): the right gripper picks the cube from above, both meet in the middle, the left gripper
takes it with its fingers turned by 90 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import mink
import mujoco
import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim.model import SUBSTEPS, load_model

#: Height of the fingertips above the table when grasping [m].
GRASP_HEIGHT_M = 0.022
#: Where the cube changes hands [m], "world".
MEETING_POINT = np.array([0.0, 0.5, 0.25])
#: Pitch of the right gripper when it picks, below the horizon [rad].
PICK_PITCH = np.deg2rad(60.0)
_WRIST_SEED = 0.8
#: Draws of a demonstrator's errors before a scene counts as out of reach.
ATTEMPTS = 20


class InverseKinematicsError(RuntimeError):
    """No joint angles reach a waypoint."""


@dataclass(frozen=True)
class Waypoint:
    """A pose one arm passes.

    :param step: control step at which it is reached.
    :param position: (3,) point between the fingertips [m], "world".
    :param rotation: (3, 3) gripper axes in "world": x forward, z up when level.
    :param gripper: 0 closed .. 1 open.
    """

    step: int
    position: np.ndarray
    rotation: np.ndarray
    gripper: float


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the matrix that turns about z (yaw), then down by pitch, then rolls about the finger axis [rad]."""
    quaternion = np.empty(4)
    mujoco.mju_euler2Quat(quaternion, np.array([yaw, pitch, roll]), 'zyx')
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


class TransferCubeExpert:
    """Plans joint targets that pick the cube, hand it over and lift it with the left gripper.

    :param steps: length of a plan in control steps.
    """

    def __init__(self, steps: int = 250) -> None:
        self.steps = steps
        self._scene = load_model('transfer_cube')
        self._model = self._scene.mj
        self._configuration = mink.Configuration(self._model)
        self._limits = JointLimits()
        self._velocity_columns = {'left': slice(0, 6), 'right': slice(8, 14)}

    def waypoints(self, cube: np.ndarray, noise: np.ndarray) -> dict[str, list[Waypoint]]:
        """Return both arms' waypoints for a cube at (3,) and (2, 8, 3) position noise [m]."""
        pick = _rotation(np.pi, PICK_PITCH, 0.0)
        level = _rotation(np.pi, 0.0, 0.0)
        take = _rotation(0.0, 0.0, np.pi / 2)
        grasp = np.array([cube[0], cube[1], GRASP_HEIGHT_M])
        meet = MEETING_POINT
        right = [
            (45, grasp + [0, 0, 0.08], pick, 1.0), (70, grasp, pick, 1.0), (85, grasp, pick, 0.0),
            (105, grasp + [0, 0, 0.10], pick, 0.0), (145, meet, level, 0.0),
            (195, meet, level, 0.0), (210, meet, level, 1.0), (240, meet + [0.12, 0, 0], level, 1.0),
        ]
        left = [
            (70, meet + [-0.14, 0, 0], take, 1.0), (145, meet + [-0.14, 0, 0], take, 1.0),
            (172, meet, take, 1.0), (188, meet, take, 0.0), (210, meet, take, 0.0),
            (240, meet + [-0.05, 0, 0], take, 0.0),
        ]
        return {side: [Waypoint(step, position + noise[index, row], rotation, gripper)
                       for row, (step, position, rotation, gripper) in enumerate(plan)]
                for index, (side, plan) in enumerate((('left', left), ('right', right)))}

    def plan(self, object_pose: np.ndarray, rng: np.random.Generator, noise_std: float = 0.0) -> np.ndarray:
        """Return (steps, 14) joint targets for one start pose.

        Errors that would put a waypoint out of reach are drawn again, up to ATTEMPTS times.

        :param object_pose: (7,) start pose of the cube.
        :param rng: source of the demonstrator's errors.
        :param noise_std: standard deviation of every waypoint coordinate [m]; 0 is a perfect expert.
        :raises InverseKinematicsError: when a waypoint is out of reach all the same.
        """
        if not noise_std:
            return self._targets(object_pose, np.zeros((2, 8, 3)))
        for _ in range(ATTEMPTS - 1):
            try:
                return self._targets(object_pose, rng.normal(0.0, noise_std, (2, 8, 3)))
            except InverseKinematicsError:
                continue
        return self._targets(object_pose, rng.normal(0.0, noise_std, (2, 8, 3)))

    def _targets(self, object_pose: np.ndarray, noise: np.ndarray) -> np.ndarray:
        targets = np.empty((self.steps, ACTION_DIM))
        for index, (side, points) in enumerate(self.waypoints(object_pose[:3], noise).items()):
            columns = slice(7 * index, 7 * index + 7)
            steps, values = [0], [START_JOINTS[columns]]
            seed = START_JOINTS[columns][:6].copy()
            seed[4] = _WRIST_SEED if side == 'right' else seed[4]
            for point in points:
                seed = self._solve(side, point, seed, object_pose)
                steps.append(point.step)
                values.append(np.append(seed, point.gripper))
            grid = np.arange(1, self.steps + 1)
            for column in range(7):
                targets[:, 7 * index + column] = np.interp(grid, steps, [value[column] for value in values])
        return self._limits.apply(START_JOINTS, targets, SUBSTEPS * self._model.opt.timestep)

    def _solve(self, side: str, point: Waypoint, seed: np.ndarray, object_pose: np.ndarray) -> np.ndarray:
        """Return (6,) joint angles [rad] that put the tool site at a waypoint."""
        qpos = self._scene.start_qpos(object_pose)
        start = 0 if side == 'left' else 8
        qpos[start:start + 6] = seed
        configuration = self._configuration
        configuration.update(qpos)
        task = mink.FrameTask(f'{side}/tool', 'site', position_cost=1.0, orientation_cost=0.1, lm_damping=1e-3)
        task.set_target(mink.SE3.from_rotation_and_translation(
            mink.SO3.from_matrix(point.rotation), point.position))
        columns = self._velocity_columns[side]
        limits = [mink.ConfigurationLimit(self._model)]
        for _ in range(60):
            error = task.compute_error(configuration)
            if np.linalg.norm(error[:3]) < 5e-4 and np.linalg.norm(error[3:]) < 2e-2:
                break
            velocity = mink.solve_ik(configuration, [task], 1.0, 'daqp', damping=1e-4, limits=limits)
            move = np.zeros_like(velocity)
            move[columns] = np.clip(velocity[columns], -0.5, 0.5)
            configuration.integrate_inplace(move, 1.0)
        else:
            if np.linalg.norm(task.compute_error(configuration)[:3]) > 0.01:
                raise InverseKinematicsError(
                    f'the {side} arm cannot reach {np.round(point.position, 3)} m: '
                    f'{np.linalg.norm(task.compute_error(configuration)[:3]) * 1e3:.0f} mm short')
        return configuration.q[start:start + 6].copy()

