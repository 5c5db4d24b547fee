"""Many ALOHA worlds stepped natively on all cores, one action chunk at a time."""

from __future__ import annotations

import os
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


class BatchedWorlds:
    """A batch of independent worlds of one task.

    The same seeds and targets give the same trajectories for any number of worlds and threads.

    :param task: key of ``TASKS``.
    :param worlds: number of worlds N.
    :param threads: rollout threads; all cores by default.
    """

    def __init__(self, task: str, worlds: int, threads: int | None = None) -> None:
        self.task = task
        self.model = load_model(task)
        self.worlds = worlds
        self._threads = max(1, threads or os.cpu_count() or 1)
        self._data = [mujoco.MjData(self.model) for _ in range(self._threads)]
        self._rollout = rollout.Rollout(nthread=self._threads)
        size = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._state = np.zeros((worlds, size))
        self.last_target = np.tile(START_JOINTS, (worlds, 1))

    def close(self) -> None:
        """Stop the rollout threads."""
        self._rollout.close()

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

        Contacts are read at the state that ends each control step: one substep more than needed is
        rolled and dropped, since MuJoCo evaluates sensors at the start of a step.
        """
        where = np.arange(self.worlds) if where is None else where
        count, horizon = targets.shape[:2]
        controls = np.repeat(controls_of(targets), SUBSTEPS, axis=1)
        controls = np.concatenate([controls, controls[:, -1:]], axis=1)
        state, sensors = self._rollout.rollout(
            [self.model] * count, self._data, self._state[where], controls)
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
