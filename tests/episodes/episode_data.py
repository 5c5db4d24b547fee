"""Data the episode tests share."""

from __future__ import annotations

import numpy as np

META = {'task': 'transfer_cube', 'prompt': 'Transfer cube', 'observation': 'state', 'source': 'expert',
        'created': '2026-05-01T10:00:00+00:00', 'seed': 7}


def steps(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the standard arrays of an episode of ``count`` steps, different in every element."""
    rng = np.random.default_rng(seed)
    return {'joint_positions': rng.normal(size=(count, 14)).astype(np.float32),
            'action': rng.normal(size=(count, 14)).astype(np.float32),
            'reward': rng.normal(size=count).astype(np.float32),
            'timestamp': np.arange(count) / 50.0,
            'object_pose': rng.normal(size=(count, 7)).astype(np.float32)}


def frames(count: int, height: int = 6, width: int = 8) -> np.ndarray:
    """Return (count, height, width, 3) uint8 frames, different in every element."""
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def row(arrays: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """Return one step of arrays."""
    return {name: value[index] for name, value in arrays.items()}
