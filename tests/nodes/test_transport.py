"""The transport profile: who gets it, and that Fast DDS takes it without complaint."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.nodes.graph import GraphOptions, describe  # noqa: E402
from fpo_ros.nodes.transport import VARIABLES, profile_variables, sends_images  # noqa: E402

pytestmark = pytest.mark.ros

NODE = 'import rclpy; rclpy.init(args=[]); rclpy.create_node("talker").destroy_node(); rclpy.shutdown()'


def senders(options: GraphOptions) -> list[str]:
    return [spec.name for spec in describe(options).nodes if sends_images(spec)]


def test_processes_that_send_pictures_get_the_profile() -> None:
    assert senders(GraphOptions(cameras='cam_high')) == ['driver_twin', 'camera_ingest', 'proprio_ingest']
    assert senders(GraphOptions()) == []


def test_a_profile_of_the_user_stays() -> None:
    assert list(profile_variables({})) == ['FASTDDS_DEFAULT_PROFILES_FILE']
    assert list(profile_variables({'ROS_DISTRO': 'humble'})) == ['FASTRTPS_DEFAULT_PROFILES_FILE']
    for name in VARIABLES:
        assert profile_variables({name: '/mine.xml'}) == {}


def test_shared_memory_holds_several_frames_of_a_camera() -> None:
    tree = ElementTree.parse(profile_variables({})[VARIABLES[0]])
    segment, message = (int(next(tree.iter(f'{{http://www.eprosima.com}}{tag}')).text)
                        for tag in ('segment_size', 'maxMessageSize'))
    frame = 640 * 480 * 3
    assert segment >= 3 * 4 * frame and message >= 2 * frame


def test_fast_dds_takes_the_profile_without_complaint() -> None:
    done = subprocess.run([sys.executable, '-c', NODE], env=os.environ | profile_variables(os.environ), text=True,
                          capture_output=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, '')
