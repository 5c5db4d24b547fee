"""The tiny task of the learning tests, and rows that run it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / 'learning'))


@pytest.fixture
def tiny(tmp_path):
    """Run rows on the tiny task; return where work and results go."""
    from tiny_rows import on_the_tiny_task

    with on_the_tiny_task():
        yield tmp_path / 'work', tmp_path / 'results'
