"""Many ALOHA worlds stepped natively on all cores, one action chunk at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
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
from fpo_ros.sim.dynamics import Dynamics, check_fits, start_qpos
from fpo_ros.sim.latency import Latency, Seen
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.task import REST_STEPS


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
    :param failed: (M,) control step within which it failed, from 0; H where it did not.
    """

    joints: np.ndarray
    object_pose: np.ndarray
    qpos: np.ndarray
    stage: np.ndarray
    strict: np.ndarray
    diverged: np.ndarray
    failed: np.ndarray


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
        #: None, too, where all of its ranges change nothing.
        self.randomisation = randomisation if randomisation and randomisation.active else None
        self._drawn: list[EpisodeParameters | None] = [None] * worlds
        self._dynamics: Dynamics | None = None
        self._latency: Latency | None = None
        if self.randomisation is not None:
            check_fits(self.randomisation, self.model)
            dynamics = Dynamics(self.model, self.randomisation, worlds)
            self._dynamics = dynamics if dynamics.active else None
            self._latency = Latency(self.model, self.randomisation, worlds)
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
        scene, drawn = int(self._seeds[world]), None
        if self.randomisation is not None:
            drawn = self._drawn[world] = self.randomisation.draw(scene, self.model)
        qpos = start_qpos(self.model, scene, drawn)
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

    def seen(self, where: np.ndarray | None = None) -> Seen | None:
        """Return what the sensors of M worlds show, the measured joints among it; None without a randomisation."""
        return None if self._latency is None else self._latency.seen(self._all(where))

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

    def step(self, targets: np.ndarray, where: np.ndarray | None = None,
             until: Callable[[ChunkOutcome], np.ndarray] | None = None) -> ChunkOutcome:
        """Execute (M, H, 14) joint targets, one per control step, in the worlds ``where``.

        Contacts are read at the state that ends each control step.

        :param until: outcome of whole chunks → (M,) control steps, 1 to H, after which each world stands still, since
            its episode has ended. A world that stopped before the end of its chunk must be reset next.
        :raises ActionError: for targets that are refused; no world has moved then.
        """
        where = self._all(where)
        targets = checked_targets(targets, self.model, self._out_of_range, (len(where), None))
        mj, (count, horizon) = self.model.mj, targets.shape[:2]
        latency = self._latency
        if latency is None:
            controls = np.repeat(self.model.controls_of(targets), SUBSTEPS, axis=1)
        else:
            sent = latency.sent(where, targets)
            controls = latency.followed(where, sent)
        state = np.empty((count, horizon * SUBSTEPS, self._state.shape[1]))
        sensors = np.empty((count, horizon * SUBSTEPS + 1, mj.nsensordata))
        lost = self._roll(where, controls, state, sensors)
        failed = np.full(count, horizon)
        for row in np.flatnonzero(lost):
            failed[row] = self._give_up(int(where[row]), state[row], controls[row], sensors[row])
        ends = np.arange(1, horizon + 1) * SUBSTEPS
        qpos = state[:, ends - 1, 1:1 + mj.nq]
        stage, strict = self.model.judge(sensors[:, ends], qpos)
        outcome = ChunkOutcome(self.model.joints_of(qpos), self.model.object_pose_of(qpos), qpos, stage, strict, lost,
                               failed)
        steps = np.full(count, horizon) if until is None else until(outcome)
        for row in np.flatnonzero(failed < steps):
            self._begin(int(where[row]))
        for length in np.unique(steps):
            rows = np.flatnonzero((steps == length) & (failed >= steps))
            kept, last = where[rows], length * SUBSTEPS
            self._state[kept] = state[rows, last - 1]
            self.last_target[kept] = targets[rows, length - 1]
            if latency is not None:
                latency.advance(kept, sent[rows, :last], state[rows, :last, 1:1 + mj.nq])
        return outcome

    def _roll(self, where: np.ndarray, controls: np.ndarray, state: np.ndarray, sensors: np.ndarray) -> np.ndarray:
        """Step worlds natively, each on one of the threads; return (M,) bool, those whose physics failed.

        :param controls: (M, S, nu) of every physics step.
        :param state: (M, S, nstate), filled with the states behind each step.
        :param sensors: (M, S + 1, nsensordata), filled with what sensors say before each step and at the end.
        """
        lost, dynamics = np.zeros(len(where), bool), self._dynamics

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

        list(self._pool.map(roll, range(len(where))))
        return lost

    def rest(self, where: np.ndarray | None = None) -> ChunkOutcome:
        """Let the objects come to rest after a reset: the arms stay for REST_STEPS."""
        where = self._all(where)
        return self.step(hold_targets(self.last_target[where], REST_STEPS), where)

    def _give_up(self, world: int, state: np.ndarray, controls: np.ndarray, sensors: np.ndarray) -> int:
        """Write down the last states of a diverged world, leave its last good ones in ``state``; return when it failed.

        :returns: the control step, from 0.
        """
        good = divergence.sound(state)
        first = int(np.argmin(good)) if not good.all() else len(state) - 1
        divergence.dump(self._dumps, world, int(self._seeds[world]),
                        np.concatenate([self._state[world][None], state[:first + 1]]),
                        np.concatenate([controls[:1], controls[:first + 1]]), self.task)
        state[first:] = state[first - 1] if first else self._state[world]
        sensors[first:] = 0.0
        self.divergences[world] += 1
        return first // SUBSTEPS


def hold_targets(last_target: np.ndarray, horizon: int) -> np.ndarray:
    """Return (M, H, 14) targets that repeat (M, 14) last targets."""
    return np.broadcast_to(last_target[:, None], (len(last_target), horizon, ACTION_DIM)).copy()
