"""What the robot side may import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fpo_ros.nodes.logic

LOGIC = [f'fpo_ros.nodes.logic.{file.stem}' for file in sorted(Path(fpo_ros.nodes.logic.__path__[0]).glob('[a-z]*.py'))]
HARDWARE = ['alignment', 'currents', 'gripper', 'images', 'joints', 'modes', 'names']
NODES = ['arm_controller', 'camera_ingest', 'proprio_ingest', 'policy', 'episode_manager', 'learner', 'arms',
         'gamepad']


def imported(modules: list[str], names: str) -> str:
    """Return which of the comma-separated names are loaded after importing modules in a fresh interpreter."""
    code = (f'import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n'
            f'print(*[n for n in {names!r}.split(",") if n in sys.modules])')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_logic_and_hardware_know_nothing_of_ros() -> None:
    modules = LOGIC + [f'fpo_ros.hardware.{name}' for name in HARDWARE]
    assert imported(modules, 'rclpy,std_msgs,fpo_ros.msg,torch,mujoco') == ''


@pytest.mark.ros
def test_nodes_of_the_cell_run_without_torch_and_mujoco() -> None:
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    assert imported([f'fpo_ros.nodes.{name}' for name in NODES], 'torch,mujoco') == ''
