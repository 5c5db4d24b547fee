"""A network that parts the learner from the cell, in network namespaces of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from parted_cell import NOT_HERE  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]


def test_arms_go_on_while_the_network_parts_the_learner_from_the_cell(tmp_path) -> None:
    script = Path(__file__).parents[1] / 'parted_cell.py'
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=110, check=False)
    if done.returncode == NOT_HERE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
