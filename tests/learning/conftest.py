"""One thread, so that results can be compared bit by bit, a finished run of the tiny task, and a Ray cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_task
import torch
import two_nodes
from runs import train
from two_nodes import TwoNodes

from fpo_ros.learning.scale import Cluster, Pool, open_pool

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


@pytest.fixture(scope='module')
def nodes(tmp_path_factory) -> Iterator[TwoNodes]:
    """A cluster for the tests of a module."""
    pytest.importorskip('ray')
    with two_nodes.started(tmp_path_factory.mktemp('faults')) as started:
        yield started


@pytest.fixture(scope='module')
def connected(nodes) -> TwoNodes:
    """The cluster, whose workers reward the waist and have faults."""
    import ray

    ray.init(address=nodes.address, logging_level='warning', log_to_driver=False, runtime_env={
        'worker_process_setup_hook': 'worker_faults.install',
        'env_vars': {'PYTHONPATH': str(Path(__file__).parent), 'FPO_ROS_TEST_FAULTS': str(nodes.faults)}})
    return nodes


@pytest.fixture(scope='module')
def pool(connected) -> Iterator[Pool]:
    """Up to two workers with units of two scenes."""
    with open_pool(Cluster(connected.address, unit=2, unit_timeout_s=60.0, start_timeout_s=60.0)) as opened:
        yield opened
