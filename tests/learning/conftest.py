"""One thread, so that results can be compared bit by bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_task
import torch

torch.set_num_threads(1)


@pytest.fixture
def waist_task() -> Iterator[None]:
    """Run short episodes with success for turning the waist."""
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        yield
