"""The simulated cell as its drivers see it: two followers, torque, objects; thread-safe, without ROS."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from fpo_ros.hardware.names import SIDES
from fpo_ros.sim.divergence import diverged
from fpo_ros.sim.world import World

_COLUMNS = {side: slice(7 * k, 7 * k + 7) for k, side in enumerate(SIDES)}
#: Torque per current of an arm's servos, the XM540-W270 class [Nm/A] (interbotix_gravity_compensation,
#: motor specs), and of the last, an XM430-W350.
TORQUE_PER_AMPERE = np.array([1.793] * 5 + [0.897])


@dataclass(frozen=True)
class FollowerState:
    """What one follower measures.

    :param positions: (7,) six joints [rad] and the normalised gripper.
    :param velocities: (6,) joint velocities [rad/s].
    :param currents_ma: (6,) motor currents that the actuators' torques amount to [mA].
    """

    positions: np.ndarray
    velocities: np.ndarray
    currents_ma: np.ndarray


class TwinPhysics:
    """A :class:`World` that several threads use, with motors that can be switched off.

    Targets beyond a joint's range are clipped, as servos do.

    :param task: task whose objects lie on the table.
    :param seed: seed of their first start position.
    """

    def __init__(self, task: str, seed: int = 0) -> None:
        self._world = World(task, seed, out_of_range='clip')
        self._seed = seed
        #: How often the physics diverged, after which the world began anew.
        self.divergences = 0
        self._lock = threading.Lock()
        self._targets = self._world.targets
        self._gain = self._world.mj.actuator_gainprm.copy()
        self._bias = self._world.mj.actuator_biasprm.copy()

    @property
    def timestep(self) -> float:
        """Physics step [s]."""
        return self._world.timestep

    def reset(self, seed: int) -> np.ndarray:
        """Put the arms at rest at the start pose and the objects at seeded ones, as training episodes begin.

        :returns: (7 * objects,) poses of the objects.
        """
        with self._lock:
            self._seed = seed
            self._begin()
            return self._world.object_pose()

    def _begin(self) -> None:
        self._world.reset(self._seed)
        self._targets = self._world.targets

    def set_arm(self, side: str, joints: np.ndarray) -> None:
        """Set the (6,) joint targets of a follower [rad]; they hold until the next."""
        with self._lock:
            self._targets[_COLUMNS[side]][:6] = joints

    def set_gripper(self, side: str, normalised: float) -> None:
        """Set the gripper target of a follower [0 closed .. 1 open]."""
        with self._lock:
            self._targets[_COLUMNS[side]][6] = normalised

    def set_torque(self, side: str, motors: np.ndarray, enabled: bool) -> None:
        """Switch motors of a follower: without torque it yields to gravity, then it holds where it is.

        :param motors: (7,) bool: six joints and the gripper.
        """
        index = SIDES.index(side)
        controls = np.concatenate([self._world.model.arm_ctrl[index], self._world.model.finger_ctrl[index]])
        affected = controls[np.append(motors, motors[6])]
        with self._lock:
            model = self._world.mj
            for array, original in (
                (model.actuator_gainprm, self._gain),
                (model.actuator_biasprm, self._bias),
            ):
                array[affected] = original[affected] if enabled else 0.0
            if enabled:
                self._targets[_COLUMNS[side]][motors] = self._world.joints()[_COLUMNS[side]][motors]

    def step(self, substeps: int) -> None:
        """Advance by a number of physics steps; a world whose physics diverges begins anew."""
        with self._lock:
            self._world.set_targets(self._targets)
            self._world.step(substeps)
            if diverged(self._world.data):
                self.divergences += 1
                self._begin()

    def follower(self, side: str) -> FollowerState:
        """Return what a follower measures now."""
        with self._lock:
            return FollowerState(
                self._world.joints()[_COLUMNS[side]],
                self._world.arm_velocities()[SIDES.index(side)],
                self._world.arm_torques()[SIDES.index(side)] / TORQUE_PER_AMPERE * 1e3,
            )

    def object_pose(self) -> np.ndarray:
        """Return the (7 * objects,) poses of the objects: position [m] in "world", quaternion (w, x, y, z) each."""
        with self._lock:
            return self._world.object_pose()

    def judge(self) -> tuple[int, bool]:
        """Return the staged reward 0..4 and whether the task is done now."""
        with self._lock:
            return self._world.stage(), self._world.success

    def positions(self) -> np.ndarray:
        """Return the (nq,) generalised positions, for a renderer."""
        with self._lock:
            return self._world.data.qpos.copy()
