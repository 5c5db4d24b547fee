"""Many ALOHA worlds stepped natively on all cores, one action chunk at a time."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco import rollout

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.sim.model import OBJECT_QPOS, SUBSTEPS, controls_of, joints_of, load_model, start_qpos
from fpo_ros.sim.task import held_by_left_alone, sample_object_pose, stages_of


@dataclass(frozen=True)
class ChunkOutcome:
    """What H control steps of M worlds did.

    :param joints: (M, H, 14) joints after each control step [rad, grippers 0..1].
    :param object_pose: (M, H, 7) pose of the object after each control step.
    :param qpos: (M, H, nq) generalised positions after each control step.
    :param stage: (M, H) int8 staged reward 0..4 after each control step.
    :param held_by_left: (M, H) bool, the stricter success rule.
    """

    joints: np.ndarray
    object_pose: np.ndarray
    qpos: np.ndarray
    stage: np.ndarray
    held_by_left: np.ndarray


class _Stepper(threading.local):
    """MuJoCo's data and rollout of one thread."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.data = mujoco.MjData(model)
        self.rollout = rollout.Rollout(nthread=0)  # on the calling thread


class BatchedWorlds:
    """A batch of independent worlds of one task.

    The same seeds and targets give the same trajectories for any number of worlds and threads and for chunks of
    any length, and those of a world stepped by ``mj_step``: between chunks every world keeps, beside its state,
    the solver's warm start. ``mujoco.rollout`` takes warm starts and returns none; the data of its thread hold
    it after a rollout, so each world is a rollout of its own.

    :param task: key of ``TASKS``.
    :param worlds: number of worlds N.
    :param threads: threads that step worlds; by default one per core that this process may use.
    """

    def __init__(self, task: str, worlds: int, threads: int | None = None) -> None:
        self.task = task
        self.model = load_model(task)
        self.worlds = worlds
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)))
        self._stepper = _Stepper(self.model)
        size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._state = np.zeros((worlds, size))
        self._warm_start = np.zeros((worlds, self.model.nv))
        self.last_target = np.tile(START_JOINTS, (worlds, 1))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def __enter__(self) -> BatchedWorlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self, seeds: np.ndarray, where: np.ndarray | None = None) -> None:
        """Put arms at the start pose and objects at seeded poses.

        :param seeds: (M,) one seed per reset world.
        :param where: (M,) indices of the worlds to reset; all by default.
        """
        where = np.arange(self.worlds) if where is None else where
        poses = np.stack([sample_object_pose(self.task, int(seed)) for seed in seeds])
        self._state[where] = 0.0
        self._state[where, 1:1 + self.model.nq] = start_qpos(poses)
        self._warm_start[where] = 0.0
        self.last_target[where] = START_JOINTS

    @property
    def qpos(self) -> np.ndarray:
        """(N, nq) generalised positions."""
        return self._state[:, 1:1 + self.model.nq]

    def joints(self) -> np.ndarray:
        """Return the (N, 14) measured joints."""
        return joints_of(self.qpos)

    def object_pose(self) -> np.ndarray:
        """Return the (N, 7) object poses."""
        return self.qpos[:, OBJECT_QPOS].copy()

    def step(self, targets: np.ndarray, where: np.ndarray | None = None) -> ChunkOutcome:
        """Execute (M, H, 14) joint targets, one per control step, in the worlds ``where``.

        Contacts are read at the state that ends each control step.
        """
        where = np.arange(self.worlds) if where is None else where
        count, horizon = targets.shape[:2]
        controls = np.repeat(controls_of(targets), SUBSTEPS, axis=1)
        state = np.empty((count, horizon * SUBSTEPS, self._state.shape[1]))
        sensors = np.empty((count, horizon * SUBSTEPS + 1, self.model.nsensordata))

        def roll(row: int) -> None:
            stepper, one, world = self._stepper, slice(row, row + 1), where[row]
            stepper.rollout.rollout(
                self.model, stepper.data, self._state[world], controls[one], state=state[one],
                sensordata=sensors[one, :-1], initial_warmstart=self._warm_start[world])
            self._warm_start[world] = stepper.data.qacc_warmstart
            # MuJoCo evaluates sensors at the start of a step: those of the last state are still to come.
            mujoco.mj_forward(self.model, stepper.data)
            sensors[row, -1] = stepper.data.sensordata

        list(self._pool.map(roll, range(count)))
        ends = np.arange(1, horizon + 1) * SUBSTEPS
        after = state[:, ends - 1]
        self._state[where] = after[:, -1]
        self.last_target[where] = targets[:, -1]
        contact = sensors[:, ends]
        qpos = after[..., 1:1 + self.model.nq]
        return ChunkOutcome(joints_of(qpos), qpos[..., OBJECT_QPOS], qpos, stages_of(contact),
                            held_by_left_alone(contact))


def hold_targets(last_target: np.ndarray, horizon: int) -> np.ndarray:
    """Return (M, H, 14) targets that repeat (M, 14) last targets."""
    return np.broadcast_to(last_target[:, None], (len(last_target), horizon, ACTION_DIM)).copy()
