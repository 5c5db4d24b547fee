"""Episodes and releases on the robot's computer."""

from __future__ import annotations

import subprocess
import sys


def test_the_robot_side_loads_neither_torch_nor_ros():
    script = ('import sys, fpo_ros.episodes.cli, fpo_ros.releases.cli; '
              "print([name for name in ('torch', 'rclpy', 'zarr', 'mujoco') if name in sys.modules])")
    result = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=60,
                            check=True, env={'PYTHONPATH': ':'.join(filter(None, sys.path))})
    assert result.stdout == '[]\n'
