"""Data the release tests share."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.releases import Release, ReleaseStore, wilson_interval

CREATED = '2026-05-01T10:00:00+00:00'


def evaluation(successes: int, episodes: int = 200) -> dict:
    """Return metrics that the promotion gate reads."""
    low, high = wilson_interval(successes, episodes)
    return {'evaluation': {'successes': successes, 'episodes': episodes,
                           'wilson_low': low, 'wilson_high': high}}


def stage(directory: Path, contract: PolicyContract | None = None) -> Path:
    """Fill a directory with what a release is published from; the graphs are stand-in bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    contract = contract or PolicyContract()
    size = contract.state_dim
    stats = NormStats(np.zeros(size), np.ones(size), np.zeros(14), np.ones(14))
    (directory / 'norm_stats.json').write_text(stats.to_json())
    (directory / 'prefix.onnx').write_bytes(b'prefix graph')
    (directory / 'denoise.onnx').write_bytes(b'denoise graph')
    archive = io.BytesIO()
    np.savez(archive, noise=np.zeros((2, contract.horizon, 14), np.float32), atol=np.float32(1e-4))
    (directory / 'vectors.npz').write_bytes(archive.getvalue())
    return directory


def publish(store: ReleaseStore, staging: Path, key: Path, metrics: dict | None = None, **changes) -> Release:
    """Publish the staging directory."""
    arguments = {'contract': PolicyContract(), 'metrics': metrics if metrics is not None else evaluation(100),
                 'parent': None, 'private_key': key, 'created': CREATED}
    return store.publish(staging, **arguments | changes)
