"""The simulated cell as its drivers see it: followers, objects, leaders; thread-safe, without ROS."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from fpo_ros.hardware import xs
from fpo_ros.hardware.gripper import GYM_ALOHA, GripperCalibration
from fpo_ros.hardware.names import FOLLOWERS, LEADERS, SIDES
from fpo_ros.policy.contract import OBJECT_POSE_DIM, START_JOINTS
from fpo_ros.sim.divergence import diverged
from fpo_ros.sim.twin.arm import XsArm
from fpo_ros.sim.twin.faults import FaultState
from fpo_ros.sim.twin.gripper import TwinGripper
from fpo_ros.sim.twin.leaders import LeaderWorld
from fpo_ros.sim.twin.motors import Measured, Motors
from fpo_ros.sim.twin.plant import ArmColumns, ArmPlant
from fpo_ros.sim.world import World

#: A placed object lies within this distance of the middle of the table [m], and is no deeper in it than this.
_REACH_M, _DEPTH_M = 1.0, 0.001
#: Physics steps for which the motors' references stand still.
_TICK_STEPS = 5


class PlacingError(ValueError):
    """Poses at which objects cannot be placed; the message says which and why."""


@dataclass(frozen=True)
class FollowerState:
    """What one follower measures.

    :param positions: (7,) six joints [rad] and the normalised gripper.
    :param velocities: (6,) joint velocities [rad/s].
    :param currents_ma: (6,) motor currents of the torques that carry load [mA].
    """

    positions: np.ndarray
    velocities: np.ndarray
    currents_ma: np.ndarray


class TwinPhysics:
    """A :class:`World` and, beside it, the leaders, stepped together and used by several threads.

    Without faults, and for goals that stay within the motors' speed, the followers and the objects move as in the world
    that policies train in, bit for bit. The leaders stand elsewhere and touch nothing: they have a model of their own,
    because further bodies would change the scale of the solver's tolerance, and so the bits.

    :param task: task whose objects lie on the table.
    :param seed: seed of their first start position.
    :param calibrations: side → calibration of the follower's gripper; None: motor and finger are linear scales of each
        other, as in the simulation.
    :param leaders: whether there are leaders.
    :param cameras: names of the cameras, which faults may strike.
    """

    def __init__(self, task: str, seed: int = 0, calibrations: Mapping[str, GripperCalibration] | None = None,
                 leaders: bool = False, cameras: tuple[str, ...] = ()) -> None:
        self._world = World(task, seed, out_of_range='clip')
        self._seed = seed
        self.task = task
        #: How often the physics diverged, after which the world began anew.
        self.divergences = 0
        #: Held while anything of the cell changes; drivers take it between two waits.
        self.lock = threading.RLock()
        self.time_s = 0.0
        self._leaders = LeaderWorld() if leaders else None
        self.faults = FaultState((*FOLLOWERS.values(), *(LEADERS.values() if leaders else ())), cameras)
        fingers = self._world.model.robot.finger_close_m, self._world.model.robot.finger_open_m
        self.grippers = {FOLLOWERS[side]: TwinGripper((calibrations or {}).get(side, GYM_ALOHA), fingers)
                         for side in SIDES}
        self._plants = {FOLLOWERS[side]: ArmPlant(self._world.mj, self._world.data,
                                                  ArmColumns.of(self._world.model, index), self._world.model.robot,
                                                  self.grippers[FOLLOWERS[side]])
                        for index, side in enumerate(SIDES)}
        if self._leaders is not None:
            self.grippers |= {LEADERS[side]: self._leaders.gripper for side in SIDES}
            self._plants |= {LEADERS[side]: self._leaders.plants[side] for side in SIDES}
        #: Name → driver core of every arm.
        self.arms = {name: self._arm(name, xs.FOLLOWER if name in FOLLOWERS.values() else xs.LEADER)
                     for name in self._plants}
        self._begin()
        for name in FOLLOWERS.values():
            self.arms[name].motors.torque[:] = True

    def _arm(self, name: str, model: xs.ArmModel) -> XsArm:
        plant, gripper = self._plants[name], self.grippers[name]
        linkage = gripper.linkage or (xs.VX300S_LINKAGE if model is xs.FOLLOWER else model.linkage)
        motors = Motors(model, linkage, plant.positions(), gripper.speed_factor)
        return XsArm(name, model, motors, gripper, plant, self.faults)

    @property
    def timestep(self) -> float:
        """Physics step [s]."""
        return self._world.timestep

    def reset(self, seed: int) -> np.ndarray:
        """Put the followers at rest at the start pose and the objects at seeded ones, as training episodes begin.

        Motors without torque stay without it, and those in error in error.

        :returns: (7 * objects,) poses of the objects.
        """
        with self.lock:
            self._seed = seed
            self._begin()
            return self._world.object_pose()

    def _begin(self) -> None:
        self._world.reset(self._seed)
        for side in (0, 1):
            name = FOLLOWERS[SIDES[side]]
            start = START_JOINTS[7 * side:7 * side + 7].copy()
            start[6] = self.grippers[name].motor_angle(start[6])
            motors = self.arms[name].motors
            offsets = motors.offsets
            for index in range(7):
                motors.settle(index, start[index] if offsets is None else start[index] + offsets[index])

    def place(self, poses: np.ndarray) -> np.ndarray:
        """Put the objects at rest at poses in gym-aloha's "world"; the arms stay as they are.

        :param poses: (7 * objects,) positions [m] and quaternions (w, x, y, z).
        :returns: (7 * objects,) the poses, with unit quaternions.
        :raises PlacingError: naming the object that cannot lie there.
        """
        with self.lock:
            model, data = self._world.model, self._world.data
            names = model.task.objects
            poses = np.array(poses, np.float64)
            if poses.shape != (OBJECT_POSE_DIM * len(names),):
                raise PlacingError(f'{len(poses) // OBJECT_POSE_DIM} poses for {len(names)} objects '
                                   f'({", ".join(names)}): give one of each')
            for name, pose in zip(names, poses.reshape(-1, OBJECT_POSE_DIM), strict=True):
                length = np.linalg.norm(pose[3:])
                if not np.isfinite(pose).all() or abs(length - 1) > 0.01:
                    raise PlacingError(f'the pose of {name} must be finite with a unit quaternion, got {pose}')
                if np.abs(pose[:2]).max() > _REACH_M or not -_DEPTH_M <= pose[2] <= _REACH_M:
                    raise PlacingError(f'{name} cannot lie at {pose[:3]} m: allowed is up to {_REACH_M:g} m from the '
                                       'middle of the table, above it')
                pose[3:] /= length
            before = data.qpos[model.object_qpos].copy(), data.qvel.copy()
            data.qpos[model.object_qpos] = model.start_qpos(poses)[model.object_qpos]
            dofs = [self._world.mj.joint(self._world.mj.body(name).jntadr[0]).dofadr[0] for name in names]
            for dof in dofs:
                data.qvel[dof:dof + 6] = 0.0
            mujoco.mj_forward(self._world.mj, data)
            deep = self._deepest(names)
            if deep:
                data.qpos[model.object_qpos], data.qvel[:] = before
                mujoco.mj_forward(self._world.mj, data)
                raise PlacingError(f'{deep[0]} would stand {deep[1] * 1e3:.0f} mm deep in something: place it '
                                   'elsewhere')
            return self._world.object_pose()

    def _deepest(self, names: tuple[str, ...]) -> tuple[str, float] | None:
        """Return the object that stands deepest in something, if any does by more than a few millimetres."""
        mj, worst = self._world.mj, None
        for contact in self._world.data.contact:
            bodies = {mj.body(mj.geom_bodyid[geom]).name for geom in contact.geom}
            for name in bodies & set(names):
                if -contact.dist > 0.003 and (worst is None or -contact.dist > worst[1]):
                    worst = name, -float(contact.dist)
        return worst

    def pull_leader(self, side: str, joints: dict[int, float]) -> None:
        """Let the simulated operator take a leader by some of its joints, or let go of it.

        :param joints: column of the seven → where the hand pulls it [rad]; empty: let go.
        """
        if self._leaders is None:
            raise ValueError('the twin has no leaders: set its parameter leaders')
        with self.lock:
            self._leaders.pull(side, joints)

    def step(self, substeps: int) -> None:
        """Advance by a number of physics steps, the motors' references by 10 ms or less at a time.

        A world whose physics diverges begins anew.
        """
        while substeps > 0:
            self._tick(min(substeps, _TICK_STEPS))
            substeps -= _TICK_STEPS

    def _tick(self, substeps: int) -> None:
        with self.lock:
            period = substeps * self.timestep
            self.time_s += period
            self.faults.expire(self.time_s)
            for name, plant in self._plants.items():
                plant.apply(self.arms[name].advance(period, self.time_s))
            self._world.step(substeps)
            if self._leaders is not None:
                self._leaders.step(substeps)
            if diverged(self._world.data):
                self.divergences += 1
                self._begin()

    def follower(self, side: str) -> FollowerState:
        """Return what a follower measures now."""
        with self.lock:
            index, measured = SIDES.index(side), self._plants[FOLLOWERS[side]].measure()
            return FollowerState(self._world.joints()[7 * index:7 * index + 7], measured.velocities[:6],
                                 measured.currents_ma[:6])

    def ground_truth(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the (12,) positions [rad] and velocities [rad/s] of the followers' joints as the world has them."""
        with self.lock:
            joints = self._world.joints().reshape(2, 7)
            return joints[:, :6].ravel(), self._world.arm_velocities().ravel()

    def measure(self, arm: str) -> Measured:
        """Return what the motors of an arm measure now."""
        with self.lock:
            return self._plants[arm].measure()

    def object_pose(self) -> np.ndarray:
        """Return the (7 * objects,) poses of the objects: position [m] in "world", quaternion (w, x, y, z) each."""
        with self.lock:
            return self._world.object_pose()

    def judge(self) -> tuple[int, bool]:
        """Return the staged reward 0..4 and whether the task is done now."""
        with self.lock:
            return self._world.stage(), self._world.success

    def positions(self) -> np.ndarray:
        """Return the (nq,) generalised positions, for a renderer."""
        with self.lock:
            return self._world.data.qpos.copy()
