"""Many ALOHA worlds stepped natively on all cores, one action chunk at a time."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from mujoco import rollout

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.sim import divergence
from fpo_ros.sim.actions import check_option, checked_targets
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.robots import VX300S


@dataclass(frozen=True)
class ChunkOutcome:
    """What H control steps of M worlds did.

    :param joints: (M, H, 14) joints after each control step [rad, grippers 0..1].
    :param object_pose: (M, H, 7 * objects) poses of the objects after each control step.
    :param qpos: (M, H, nq) generalised positions after each control step.
    :param stage: (M, H) int8 staged reward 0..4 after each control step.
    :param strict: (M, H) bool, the task's stricter success rule.
    :param diverged: (M,) bool, the physics failed within these steps: the world stands at its start again, and its
        row repeats the last good positions with stage 0.
    """

    joints: np.ndarray
    object_pose: np.ndarray
    qpos: np.ndarray
    stage: np.ndarray
    strict: np.ndarray
    diverged: np.ndarray


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
    :param robot: key of ``ROBOTS``.
    :param out_of_range: what happens to targets beyond a joint's range: ``'refuse'`` or ``'clip'``.
    :param dump_directory: where the last states of a world that diverged go; below the temporary directory if None.
    """

    def __init__(self, task: str, worlds: int, threads: int | None = None, *, robot: str = VX300S.name,
                 out_of_range: str = 'refuse', dump_directory: Path | None = None) -> None:
        if worlds < 1:
            raise ValueError(f'worlds must be at least 1, got {worlds}')
        self.task = task
        self.model = load_model(task, robot)
        self.worlds = worlds
        self._out_of_range = check_option(out_of_range)
        self._dumps = dump_directory or divergence.default_dump_directory()
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)))
        self._stepper = _Stepper(self.model.mj)
        size = mujoco.mj_stateSize(self.model.mj, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self._state = np.zeros((worlds, size))
        self._warm_start = np.zeros((worlds, self.model.mj.nv))
        self._seeds = np.zeros(worlds, np.int64)
        self.last_target = np.tile(START_JOINTS, (worlds, 1))
        #: (N,) how often the physics of each world diverged.
        self.divergences = np.zeros(worlds, np.int64)
        self.reset(np.zeros(worlds, np.int64))

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
        if len(seeds) != len(where):
            raise ValueError(f'{len(seeds)} seeds for {len(where)} worlds: give one per world that is reset')
        for seed, world in zip(seeds, where, strict=True):
            self._seeds[world] = seed
            self._begin(int(world))

    def _begin(self, world: int) -> None:
        pose = self.model.task.sample_object_pose(int(self._seeds[world]))
        self._state[world] = 0.0
        self._state[world, 1:1 + self.model.mj.nq] = self.model.start_qpos(pose)
        self._warm_start[world] = 0.0
        self.last_target[world] = START_JOINTS

    @property
    def qpos(self) -> np.ndarray:
        """(N, nq) generalised positions."""
        return self._state[:, 1:1 + self.model.mj.nq]

    def joints(self) -> np.ndarray:
        """Return the (N, 14) measured joints."""
        return self.model.joints_of(self.qpos)

    def object_pose(self) -> np.ndarray:
        """Return the (N, 7 * objects) object poses."""
        return self.model.object_pose_of(self.qpos)

    def step(self, targets: np.ndarray, where: np.ndarray | None = None) -> ChunkOutcome:
        """Execute (M, H, 14) joint targets, one per control step, in the worlds ``where``.

        Contacts are read at the state that ends each control step.

        :raises ActionError: for targets that are refused; no world has moved then.
        """
        where = np.arange(self.worlds) if where is None else np.asarray(where)
        targets = checked_targets(targets, self.model, self._out_of_range, (len(where), None))
        mj, (count, horizon) = self.model.mj, targets.shape[:2]
        controls = np.repeat(self.model.controls_of(targets), SUBSTEPS, axis=1)
        state = np.empty((count, horizon * SUBSTEPS, self._state.shape[1]))
        sensors = np.empty((count, horizon * SUBSTEPS + 1, mj.nsensordata))
        lost = np.zeros(count, bool)

        def roll(row: int) -> None:
            stepper, one, world = self._stepper, slice(row, row + 1), where[row]
            stepper.rollout.rollout(
                mj, stepper.data, self._state[world], controls[one], state=state[one],
                sensordata=sensors[one, :-1], initial_warmstart=self._warm_start[world])
            lost[row] = divergence.diverged(stepper.data)
            if lost[row]:
                return
            self._warm_start[world] = stepper.data.qacc_warmstart
            # MuJoCo evaluates sensors at the start of a step: those of the last state are still to come.
            mujoco.mj_forward(mj, stepper.data)
            sensors[row, -1] = stepper.data.sensordata

        list(self._pool.map(roll, range(count)))
        for row in np.flatnonzero(lost):
            self._give_up(int(where[row]), state[row], controls[row], sensors[row])
        ends = np.arange(1, horizon + 1) * SUBSTEPS
        after = state[:, ends - 1]
        kept = where[~lost]
        self._state[kept] = after[~lost, -1]
        self.last_target[kept] = targets[~lost, -1]
        qpos = after[..., 1:1 + mj.nq]
        stage, strict = self.model.judge(sensors[:, ends], qpos)
        return ChunkOutcome(self.model.joints_of(qpos), self.model.object_pose_of(qpos), qpos, stage, strict, lost)

    def _give_up(self, world: int, state: np.ndarray, controls: np.ndarray, sensors: np.ndarray) -> None:
        """Write down the last states of a diverged world, begin it anew, and leave its last good ones in ``state``."""
        good = np.isfinite(state).all(1) & (np.abs(state) < mujoco.mjMAXVAL).all(1)
        first = int(np.argmin(good)) if not good.all() else len(state) - 1
        divergence.dump(self._dumps, world, int(self._seeds[world]),
                        np.concatenate([self._state[world][None], state[:first + 1]]),
                        np.concatenate([controls[:1], controls[:first + 1]]), self.task)
        state[first:] = state[first - 1] if first else self._state[world]
        sensors[first:] = 0.0
        self.divergences[world] += 1
        self._begin(world)


def hold_targets(last_target: np.ndarray, horizon: int) -> np.ndarray:
    """Return (M, H, 14) targets that repeat (M, 14) last targets."""
    return np.broadcast_to(last_target[:, None], (len(last_target), horizon, ACTION_DIM)).copy()
