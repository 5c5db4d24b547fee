"""What holds for every test: a graph of its own, rendering without display, few threads."""

from __future__ import annotations

import importlib.util
import os
import zlib

import pytest

from fpo_ros import gl


def domain_id() -> int:
    """ROS domain of this test process, 1 to 101: workers of one run differ, and runs most likely do too."""
    worker = os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw')
    run = os.environ.get('PYTEST_XDIST_TESTRUNUID', str(os.getpid()))
    return (zlib.crc32(run.encode()) + int(worker)) % 101 + 1


# Set before anything imports rclpy, mujoco or torch; processes that tests start inherit it.
os.environ['ROS_DOMAIN_ID'] = str(domain_id())
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('OMP_NUM_THREADS', '1')
gl.select_backend()

HAS_ROS = importlib.util.find_spec('rclpy') is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``ros`` where rclpy is not installed."""
    if HAS_ROS:
        return
    for item in items:
        if item.get_closest_marker('ros'):
            item.add_marker(
                pytest.mark.skip(reason='rclpy is not installed (pip install ".[ros]" or source ROS 2)')
            )
