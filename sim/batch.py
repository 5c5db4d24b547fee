"""Many ALOHA worlds stepped natively on all cores, one action chunk at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from mujoco import rollout

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.sim import divergence
from fpo_ros.sim.actions import check_option, checked_targets
from fpo_ros.sim.appearance import Appearance
from fpo_ros.sim.dynamics import Dynamics, check_fits, start_pose
from fpo_ros.sim.latency import Latency
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation
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
    """MuJoCo's data and rollout of one thread, and the model that it steps.

    :param model: shared by all threads, unless worlds differ.
    :param dynamics: how they differ; None where they do not.
    """

    def __init__(self, model: mujoco.MjModel, dynamics: Dynamics | None) -> None:
        self.mj = model if dynamics is None else model.__copy__()
        self.views = [] if dynamics is None else dynamics.views(self.mj)
        self.data = mujoco.MjData(self.mj)
        self.rollout = rollout.Rollout(nthread=0)  # on the calling thread


class BatchedWorlds:
    """A batch of independent worlds of one task.

    The same seeds and targets give the same trajectories for any number of worlds and threads and for chunks of
    any length, and those of a world stepped by ``mj_step``: between chunks every world keeps, beside its state,
    the solver's warm start. ``mujoco.rollout`` takes warm starts and returns none; the data of its thread hold
    it after a rollout, so each world is a rollout of its own. All of this holds with a randomisation, too: what an
    episode draws depends on its scene and the seed of the randomisation alone.

    :param task: key of ``TASKS``.
    :param worlds: number of worlds N.
    :param threads: threads that step worlds; by default one per core that this process may use.
    :param robot: key of ``ROBOTS``.
    :param out_of_range: what happens to targets beyond a joint's range: ``'refuse'`` or ``'clip'``.
    :param dump_directory: where the last states of a world that diverged go; below the temporary directory if None.
    :param randomisation: what every episode draws when it begins; nothing if None.
    :raises RandomisationError: for a randomisation that does not fit the task or the robot.
    """

    def __init__(self, task: str, worlds: int, threads: int | None = None, *, robot: str = VX300S.name,
                 out_of_range: str = 'refuse', dump_directory: Path | None = None,
                 randomisation: Randomisation | None = None) -> None:
        if worlds < 1:
            raise ValueError(f'worlds must be at least 1, got {worlds}')
        self.task = task
        self.model = load_model(task, robot)
        self.worlds = worlds
        self._out_of_range = check_option(out_of_range)
        self._dumps = dump_directory or divergence.default_dump_directory()
        self.randomisation = randomisation
        self._drawn: list[EpisodeParameters | None] = [None] * worlds
        self._dynamics: Dynamics | None = None
        self._latency: Latency | None = None
        if randomisation is not None:
            check_fits(randomisation, self.model)
            dynamics = Dynamics(self.model, randomisation, worlds)
            self._dynamics = dynamics if dynamics.active else None
            self._latency = Latency(self.model, randomisation, worlds)
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)))
        self._stepper = _Stepper(self.model.mj, self._dynamics)
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
        scene, joints = int(self._seeds[world]), START_JOINTS
        pose = self.model.task.sample_object_pose(scene)
        if self.randomisation is not None:
            drawn = self._drawn[world] = self.randomisation.draw(scene, self.model)
            pose, joints = start_pose(self.model, pose, drawn), START_JOINTS - drawn.joint_offset_rad
        qpos = self.model.start_qpos(pose, joints)
        if self._dynamics is not None:
            self._dynamics.begin(world, drawn)
        if self._latency is not None:
            self._latency.begin(world, drawn, qpos)
        self._state[world] = 0.0
        self._state[world, 1:1 + self.model.mj.nq] = qpos
        self._warm_start[world] = 0.0
        self.last_target[world] = START_JOINTS

    def snapshot(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of (N, nstate) MuJoCo's full physics states and (N, nv) warm starts of the solver."""
        return self._state.copy(), self._warm_start.copy()

    @property
    def qpos(self) -> np.ndarray:
        """(N, nq) generalised positions."""
        return self._state[:, 1:1 + self.model.mj.nq]

    def joints(self) -> np.ndarray:
        """Return the (N, 14) true joints."""
        return self.model.joints_of(self.qpos)

    def object_pose(self) -> np.ndarray:
        """Return the (N, 7 * objects) object poses."""
        return self.model.object_pose_of(self.qpos)

    def observed_joints(self, where: np.ndarray | None = None) -> np.ndarray:
        """Return the (M, 14) joints as they are measured: late, with the errors of their zeros and noise.

        The same until the worlds are stepped, and the true ones without a randomisation.
        """
        where = self._all(where)
        return self.model.joints_of(self.qpos[where]) if self._latency is None else self._latency.joints(where)

    def camera_qpos(self, camera: str, where: np.ndarray | None = None) -> np.ndarray:
        """Return the (M, nq) positions that the newest frame of a camera shows; the true ones without a randomisation.

        :param camera: one of the robot's ``cameras``.
        """
        where = self._all(where)
        return self.qpos[where] if self._latency is None else self._latency.camera_qpos(camera, where)

    def camera_frames(self, camera: str, where: np.ndarray | None = None) -> np.ndarray:
        """Return the (M,) numbers of those frames, by which their noise differs; 0 without a randomisation."""
        where = self._all(where)
        return np.zeros(len(where), np.int64) if self._latency is None else self._latency.camera_frames(camera, where)

    def appearances(self, where: np.ndarray | None = None) -> Sequence[Appearance | None]:
        """Return what pictures of M worlds look like; None for a world that looks as the model says."""
        return [None if drawn is None else drawn.appearance for drawn in self.drawn(where)]

    def drawn(self, where: np.ndarray | None = None) -> list[EpisodeParameters | None]:
        """Return what the episodes of M worlds drew; None without a randomisation."""
        return [self._drawn[world] for world in self._all(where)]

    def _all(self, where: np.ndarray | None) -> np.ndarray:
        return np.arange(self.worlds) if where is None else np.asarray(where)

    def step(self, targets: np.ndarray, where: np.ndarray | None = None) -> ChunkOutcome:
        """Execute (M, H, 14) joint targets, one per control step, in the worlds ``where``.

        Contacts are read at the state that ends each control step.

        :raises ActionError: for targets that are refused; no world has moved then.
        """
        where = self._all(where)
        targets = checked_targets(targets, self.model, self._out_of_range, (len(where), None))
        mj, (count, horizon) = self.model.mj, targets.shape[:2]
        dynamics, latency = self._dynamics, self._latency
        if latency is None:
            controls = np.repeat(self.model.controls_of(targets), SUBSTEPS, axis=1)
        else:
            sent = latency.sent(where, targets)
            controls = latency.followed(where, sent)
        state = np.empty((count, horizon * SUBSTEPS, self._state.shape[1]))
        sensors = np.empty((count, horizon * SUBSTEPS + 1, mj.nsensordata))
        lost = np.zeros(count, bool)

        def roll(row: int) -> None:
            stepper, one, world = self._stepper, slice(row, row + 1), where[row]
            if dynamics is not None:
                dynamics.write(world, stepper.mj, stepper.views)
            stepper.rollout.rollout(
                stepper.mj, stepper.data, self._state[world], controls[one], state=state[one],
                sensordata=sensors[one, :-1], initial_warmstart=self._warm_start[world])
            lost[row] = divergence.diverged(stepper.data) or not divergence.sound(state[row, -1])
            if lost[row]:
                return
            self._warm_start[world] = stepper.data.qacc_warmstart
            # MuJoCo evaluates sensors at the start of a step: those of the last state are still to come.
            mujoco.mj_forward(stepper.mj, stepper.data)
            sensors[row, -1] = stepper.data.sensordata

        list(self._pool.map(roll, range(count)))
        for row in np.flatnonzero(lost):
            self._give_up(int(where[row]), state[row], controls[row], sensors[row])
        ends = np.arange(1, horizon + 1) * SUBSTEPS
        after = state[:, ends - 1]
        kept = where[~lost]
        self._state[kept] = after[~lost, -1]
        self.last_target[kept] = targets[~lost, -1]
        if latency is not None:
            latency.advance(kept, sent[~lost], state[~lost, :, 1:1 + mj.nq])
        qpos = after[..., 1:1 + mj.nq]
        stage, strict = self.model.judge(sensors[:, ends], qpos)
        return ChunkOutcome(self.model.joints_of(qpos), self.model.object_pose_of(qpos), qpos, stage, strict, lost)

    def _give_up(self, world: int, state: np.ndarray, controls: np.ndarray, sensors: np.ndarray) -> None:
        """Write down the last states of a diverged world, begin it anew, and leave its last good ones in ``state``."""
        good = divergence.sound(state)
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
