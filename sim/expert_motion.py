"""From waypoints of both grippers to joint targets: inverse kinematics, and straight lines between in the joints.

Every scripted expert is such a list of waypoints, made from the objects' start poses, with a demonstrator's errors
on their positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import mink
import mujoco
import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, SIDES, START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim.model import SUBSTEPS, load_model

#: Draws of a demonstrator's errors before a scene counts as out of reach.
ATTEMPTS = 20
#: Largest error of a solved waypoint: position [m] and rotation [rad].
_POSITION_TOLERANCE_M = 5e-4
_ROTATION_TOLERANCE_RAD = 2e-2
_ITERATIONS = 60
#: Largest change of a joint in one iteration [rad].
_STRIDE_RAD = 0.5


class InverseKinematicsError(RuntimeError):
    """No joint angles reach a waypoint."""


@dataclass(frozen=True)
class Waypoint:
    """A pose one gripper passes.

    :param step: control step at which it is reached.
    :param position: (3,) point between the fingertips [m], "world".
    :param rotation: (3, 3) gripper axes in "world": x forward, z up when level.
    :param gripper: 0 closed .. 1 open.
    """

    step: int
    position: np.ndarray
    rotation: np.ndarray
    gripper: float


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the matrix that turns about z (yaw), then down by pitch, then rolls about the finger axis [rad]."""
    quaternion = np.empty(4)
    mujoco.mju_euler2Quat(quaternion, np.array([yaw, pitch, roll]), 'zyx')
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def with_errors(plans: Mapping[str, Sequence[tuple[int, np.ndarray, np.ndarray, float]]],
                noise: np.ndarray) -> dict[str, list[Waypoint]]:
    """Return side → waypoints of (step, position, rotation, gripper), with (2, n, 3) errors on the positions [m]."""
    return {side: [Waypoint(step, position + noise[SIDES.index(side), row], turned, gripper)
                   for row, (step, position, turned, gripper) in enumerate(plan)]
            for side, plan in plans.items()}


class ScriptedExpert(ABC):
    """Plans the joint targets of one task on gym-aloha's arms from where its objects start.

    A plan that is longer than the script holds its last row.

    :param steps: length of a plan in control steps; that of the script, :attr:`STEPS`, if None.
    :raises ValueError: for a plan that ends before the script does.
    """

    #: Key of ``TASKS``.
    TASK: ClassVar[str]
    #: Usual length of a plan in control steps.
    STEPS: ClassVar[int]
    #: Control step of the last waypoint.
    ENDS: ClassVar[int]
    #: Waypoints of the arm that has more.
    WAYPOINTS: ClassVar[int]
    #: Errors of waypoints [m] with which it succeeds now and then: what there is to learn from.
    NOISE_M: ClassVar[float]
    #: Wrist angles [rad] from which the first waypoint is solved, side → angle; that of the start if absent.
    WRIST_SEEDS: ClassVar[Mapping[str, float]] = {}

    def __init__(self, steps: int | None = None) -> None:
        self.steps = self.STEPS if steps is None else steps
        if self.steps < self.ENDS:
            raise ValueError(f'steps must be at least {self.ENDS}, where the script of {self.TASK} ends, got {steps}')
        self._scene = load_model(self.TASK)
        self._configuration = mink.Configuration(self._scene.mj)
        self._ranges = [mink.ConfigurationLimit(self._scene.mj)]
        self._limits = JointLimits()

    @abstractmethod
    def waypoints(self, object_pose: np.ndarray, noise: np.ndarray) -> dict[str, list[Waypoint]]:
        """Return side → waypoints in the order of their steps.

        :param object_pose: (7 * objects,) start poses.
        :param noise: (2, WAYPOINTS, 3) errors of the positions [m], the left arm's first.
        """

    def plan(self, object_pose: np.ndarray, rng: np.random.Generator, noise_std: float = 0.0) -> np.ndarray:
        """Return (steps, 14) joint targets for one start.

        Errors that would put a waypoint out of reach are drawn again, up to ATTEMPTS times. An arm that errors put
        further away than the speed limits allow comes late.

        :param object_pose: (7 * objects,) start poses of the task's objects.
        :param rng: source of the demonstrator's errors.
        :param noise_std: standard deviation of every waypoint coordinate [m]; 0 is a perfect expert.
        :raises ValueError: for poses of another shape, or numbers that make no sense.
        :raises InverseKinematicsError: when a waypoint is out of reach all the same.
        """
        self._check(object_pose, noise_std)
        shape = (len(SIDES), self.WAYPOINTS, 3)
        if not noise_std:
            return self._targets(object_pose, np.zeros(shape))
        for _ in range(ATTEMPTS - 1):
            try:
                return self._targets(object_pose, rng.normal(0.0, noise_std, shape))
            except InverseKinematicsError:
                continue
        return self._targets(object_pose, rng.normal(0.0, noise_std, shape))

    def _check(self, object_pose: np.ndarray, noise_std: float) -> None:
        expected = (len(self._scene.object_qpos),)
        if np.shape(object_pose) != expected or not np.isfinite(object_pose).all():
            raise ValueError(f'object_pose of {self.TASK} must be {expected[0]} finite numbers, '
                             f'got {object_pose} of shape {np.shape(object_pose)}')
        if not 0.0 <= noise_std < np.inf:
            raise ValueError(f'noise_std must be a length in metres, 0 or more, got {noise_std}')

    def _targets(self, object_pose: np.ndarray, noise: np.ndarray) -> np.ndarray:
        targets = np.empty((self.steps, ACTION_DIM))
        grid = np.arange(1, self.steps + 1)
        for side, points in self.waypoints(object_pose, noise).items():
            first = 7 * SIDES.index(side)
            start = START_JOINTS[first:first + 7]
            steps = [0, *(point.step for point in points)]
            values = np.vstack([start, self._solve_all(side, points, start[:6], object_pose)])
            for column in range(7):
                targets[:, first + column] = np.interp(grid, steps, values[:, column])
        return self._limits.apply(START_JOINTS, targets, SUBSTEPS * self._scene.mj.opt.timestep)

    def _solve_all(self, side: str, points: Sequence[Waypoint], start: np.ndarray,
                   object_pose: np.ndarray) -> np.ndarray:
        """Return (waypoints, 7) joint targets, each solved from the one before."""
        qpos = self._scene.start_qpos(object_pose)
        seed = start.copy()
        seed[4] = self.WRIST_SEEDS.get(side, seed[4])
        rows = []
        for point in points:
            seed = self._solve(side, point, seed, qpos)
            rows.append(np.append(seed, point.gripper))
        return np.array(rows)

    def _solve(self, side: str, point: Waypoint, seed: np.ndarray, qpos: np.ndarray) -> np.ndarray:
        """Return (6,) joint angles [rad] that put the tool site at a waypoint.

        :param seed: (6,) angles to begin from.
        :param qpos: (nq,) positions of everything else; changed.
        """
        arm = SIDES.index(side)
        columns, dofs = self._scene.arm_qpos[arm], self._scene.arm_dofs[arm]
        qpos[columns] = seed
        configuration = self._configuration
        configuration.update(qpos)
        task = mink.FrameTask(f'{side}/tool', 'site', position_cost=1.0, orientation_cost=0.1, lm_damping=1e-3)
        task.set_target(mink.SE3.from_rotation_and_translation(
            mink.SO3.from_matrix(point.rotation), point.position))
        for _ in range(_ITERATIONS):
            error = task.compute_error(configuration)
            distance, angle = np.linalg.norm(error[:3]), np.linalg.norm(error[3:])
            if distance < _POSITION_TOLERANCE_M and angle < _ROTATION_TOLERANCE_RAD:
                return configuration.q[columns].copy()
            velocity = mink.solve_ik(configuration, [task], 1.0, 'daqp', damping=1e-4, limits=self._ranges)
            move = np.zeros_like(velocity)
            move[dofs] = np.clip(velocity[dofs], -_STRIDE_RAD, _STRIDE_RAD)
            configuration.integrate_inplace(move, 1.0)
        raise InverseKinematicsError(
            f'the {side} arm cannot reach {np.round(point.position, 3)} m at control step {point.step}: '
            f'{distance * 1e3:.1f} mm short, turned {np.rad2deg(angle):.0f} degrees off')
