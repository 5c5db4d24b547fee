"""The launch files users type, under ROS 2's own launch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('launch_ros', reason="ROS 2's launch_ros is not installed (it comes with a distribution)")

from fpo_ros.nodes.graph import GraphOptions, describe  # noqa: E402
from fpo_ros.nodes.locate import share_path  # noqa: E402
from fpo_ros.nodes.up import RunningGraph  # noqa: E402
from fpo_ros.releases import generate_keypair  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]

RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=[a.split(':=', 1) for a in sys.argv[2:]])]))
sys.exit(service.run())
"""


def _launch(file: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', RUN, str(share_path(f'launch/{file}')), *arguments], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)


@pytest.mark.parametrize(('file', 'mode', 'arguments'), [
    ('aloha_sim.launch.py', 'sim', []), ('aloha_real.launch.py', 'real', ['use_twin:=true', 'cameras:=none'])])
def test_launch_file_brings_up_the_described_nodes_and_ends_cleanly(file, mode, arguments, tmp_path) -> None:
    generate_keypair(tmp_path / 'keys')
    launch = _launch(file, f'trusted_keys:={tmp_path / "keys"}', *arguments)
    options = GraphOptions(mode=mode, use_twin=True, cameras='' if 'cameras:=none' in arguments else None)
    graph = RunningGraph(describe(options), int(os.environ['ROS_DOMAIN_ID']), lambda node, line: None)
    try:
        graph.wait_active(60.0)
    finally:
        graph.stop()
        launch.send_signal(signal.SIGINT)
        output, _ = launch.communicate(timeout=30)
    assert output.count('process has finished cleanly') == len(graph.description.nodes), output


def test_real_cell_says_which_driver_packages_are_missing(tmp_path) -> None:
    launch = _launch('aloha_real.launch.py', 'cameras:=none')
    output, _ = launch.communicate(timeout=30)
    assert launch.returncode != 0 and 'interbotix_xsarm_control' in output
