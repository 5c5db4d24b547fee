"""The tiny learning problem, and points that can be placed by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / 'learning'))  # tiny_task

torch.set_num_threads(1)


@pytest.fixture
def waist_task() -> Iterator[None]:
    """Run short episodes with success for turning the waist."""
    import tiny_task

    with tiny_task.short_episodes(), tiny_task.waist_reward():
        yield
