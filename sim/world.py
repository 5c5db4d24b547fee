"""One ALOHA world stepped in small pieces, for a driver twin that runs in real time and for dm_control."""

from __future__ import annotations

import mujoco
import numpy as np

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.actions import checked_targets
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.task import SUCCESS_STAGE


class World:
    """A world with the arms at the start pose and the objects at seeded ones.

    Its copy of the MuJoCo model, ``mj``, is its own: switching motors may change it.

    :param task: key of ``TASKS``.
    :param robot: key of ``ROBOTS``.
    :param out_of_range: what happens to targets beyond a joint's range: ``'refuse'`` or ``'clip'``.
    :raises UnknownTaskError: if there is no such task.
    """

    def __init__(self, task: str, seed: int = 0, robot: str = VX300S.name, out_of_range: str = 'refuse') -> None:
        self.model = load_model(task, robot)
        self.mj = self.model.mj.__copy__()
        self.data = mujoco.MjData(self.mj)
        self._out_of_range = out_of_range
        self._targets = START_JOINTS.copy()
        self.reset(seed)

    @property
    def timestep(self) -> float:
        """Physics step [s]."""
        return float(self.mj.opt.timestep)

    def reset(self, seed: int) -> None:
        """Put arms and objects at their start; the same seed gives the same start."""
        mujoco.mj_resetData(self.mj, self.data)
        self.data.qpos[:] = self.model.start_qpos(self.model.task.sample_object_pose(seed))
        self.set_targets(START_JOINTS)
        mujoco.mj_forward(self.mj, self.data)

    def set_targets(self, targets: np.ndarray) -> None:
        """Set (14,) joint targets [rad, grippers 0..1]; they hold until the next call.

        :raises ActionError: for a wrong shape, a value that is not finite or, unless clipped, one out of range.
        """
        self._targets = checked_targets(targets, self.model, self._out_of_range)
        self.data.ctrl[:] = self.model.controls_of(self._targets)

    @property
    def targets(self) -> np.ndarray:
        """(14,) targets in force."""
        return self._targets.copy()

    def step(self, substeps: int = SUBSTEPS) -> None:
        """Advance by one or more physics steps and leave contacts and sensors at the state reached."""
        mujoco.mj_step2(self.mj, self.data)
        if substeps > 1:
            mujoco.mj_step(self.mj, self.data, substeps - 1)
        mujoco.mj_step1(self.mj, self.data)

    def joints(self) -> np.ndarray:
        """Return (14,) measured joints [rad, grippers 0..1]."""
        return self.model.joints_of(self.data.qpos)

    def arm_velocities(self) -> np.ndarray:
        """Return (2, 6) joint velocities of the left and the right arm [rad/s]."""
        return self.data.qvel[self.model.arm_dofs]

    def arm_torques(self) -> np.ndarray:
        """Return (2, 6) actuator torques of the left and the right arm [N m]."""
        return self.data.actuator_force[self.model.arm_ctrl]

    def object_pose(self) -> np.ndarray:
        """Return the (7 * objects,) object poses in gym-aloha's "world"."""
        return self.model.object_pose_of(self.data.qpos)

    def _judge(self) -> tuple[np.ndarray, np.ndarray]:
        return self.model.judge(self.data.sensordata, self.data.qpos)

    def stage(self) -> int:
        """Return the staged reward 0..4."""
        return int(self._judge()[0])

    def strict(self) -> bool:
        """Return whether the task's stricter success rule holds now."""
        return bool(self._judge()[1])

    @property
    def success(self) -> bool:
        """Whether gym-aloha's success rule holds now."""
        return self.stage() == SUCCESS_STAGE
