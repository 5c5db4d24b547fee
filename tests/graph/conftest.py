"""A running graph with tiny signed releases, shared by the tests of one file."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.releases import ReleaseStore, generate_keypair, load_trusted_keys, wilson_interval

#: Every chunk is 10 rows; one Euler step of velocity = x leaves exactly the action mean.
CONTRACT = PolicyContract(horizon=10, execute=10, flow_steps=1)


def _tiny():
    file = Path(__file__).parents[1] / 'runtime' / 'conftest.py'
    spec = importlib.util.spec_from_file_location('tiny_releases', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Releases:
    """A release store whose policies steer to a fixed pose.

    :param path: the store.
    :param keys: directory with ``release.key`` and ``release.pub``.
    """

    path: Path
    keys: Path

    def publish(self, target: np.ndarray, contract: PolicyContract = CONTRACT, promote: bool = True) -> Path:
        """Publish a policy that commands ``target`` in every row; returns the release's directory."""
        stats = NormStats(
            np.zeros(contract.state_dim), np.ones(contract.state_dim), target, np.full(14, 0.01)
        )
        staging = self.path.parent / f'staging_{len(list(self.path.parent.iterdir()))}'
        _tiny().write_release(staging, contract, stats=stats, gain=1.0)
        (staging / 'contract.json').unlink()
        low, high = wilson_interval(20, 40)
        release = ReleaseStore(self.path).publish(
            staging, contract=contract, parent=None, private_key=self.keys / 'release.key',
            created='2026-01-01T00:00:00+00:00',
            metrics={'evaluation': {'successes': 20, 'episodes': 40, 'wilson_low': low, 'wilson_high': high}})
        if promote:
            ReleaseStore(self.path).promote(release.version, load_trusted_keys(self.keys))
        return release.path


def waist_at(radians: float) -> np.ndarray:
    """Return the start pose with the left waist turned."""
    target = START_JOINTS.copy()
    target[0] = radians
    return target


@pytest.fixture(scope='module')
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """A store with v000001, which stands still, and v000002, which turns the left waist to 0.1 rad."""
    root = tmp_path_factory.mktemp('releases')
    generate_keypair(root / 'keys')
    store = Releases(root / 'store', root / 'keys')
    store.publish(waist_at(0.0))
    store.publish(waist_at(0.1))
    return store
