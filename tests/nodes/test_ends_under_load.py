"""rclpy's events executor crashes the process over a destroyed action endpoint: ours must end while goals run."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

pytestmark = pytest.mark.ros

SERVED = """
    import time
    from rclpy.action import ActionServer
    from fpo_ros.action import RunEpisode
    from fpo_ros.nodes.client import EpisodeClient
    from fpo_ros.nodes.ros_client import RosClient

    class Server(RosClient):
        def _connect(self):
            self.server = ActionServer(self.node, RunEpisode, 'run_episode', self.execute)

        def execute(self, goal):
            for _ in range(100):
                goal.publish_feedback(RunEpisode.Feedback())
                time.sleep(0.001)
            goal.succeed()
            return RunEpisode.Result()

        def _disconnect(self):
            self.server.destroy()

    with Server('server'):
        for number in range(15):
            with EpisodeClient(name=f'client_{number}') as client:
                client.start_episode(1, on_feedback=lambda *values: None)
                time.sleep(0.005 * number)
    print('ended in order')
"""

LIFECYCLE = """
    import threading
    import rclpy
    from rclpy.parameter import Parameter
    from fpo_ros.nodes.running import make_executor
    from fpo_ros.nodes.client import EpisodeClient
    from fpo_ros.nodes.episode_manager import EpisodeManager
    from fpo_ros.nodes.graph import GraphError

    rclpy.init()
    node = EpisodeManager(parameter_overrides=[Parameter('record_dir', value=STORE)])
    assert node.trigger_configure().name == 'SUCCESS'
    rounds, refused = 0, 0

    def around():
        global rounds
        assert node.trigger_cleanup().name == 'SUCCESS' and node.trigger_configure().name == 'SUCCESS'
        rounds += 1

    node.create_timer(0.02, around)
    executor, ending = make_executor(), threading.Event()
    executor.add_node(node)

    def spin():
        while not ending.is_set():
            executor.spin_once(timeout_sec=0.02)

    thread = threading.Thread(target=spin)
    thread.start()
    with EpisodeClient() as client:
        while rounds < 100:
            try:
                client.start_episode(1, on_feedback=lambda *values: None)
            except GraphError as error:
                assert 'refused' in str(error), error
                refused += 1
    ending.set()
    thread.join()
    executor.remove_node(node)
    node.destroy_node()
    executor.shutdown()
    rclpy.shutdown()
    print('ended in order', refused)
"""


@pytest.mark.parametrize('text', [SERVED, LIFECYCLE], ids=['clients that leave', 'a node that is configured anew'])
def test_the_end_of_an_action_endpoint_is_orderly_while_goals_arrive(text, tmp_path) -> None:
    code = textwrap.dedent(text).replace('STORE', repr(str(tmp_path / 'store')))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and 'ended in order' in done.stdout, f'{done.returncode}: {done.stderr[-2000:]}'
