"""One thread, so that results can be compared bit by bit, and a finished run of the tiny task."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_task
import torch
from runs import train

torch.set_num_threads(1)


@pytest.fixture
def waist_task() -> Iterator[None]:
    """Run short episodes with success for turning the waist."""
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        yield


@pytest.fixture(scope='session')
def finished(tmp_path_factory):
    """Return a run of two iterations without interruption and its history."""
    run = tmp_path_factory.mktemp('whole')
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        _, history = train(run, 2)
    return run, history


@pytest.fixture
def copied(finished, tmp_path):
    """Return a copy of the run that a test may damage."""
    return Path(shutil.copytree(finished[0], tmp_path / 'copy'))
