"""Small hand-made episodes in a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.policy.contract import PolicyContract

PIXELS = PolicyContract(
    observation='pixels',
    cameras=('cam_low', 'cam_high'),
    image_height=16,
    image_width=24,
    horizon=4,
    execute=2,
)


def add(store: EpisodeStore, steps: int = 6, cameras: dict[str, list[int]] | None = None, pose: bool = False,
        action: np.ndarray | None = None, **meta: object) -> str:
    """Add an episode of random numbers; return its id.

    :param cameras: camera → steps of its frames.
    :param pose: whether object poses are recorded.
    :param action: (steps, 14) targets.
    """
    rng = np.random.default_rng(len(store))
    arrays = {
        'joint_positions': rng.normal(size=(steps, 14)).astype(np.float32),
        'action': rng.normal(size=(steps, 14)).astype(np.float32) if action is None else action,
        'reward': np.zeros(steps, np.float32),
        'timestamp': np.arange(steps) * 0.02,
    }
    if pose:
        arrays['object_pose'] = rng.normal(size=(steps, 7)).astype(np.float32)
    frames = {name: (rng.integers(0, 256, (len(at), 48, 64, 3), np.uint8), np.array(at, np.int32))
              for name, at in (cameras or {}).items()}
    return store.write(arrays, {
        'task': 'transfer_cube', 'prompt': 'x', 'observation': 'pixels' if cameras else 'state', 'source': 'teleop',
        'seed': 1, 'success': True, 'created': '2026-01-01T00:00:00+00:00'} | meta, frames)


def camera_store(path: Path, steps_of_low: list[int]) -> EpisodeStore:
    """Return a store of one episode with two cameras; the frames of ``cam_high`` are of steps 0 and 4."""
    store = EpisodeStore.create_or_open(path)
    add(store, cameras={'cam_high': [0, 4], 'cam_low': steps_of_low}, success=False)
    return store


def damage(store: EpisodeStore, episode_id: str) -> None:
    """Spoil the targets of an episode on disk."""
    chunk = next(path for path in (store.path / episode_id / 'action').iterdir() if path.name != 'zarr.json')
    chunk.write_bytes(chunk.read_bytes()[:-3])
