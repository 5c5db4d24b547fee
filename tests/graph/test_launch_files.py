"""The launch files users type, under ROS 2's own launch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


#: Stands in for the Interbotix driver: writes down the launch configurations it sees, and leaves its own behind.
ARM_DRIVER = """
import json, os
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

def note(context):
    seen = {name: value for name, value in context.launch_configurations.items()}
    with open(os.path.join(os.environ['SEEN'], seen['robot_name'].replace('/', '_') + '.json'), 'w') as file:
        json.dump(seen, file)

def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument('robot_name'),
        DeclareLaunchArgument('robot_description', default_value=['urdf of ', LaunchConfiguration('robot_name')]),
        OpaqueFunction(function=note)])
"""
EXECUTABLE = """#!{python}
import os, re, signal, sys
text = ''.join(open(a).read() for a in sys.argv if a.startswith('/') and os.path.isfile(a) and a != sys.argv[0])
open(os.path.join(os.environ['SEEN'], os.path.basename(sys.argv[0]) + '.txt'), 'w').write(' '.join(sys.argv) + text)
signal.sigwait({{signal.SIGINT}})
"""


def _launch(file: str, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', RUN, str(share_path(f'launch/{file}')), *arguments], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment)


@pytest.fixture
def keys(tmp_path) -> str:
    """Launch argument with a trusted key."""
    generate_keypair(tmp_path / 'keys')
    return f'trusted_keys:={tmp_path / "keys"}'


@pytest.mark.parametrize(('file', 'mode', 'arguments'), [
    ('aloha_sim.launch.py', 'sim', []), ('aloha_real.launch.py', 'real', ['use_twin:=true', 'cameras:=none']),
    ('teleop.launch.py', 'real', ['use_twin:=true', 'cameras:=none'])])
def test_launch_file_brings_up_the_described_nodes_and_ends_cleanly(file, mode, arguments, keys) -> None:
    launch = _launch(file, keys, *arguments)
    options = GraphOptions(mode=mode, use_twin=True, cameras='' if 'cameras:=none' in arguments else None,
                           teleop=file == 'teleop.launch.py')
    graph = RunningGraph(describe(options), int(os.environ['ROS_DOMAIN_ID']), lambda node, line: None)
    try:
        graph.wait_active(60.0)
    finally:
        graph.stop()
        launch.send_signal(signal.SIGINT)
        output, _ = launch.communicate(timeout=60)
    assert output.count('process has finished cleanly') == len(graph.description.nodes), output


def test_real_cell_says_which_driver_packages_are_missing(keys) -> None:
    launch = _launch('aloha_real.launch.py', keys, 'cameras:=none')
    output, _ = launch.communicate(timeout=30)
    assert launch.returncode != 0 and 'interbotix_xsarm_control' in output


def _driver_packages(prefix: Path) -> None:
    """Install stand-ins for the packages of drivers below a prefix."""
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    for package in ('interbotix_xsarm_control', 'realsense2_camera', 'joy'):
        (index / package).touch()
    launch = prefix / 'share' / 'interbotix_xsarm_control' / 'launch'
    launch.mkdir(parents=True)
    (launch / 'xsarm_control.launch.py').write_text(ARM_DRIVER)
    for package, name in (('realsense2_camera', 'realsense2_camera_node'), ('joy', 'joy_node')):
        program = prefix / 'lib' / package / name
        program.parent.mkdir(parents=True)
        program.write_text(EXECUTABLE.format(python=sys.executable))
        program.chmod(0o755)


def test_real_cell_starts_each_driver_with_its_own_settings(keys, tmp_path) -> None:
    prefix, seen = tmp_path / 'prefix', tmp_path / 'seen'
    seen.mkdir()
    _driver_packages(prefix)
    mine, motors = tmp_path / 'mine.yaml', tmp_path / 'left.yaml'
    motors.write_text('grippers: {gripper: {horn_radius: 0.0275, arm_length: 0.035}}')  # its crank is looked at
    mine.write_text('/**/cell: {ros__parameters: {cam_high_serial: "0123456789", '
                    f'left_motor_configs: {motors}}}}}')
    launch = _launch('aloha_real.launch.py', keys, 'learner:=false', 'gamepad:=true', f'config:={mine}', SEEN=str(seen),
                     AMENT_PREFIX_PATH=f'{prefix}{os.pathsep}{os.environ.get("AMENT_PREFIX_PATH", "")}')
    try:
        deadline = time.monotonic() + 60
        while len(list(seen.iterdir())) < 4 and time.monotonic() < deadline and launch.poll() is None:
            time.sleep(0.1)
    finally:
        time.sleep(0.5)
        launch.send_signal(signal.SIGINT)
        output, _ = launch.communicate(timeout=60)
    assert len(list(seen.iterdir())) == 4, output
    assert '__node:=joy' in (seen / 'joy_node.txt').read_text()
    left, right = (json.loads((seen / f'follower_{side}.json').read_text()) for side in ('left', 'right'))
    assert left['robot_description'] == 'urdf of follower_left' and left['motor_configs'] == str(motors)
    assert right['robot_description'] == 'urdf of follower_right'
    assert right['motor_configs'].endswith('share/interbotix_xsarm_control/config/aloha_vx300s.yaml')
    camera = (seen / 'realsense2_camera_node.txt').read_text()
    assert 'serial_no: _0123456789\n' in camera and 'depth_module.color_profile: 640x480x30' in camera
    assert '__ns:=/cam_high' in camera
