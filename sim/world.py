"""One ALOHA world stepped in small pieces, for a driver twin that runs in real time."""

from __future__ import annotations

import mujoco
import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.sim.model import OBJECT_QPOS, SENSORS, SUBSTEPS, controls_of, joints_of, load_model, start_qpos
from fpo_ros.sim.task import SUCCESS_STAGE, held_by_left_alone, sample_object_pose, stages_of


class World:
    """A world with the arms at the start pose and the object at a seeded one.

    :param task: key of ``TASKS``.
    :raises UnknownTaskError: if there is no such task.
    """

    def __init__(self, task: str, seed: int = 0) -> None:
        self.task = task
        self.model = load_model(task)
        self.data = mujoco.MjData(self.model)
        sensors = [self.model.sensor(name) for name in SENSORS]
        self._sensor_rows = [int(sensor.adr[0]) for sensor in sensors]
        self._targets = START_JOINTS.copy()
        self.reset(seed)

    @property
    def timestep(self) -> float:
        """Physics step [s]."""
        return float(self.model.opt.timestep)

    def reset(self, seed: int) -> None:
        """Put arms and object at their start; the same seed gives the same start."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = start_qpos(sample_object_pose(self.task, seed))
        self.set_targets(START_JOINTS)
        mujoco.mj_forward(self.model, self.data)

    def place_object(self, seed: int) -> None:
        """Put the object at a seeded start, at rest, and leave the arms as they are."""
        self.data.qpos[OBJECT_QPOS] = sample_object_pose(self.task, seed)
        self.data.qvel[-6:] = 0.0
        mujoco.mj_forward(self.model, self.data)

    def set_targets(self, targets: np.ndarray) -> None:
        """Set (14,) joint targets [rad, grippers 0..1]; they hold until the next call.

        :raises ValueError: for a wrong length or a value that is not finite.
        """
        if np.shape(targets) != (ACTION_DIM,) or not np.isfinite(targets).all():
            raise ValueError(f'targets must be {ACTION_DIM} finite numbers, got {np.asarray(targets)}')
        self._targets = np.array(targets, np.float64)
        self.data.ctrl[:] = controls_of(self._targets)

    @property
    def targets(self) -> np.ndarray:
        """(14,) targets in force."""
        return self._targets.copy()

    def step(self, substeps: int = SUBSTEPS) -> None:
        """Advance by physics steps and leave contacts and sensors at the state reached."""
        for _ in range(substeps):
            mujoco.mj_step2(self.model, self.data)
            mujoco.mj_step1(self.model, self.data)

    def joints(self) -> np.ndarray:
        """Return (14,) measured joints [rad, grippers 0..1]."""
        return joints_of(self.data.qpos)

    def velocities(self) -> np.ndarray:
        """Return (16,) joint velocities: per arm six [rad/s], then two fingers [m/s]."""
        return self.data.qvel[:16].copy()

    def forces(self) -> np.ndarray:
        """Return (16,) actuator forces: per arm six [N m], then two fingers [N]."""
        return self.data.actuator_force.copy()

    def object_pose(self) -> np.ndarray:
        """Return the (7,) object pose in "world"."""
        return self.data.qpos[OBJECT_QPOS].copy()

    def _contacts(self) -> np.ndarray:
        return self.data.sensordata[self._sensor_rows]

    def stage(self) -> int:
        """Return the staged reward 0..4."""
        return int(stages_of(self._contacts()))

    def held_by_left(self) -> bool:
        """Return whether the left gripper alone holds the object."""
        return bool(held_by_left_alone(self._contacts()))

    @property
    def success(self) -> bool:
        """Whether gym-aloha's success rule holds now."""
        return self.stage() == SUCCESS_STAGE
