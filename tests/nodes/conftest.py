"""One rclpy context per test process for tests of single nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope='session')
def ros() -> Iterator[None]:
    """Keep rclpy initialised in the default context."""
    rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    rclpy.init(args=[])
    yield
    rclpy.try_shutdown()
