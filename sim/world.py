"""One ALOHA world stepped in small pieces, for a driver twin that runs in real time and for dm_control."""

from __future__ import annotations

import mujoco
import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.sim.actions import checked_targets
from fpo_ros.sim.dynamics import change_model, check_fits, start_qpos
from fpo_ros.sim.latency import Latency, Seen
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.task import SUCCESS_STAGE

#: Which of its worlds the latency of one world is asked for.
_ALONE = np.zeros(1, np.int64)


class World:
    """A world with the arms at the start pose and the objects at seeded ones.

    Its copy of the MuJoCo model, ``mj``, is its own: switching motors may change it, and a randomisation does.

    :param task: key of ``TASKS``.
    :param robot: key of ``ROBOTS``.
    :param out_of_range: what happens to targets beyond a joint's range: ``'refuse'`` or ``'clip'``.
    :param randomisation: what every episode draws when it begins; nothing if None. The world is then stepped as one
        of ``BatchedWorlds`` is, bit for bit, by whole control steps.
    :raises UnknownTaskError: if there is no such task.
    :raises RandomisationError: for a randomisation that does not fit the task or the robot.
    """

    def __init__(self, task: str, seed: int = 0, robot: str = VX300S.name, out_of_range: str = 'refuse',
                 randomisation: Randomisation | None = None) -> None:
        self.model = load_model(task, robot)
        self.mj = self.model.mj.__copy__()
        self.data = mujoco.MjData(self.mj)
        self._out_of_range = out_of_range
        self._targets = START_JOINTS.copy()
        self._randomisation = randomisation if randomisation and randomisation.active else None
        #: What the episode drew; None without a randomisation.
        self.drawn: EpisodeParameters | None = None
        self._latency: Latency | None = None
        if self._randomisation is not None:
            check_fits(self._randomisation, self.model)
            self._latency = Latency(self.model, self._randomisation, 1)
        self.reset(seed)

    @property
    def timestep(self) -> float:
        """Physics step [s]."""
        return float(self.mj.opt.timestep)

    def reset(self, seed: int) -> None:
        """Put arms and objects at their start; the same seed gives the same start."""
        if self._randomisation is not None:
            self.drawn = self._randomisation.draw(seed, self.model)
            change_model(self.model, self.mj, self.data, self.drawn)
        mujoco.mj_resetData(self.mj, self.data)
        self.data.qpos[:] = start_qpos(self.model, seed, self.drawn)
        self.set_targets(START_JOINTS)
        if self._latency is not None:
            self._latency.begin(0, self.drawn, self.data.qpos)
            self.data.ctrl[:] = self.model.controls_of(START_JOINTS - self.drawn.joint_offset_rad)
        mujoco.mj_forward(self.mj, self.data)

    def set_targets(self, targets: np.ndarray) -> None:
        """Set (14,) joint targets [rad, grippers 0..1]; they hold until the next call.

        With a randomisation they are on their way from the next step on.

        :raises ActionError: for a wrong shape, a value that is not finite or, unless clipped, one out of range.
        """
        self._targets = checked_targets(targets, self.model, self._out_of_range)
        if self._latency is None:
            self.data.ctrl[:] = self.model.controls_of(self._targets)

    @property
    def targets(self) -> np.ndarray:
        """(14,) targets in force."""
        return self._targets.copy()

    def step(self, substeps: int = SUBSTEPS) -> None:
        """Advance by one or more physics steps and leave contacts and sensors at the state reached.

        :raises ValueError: with a randomisation, for anything but whole control steps.
        """
        if self._latency is not None:
            self._step_late(self._latency, substeps)
            return
        mujoco.mj_step2(self.mj, self.data)
        if substeps > 1:
            mujoco.mj_step(self.mj, self.data, substeps - 1)
        mujoco.mj_step1(self.mj, self.data)

    def _step_late(self, latency: Latency, substeps: int) -> None:
        """Let the servos follow what has reached them, physics step by physics step."""
        if substeps % SUBSTEPS:
            raise ValueError(f'a randomised world is stepped by whole control steps of {SUBSTEPS} physics steps, got '
                             f'{substeps}')
        sent = latency.sent(_ALONE, np.broadcast_to(self._targets, (1, substeps // SUBSTEPS, ACTION_DIM)))
        qpos = np.empty((1, substeps, self.mj.nq))
        for step, controls in enumerate(latency.followed(_ALONE, sent)[0]):
            self.data.ctrl[:] = controls
            mujoco.mj_step2(self.mj, self.data)
            mujoco.mj_step1(self.mj, self.data)
            qpos[0, step] = self.data.qpos
        latency.advance(_ALONE, sent, qpos)

    def seen(self) -> Seen | None:
        """Return what the sensors show, the measured joints among it; None without a randomisation."""
        return None if self._latency is None else self._latency.seen(_ALONE)[0]

    def joints(self) -> np.ndarray:
        """Return the (14,) true joints [rad, grippers 0..1]."""
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
