"""The tiny task of the learning tests, and rows that run it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / 'learning'))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Run rows on the tiny task; return where work and results go."""
    import tiny_task

    from fpo_ros.results import running
    from fpo_ros.results.rows import Row

    monkeypatch.setattr(running, 'start_policy', lambda start, work, display: tiny_task.policy())
    monkeypatch.setattr(Row, 'config', lambda row: tiny_task.config())
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        yield tmp_path / 'work', tmp_path / 'results'
