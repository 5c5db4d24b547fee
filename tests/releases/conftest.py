from __future__ import annotations

import sys
from pathlib import Path

import pytest
from release_data import stage

from fpo_ros.releases import ReleaseStore, generate_keypair, load_trusted_keys
from fpo_ros.releases.keys import KeyPair

sys.path.append(str(Path(__file__).parents[1] / 'policy'))  # sizes, which policy.conftest imports


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return generate_keypair(tmp_path / 'keys')


@pytest.fixture
def trusted(keys: KeyPair) -> dict:
    return load_trusted_keys(keys.public_path)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return stage(tmp_path / 'staging')


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path / 'releases')
