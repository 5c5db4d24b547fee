"""Recorded episodes as training pairs: an observation and the chunk of targets that followed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.layout import REQUIRED
from fpo_ros.episodes.store import Episode, EpisodeStore
from fpo_ros.policy.contract import ACTION_DIM, TASKS, ContractError, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.transforms import known_actions, known_state, resize_with_pad, state_vector
from fpo_ros.sim.scenes import is_held_out

NOT_SUCCESSFUL = 'not successful'
#: Entry of an episode's ``extra``: the physics failed, and what follows repeats the last good step.
DIVERGED = 'diverged'


class NoDemonstrationsError(ContractError):
    """A store holds no usable episode; the message says why.

    :param reasons: why episodes were left out → how many.
    """

    def __init__(self, message: str, reasons: Counter[str]) -> None:
        super().__init__(message)
        self.reasons = reasons


@dataclass(frozen=True)
class Demonstrations:
    """Training pairs of M decisions.

    :param states: (M, state_dim) raw states.
    :param chunks: (M, H, 14) raw targets.
    :param images: (F, cameras, H, W, 3) uint8 frames, or None.
    :param frame: (M,) row of ``images`` that belongs to each pair.
    :param episodes: number of episodes read.
    :param origin: the store they were read from; empty if none.
    :param left_out: one line about episodes that were not used and why; empty if all were.
    """

    states: np.ndarray
    chunks: np.ndarray
    images: np.ndarray | None
    frame: np.ndarray
    episodes: int
    origin: str = ''
    left_out: str = ''

    def stats(self, contract: PolicyContract) -> NormStats:
        """Return the normalisation statistics of these pairs in the units of a contract's network."""
        actions = known_actions(self.chunks, self.joints, contract)
        return NormStats.of(known_state(self.states, contract), actions.reshape(-1, actions.shape[-1]))

    @property
    def joints(self) -> np.ndarray:
        """(M, 14) joints of the states."""
        return self.states[:, :ACTION_DIM]


def task_of(store: EpisodeStore, task: str | None = None) -> str:
    """Return the task that a store's episodes teach; damaged episodes have no say.

    :param task: the one asked for; that of all episodes if None.
    :raises ContractError: when the store holds no episode of the task asked for, or mixes tasks and none is.
    """
    counts: Counter[str] = Counter()
    for episode_id in store.ids():
        try:
            counts[store.read(episode_id).meta.task] += 1
        except EpisodeStoreError:
            continue
    held = ', '.join(f'{count} of {name}' for name, count in counts.most_common())
    if counts and task is not None and task not in counts:
        raise ContractError(f'{store.path} holds no episode of task {task}, only {held}: name another store or task')
    if len(counts) > 1 and task is None:
        raise ContractError(f'{store.path} mixes tasks, {held}: name the one to learn with --task')
    return task or next(iter(counts or TASKS))


def usable(episode: Episode, contract: PolicyContract, *, source: str | None = None,
           successes_only: bool = False) -> str:
    """Return why an episode cannot train a policy of a contract; empty when it can.

    :param source: ``'expert'``, ``'teleop'`` or ``'policy'``; all by default.
    """
    meta = episode.meta
    needed = (*REQUIRED, *(('object_pose',) if contract.observation == 'state' else ()))
    checks = [
        (meta.task != contract.task, 'of another task'),
        (source is not None and meta.source != source, f'of another source than {source}'),
        (successes_only and not meta.success, NOT_SUCCESSFUL),
        (bool(meta.extra.get(DIVERGED)), 'whose physics diverged'),
        (meta.seed is not None and is_held_out(meta.seed), 'of held-out scenes'),
        (not np.isclose(meta.control_rate_hz, contract.control_rate_hz), 'of another control rate'),
        *((name not in episode.arrays, f'without {name}') for name in needed),
        *((name not in episode.cameras, f'without camera {name}') for name in contract.cameras),
    ]
    return next((reason for fails, reason in checks if fails), '')


def chunks_of(actions: np.ndarray, steps: np.ndarray, horizon: int) -> np.ndarray:
    """Return (M, horizon, 14) targets that follow each of (M,) steps; the last target repeats past the end."""
    index = np.minimum(steps[:, None] + np.arange(horizon), len(actions) - 1)
    return actions[index]


def chunk_starts(actions: np.ndarray, execute: int) -> np.ndarray:
    """Return the steps at which the chunks of a recorded policy began.

    Joined synchronously, the arm controller repeats its target until the next chunk comes; a chunk begins with the
    first new one. In real time nothing is repeated, and the steps are ``execute`` apart.

    :param actions: (T, 14) targets as commanded.
    :param execute: rows executed of a chunk.
    """
    new = np.flatnonzero((np.diff(actions, axis=0) != 0).any(1)) + 1
    starts: list[int] = []
    while len(new):
        starts.append(int(new[0]))
        new = new[new >= starts[-1] + execute]
    return np.array(starts, np.int64)


def _pairs(episode: Episode, contract: PolicyContract) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return states, chunks and pictures of an episode: its decisions, with cameras those that have all frames."""
    joints, actions = episode.arrays['joint_positions'], episode.arrays['action']
    pose = episode.arrays['object_pose'] if contract.observation == 'state' else None
    steps = np.arange(len(actions))
    if episode.meta.source == 'policy':
        steps = chunk_starts(actions, contract.execute)
    seen = [episode.images(name) for name in contract.cameras]
    for _, at in seen:
        steps = np.intersect1d(steps, at)
    pictures = None
    if seen:
        pictures = np.empty((len(steps), len(seen), contract.image_height, contract.image_width, 3), np.uint8)
        for camera, (frames, at) in enumerate(seen):
            for row, frame in enumerate(frames[np.searchsorted(at, steps)]):
                pictures[row, camera] = resize_with_pad(frame, contract.image_height, contract.image_width)
    return (state_vector(joints[steps], None if pose is None else pose[steps], contract),
            chunks_of(actions, steps, contract.horizon), pictures)


def load_demonstrations(store: EpisodeStore, contract: PolicyContract, *, source: str | None = None,
                        successes_only: bool = False) -> Demonstrations:
    """Read the training pairs of every usable episode; the others are counted in ``left_out``.

    Pairs start at every step, those of a recorded policy where its chunks began; with cameras, at those of them
    that have a frame of every camera.

    :param source: ``'expert'``, ``'teleop'`` or ``'policy'``; all by default.
    :raises NoDemonstrationsError: when the store holds no usable episode, saying why.
    """
    states, chunks, images, reasons, damaged = [], [], [], Counter(), []
    for episode_id in store.ids():
        try:
            episode = store.read(episode_id)
            reason = usable(episode, contract, source=source, successes_only=successes_only)
            parts = None if reason else _pairs(episode, contract)
        except (EpisodeStoreError, ContractError) as error:
            reason, parts = 'damaged', None
            damaged.append(f'{episode_id}: {error}')
        if parts is not None and not len(parts[0]):
            reason = 'without a frame of every camera at a decision' if contract.cameras else 'without a decision'
        if reason:
            reasons[reason] += 1
            continue
        states.append(parts[0])
        chunks.append(parts[1])
        images.append(parts[2])
    words = ', '.join(f'{count} {reason}' for reason, count in reasons.items()) + ''.join(
        f' ({text})' for text in damaged)
    if not states:
        raise NoDemonstrationsError(
            f'{store.path} holds no episode to learn {contract.task} from {contract.observation} from '
            f'({words or "it is empty"}): record demonstrations first', reasons)
    total = sum(map(len, states))
    return Demonstrations(
        np.concatenate(states), np.concatenate(chunks).astype(np.float32),
        np.concatenate(images) if contract.cameras else None, np.arange(total), len(states),
        str(store.path.resolve()),
        f'{sum(reasons.values())} of {len(states) + sum(reasons.values())} episodes are not used: {words}'
        if reasons else '')
