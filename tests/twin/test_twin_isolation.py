"""The twin's core and the arms' client know neither ROS nor torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fpo_ros.hardware
import fpo_ros.sim

SHELL = ('node', 'driver', 'cameras')


def modules(package, folder: str) -> list[str]:
    files = [file for root in package.__path__ for file in (Path(root) / folder).glob('*.py')]
    return sorted('.'.join((package.__name__, *((folder,) if folder else ()), file.stem)) for file in files
                  if file.stem not in ('__init__', *SHELL))


def test_core_modules_import_without_ros_and_the_robots_without_mujoco() -> None:
    for names, blocked in ((modules(fpo_ros.sim, 'twin'), ('rclpy', 'torch')),
                           (modules(fpo_ros.hardware, ''), ('rclpy', 'torch', 'mujoco', 'onnxruntime'))):
        assert len(names) >= 8
        code = f"""
import sys, importlib
sys.path[:0] = {[str(Path(fpo_ros.sim.__path__[0]).parents[1])]!r}
for name in {blocked!r}:
    sys.modules[name] = None
for name in {names!r}:
    importlib.import_module(name)
"""
        done = subprocess.run([sys.executable, '-c', code], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
