from __future__ import annotations

from pathlib import Path

import pytest

from fpo_ros.episodes import EpisodeStore


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create_or_open(tmp_path / 'store')
