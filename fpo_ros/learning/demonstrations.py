"""Recorded episodes as training pairs: an observation and the chunk of targets that followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.transforms import resize_with_pad, state_vector


@dataclass(frozen=True)
class Demonstrations:
    """Training pairs of M decisions.

    :param states: (M, state_dim) raw states.
    :param chunks: (M, H, 14) raw targets.
    :param images: (F, cameras, H, W, 3) uint8 frames, or None.
    :param frame: (M,) row of ``images`` that belongs to each pair.
    :param episodes: number of episodes read.
    """

    states: np.ndarray
    chunks: np.ndarray
    images: np.ndarray | None
    frame: np.ndarray
    episodes: int

    def stats(self) -> NormStats:
        """Return the normalisation statistics of these pairs."""
        return NormStats.of(self.states, self.chunks.reshape(-1, self.chunks.shape[-1]))


def chunks_of(actions: np.ndarray, steps: np.ndarray, horizon: int) -> np.ndarray:
    """Return (M, horizon, 14) targets that follow each of (M,) steps; the last target repeats past the end."""
    index = np.minimum(steps[:, None] + np.arange(horizon), len(actions) - 1)
    return actions[index]


def load_demonstrations(store: EpisodeStore, contract: PolicyContract, *, source: str | None = None,
                        successes_only: bool = False) -> Demonstrations:
    """Read the training pairs of every matching episode.

    With cameras, pairs start at the steps that have a frame of every camera; otherwise at every step.

    :param source: ``'expert'``, ``'teleop'`` or ``'policy'``; all by default.
    :raises ContractError: when the store holds no usable episode, saying why.
    """
    states, chunks, images, frames, episodes, rows = [], [], [], [], 0, 0
    for episode in store.iter():
        meta = episode.meta
        if meta.task != contract.task or (source and meta.source != source):
            continue
        if successes_only and not meta.success:
            continue
        arrays = {name: np.asarray(episode.arrays[name]) for name in episode.arrays}
        joints, actions = arrays['joint_positions'], arrays['action']
        pose = arrays.get('object_pose') if contract.observation == 'state' else None
        if contract.observation == 'state' and pose is None:
            continue
        steps = np.arange(len(actions))
        if contract.cameras:
            seen = {name: episode.images(name) for name in contract.cameras}
            steps = np.asarray(seen[contract.cameras[0]][1])
            if any(not np.array_equal(steps, other[1]) for other in seen.values()):
                raise ContractError(f'episode {episode.id}: cameras were not recorded at the same steps')
            stack = np.stack([[resize_with_pad(image, contract.image_height, contract.image_width)
                               for image in np.asarray(seen[name][0])] for name in contract.cameras], 1)
            images.append(stack)
        states.append(state_vector(joints[steps], None if pose is None else pose[steps], contract))
        chunks.append(chunks_of(actions, steps, contract.horizon))
        frames.append(rows + np.arange(len(steps)))
        rows += len(steps)
        episodes += 1
    if not episodes:
        raise ContractError(f'{store.path} holds no episode of task {contract.task} with what the contract '
                            f'needs ({contract.observation}); record demonstrations first')
    return Demonstrations(np.concatenate(states), np.concatenate(chunks).astype(np.float32),
                          np.concatenate(images) if images else None, np.concatenate(frames), episodes)
