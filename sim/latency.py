"""What is on its way between simulated worlds and a policy: targets to the servos, measurements and pictures back."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, START_JOINTS
from fpo_ros.sim.model import SUBSTEPS, TaskModel
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation

_ARMS = np.delete(np.arange(ACTION_DIM), GRIPPER_COLUMNS)
#: Streams of random numbers of the sensors, by number of the physics step or of the frame.
_NOISE, _LOSS = range(2)


@dataclass(frozen=True)
class Seen:
    """What the sensors of one world show, or those of M worlds with M before all sizes.

    :param joints: (14,) measured joints [rad, grippers 0..1].
    :param camera_qpos: (cameras, nq) positions that the newest frame of each camera of the robot shows, in its order.
    :param camera_frames: (cameras,) numbers of those frames, by which their noise differs.
    :param looks: () object, what pictures look like: an ``Appearance``, or None.
    """

    joints: np.ndarray
    camera_qpos: np.ndarray
    camera_frames: np.ndarray
    looks: np.ndarray

    def __getitem__(self, rows: Any) -> Seen:
        """Return that of one or some of the worlds."""
        return Seen(*(np.asarray(getattr(self, one.name)[rows]) for one in fields(self)))

    def __setitem__(self, rows: Any, other: Seen) -> None:
        for one in fields(self):
            getattr(self, one.name)[rows] = getattr(other, one.name)


class Latency:
    """Delays, offsets, noise and losses of many worlds, with as much of the past as the longest delay needs.

    Time is in physics steps. A camera takes a frame per control step; a frame that is lost is replaced by the one
    before. Before an episode begins, the arms have stood at the start pose for ever.

    :param model: of the task.
    :param randomisation: what worlds draw from.
    :param worlds: number of worlds N.
    """

    def __init__(self, model: TaskModel, randomisation: Randomisation, worlds: int) -> None:
        self._model, self._cameras = model, tuple(model.robot.cameras)
        timestep = model.mj.opt.timestep
        sent = round(randomisation.action_latency_s[1] / timestep)
        seen = [randomisation.joint_latency_s, *randomisation.camera_latency_s.values()]
        past = max(round(bounds[1] / timestep) for bounds in seen)
        count = len(self._cameras)
        #: (N, longest, nu) controls sent last, the newest last.
        self._sent = np.zeros((worlds, sent, model.mj.nu))
        #: (N, longest + 1, nq) positions of the past, those of now last.
        self._past = np.zeros((worlds, past + 1, model.mj.nq))
        #: (N, cameras, nq) positions that each camera shows, and the number of that frame.
        self._shown = np.zeros((worlds, count, model.mj.nq))
        self._frames = np.zeros((worlds, count), np.int64)
        self._elapsed = np.zeros(worlds, np.int64)  # control steps
        self._action_delay, self._joint_delay = np.zeros((2, worlds), np.int64)
        self._camera_delay = np.zeros((worlds, count), np.int64)
        self._offset = np.zeros((worlds, ACTION_DIM))
        self._noise, self._loss = np.zeros((2, worlds))
        self._keys = np.zeros((worlds, 2), np.uint64)
        self._looks = np.full(worlds, None, object)

    def begin(self, world: int, drawn: EpisodeParameters, qpos: np.ndarray) -> None:
        """Begin an episode of a world.

        :param qpos: (nq,) its start positions.
        """
        self._action_delay[world], self._joint_delay[world] = drawn.action_delay, drawn.joint_delay
        self._camera_delay[world], self._offset[world] = drawn.camera_delay, drawn.joint_offset_rad
        self._noise[world], self._loss[world] = drawn.joint_noise_rad, drawn.camera_drop_probability
        self._keys[world], self._looks[world] = drawn.sensor_key, drawn.appearance
        self._sent[world] = self._model.controls_of(START_JOINTS - drawn.joint_offset_rad)
        self._past[world] = self._shown[world] = qpos
        self._frames[world] = self._elapsed[world] = 0

    def sent(self, where: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the (M, H * SUBSTEPS, nu) controls of (M, H, 14) targets.

        A servo regulates what it measures: it is given the targets less the error of its zero. MuJoCo keeps controls
        within the range of the actuator.
        """
        return np.repeat(self._model.controls_of(targets - self._offset[where, None]), SUBSTEPS, axis=1)

    def followed(self, where: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Return the (M, T, nu) controls that the servos follow while (M, T, nu) are being sent."""
        line = np.concatenate([self._sent[where], controls], 1)
        first = self._sent.shape[1] - self._action_delay[where]
        return line[np.arange(len(where))[:, None], first[:, None] + np.arange(controls.shape[1])]

    def advance(self, where: np.ndarray, controls: np.ndarray, qpos: np.ndarray) -> None:
        """Let time pass in some worlds.

        :param controls: (M, T, nu) that were sent.
        :param qpos: (M, T, nq) positions after each physics step.
        """
        length, horizon = qpos.shape[1], qpos.shape[1] // SUBSTEPS
        self._sent[where] = np.concatenate([self._sent[where], controls], 1)[:, length:]
        line = np.concatenate([self._past[where], qpos], 1)
        now = self._past.shape[1] - 1
        newest = self._newest_frames(where, horizon)
        arrived, rows = newest > 0, np.arange(len(where))[:, None]
        shown = line[rows, now + SUBSTEPS * newest - self._camera_delay[where]]
        self._shown[where] = np.where(arrived[..., None], shown, self._shown[where])
        self._frames[where] = np.where(arrived, self._elapsed[where, None] + newest, self._frames[where])
        self._past[where] = line[:, length:]
        self._elapsed[where] += horizon

    def _newest_frames(self, where: np.ndarray, horizon: int) -> np.ndarray:
        """Return (M, cameras) which of the frames 1 to H to come is the last that is not lost; 0 where all are."""
        newest = np.full((len(where), len(self._cameras)), horizon)
        for row, world in enumerate(where):
            waiting = np.full(len(self._cameras), self._loss[world] > 0)
            for frame in range(horizon, 0, -1):
                if not waiting.any():
                    break
                random = self._random(world, _LOSS, self._elapsed[world] + frame)
                waiting &= random.random(len(waiting)) < self._loss[world]
                newest[row, waiting] = frame - 1
        return newest

    def joints(self, where: np.ndarray) -> np.ndarray:
        """Return the (M, 14) joints as they are measured now."""
        joints = self._model.joints_of(self._past[where, -1 - self._joint_delay[where]]) + self._offset[where]
        for row, world in enumerate(where):
            if self._noise[world]:
                random = self._random(world, _NOISE, SUBSTEPS * self._elapsed[world])
                joints[row, _ARMS] += self._noise[world] * random.standard_normal(len(_ARMS))
        return joints

    def seen(self, where: np.ndarray) -> Seen:
        """Return what the sensors of M worlds show now."""
        return Seen(self.joints(where), self._shown[where], self._frames[where], self._looks[where])

    def camera_qpos(self, camera: str, where: np.ndarray) -> np.ndarray:
        """Return the (M, nq) positions that a camera shows now."""
        return self._shown[where, self._cameras.index(camera)]

    def camera_frames(self, camera: str, where: np.ndarray) -> np.ndarray:
        """Return the (M,) numbers of the frames that a camera shows now."""
        return self._frames[where, self._cameras.index(camera)]

    def _random(self, world: int, stream: int, number: int) -> np.random.Generator:
        """Return random numbers of a world that depend on its episode, the stream and a number alone.

        Philox 4x64 (Salmon et al. 2011), a generator of counters: any place of it is reached at once.
        """
        return np.random.Generator(np.random.Philox(key=self._keys[world], counter=[0, 0, stream, int(number)]))
