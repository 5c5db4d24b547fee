"""Time from an observation message to the chunk message that answers it, over DDS, of a policy node of its own.

Both are messages as they travel, in bytes: what their sender and their reader take to make and to read them is not the
node's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fpo_ros.nodes.logic.chunk_gate import TRANSIT_NS
from fpo_ros.policy.contract import Observation, PolicyContract

#: Time for the node to load its policy, and to answer an observation, which DDS may lose [s].
_START_LIMIT_S, _ANSWER_LIMIT_S, _TRIES = 120.0, 10.0, 5
#: Pause in which the node takes the status that asks for an observation [s].
_PAUSE_S = 0.02
#: How long the machine rests before the node is asked: a status sooner after a chunk than TRANSIT_NS would be of before
#: it. What is compared with the node rests as long, for a processor that wakes is slower than one that works [s].
REST_S = TRANSIT_NS * 1e-9 + 0.01 + _PAUSE_S


class NoNode(RuntimeError):
    """The node cannot run here."""


@contextlib.contextmanager
def open_node(release: Path, keys: Path, contract: PolicyContract, provider: str,
              directory: Path) -> Iterator[Callable[[Observation], float]]:
    """Run a policy node in a process of its own; give what asks it for a chunk and returns how long it took [s].

    :param release: directory of a release signed with one of ``keys``.
    :param directory: where its parameter file goes.
    :raises NoNode: where rclpy is not installed.
    :raises fpo_ros.nodes.graph.GraphError: when the node does not start or does not answer.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise NoNode('rclpy is not installed (pip install ".[ros]" or source ROS 2)')
    from fpo_ros.msg import ActionChunk, ControllerStatus
    from fpo_ros.msg import Observation as Message
    from fpo_ros.nodes import qos
    from fpo_ros.nodes.graph import GraphError, NodeSpec
    from fpo_ros.nodes.processes import NodeProcess, end_all
    from fpo_ros.nodes.ros_client import RosClient, as_bytes, domain_of_environment
    from fpo_ros.nodes.transport import profile_variables

    namespace = f'/bench_{os.getpid()}'
    parameters = {'release': str(release), 'trusted_keys': str(keys), 'require_promotion': False,
                  'task': contract.task, 'observation': contract.observation, 'cameras': ','.join(contract.cameras),
                  'image_height': contract.image_height, 'image_width': contract.image_width,
                  'horizon': contract.horizon, 'execute': contract.execute, 'provider': provider}
    os.environ |= profile_variables(os.environ)  # this process sends the pictures
    process = NodeProcess(NodeSpec('policy', 'fpo_ros.nodes.policy', namespace, parameters), directory,
                          domain_of_environment(), lambda name, line: None)
    try:
        with RosClient('bench', namespace) as client:
            arrived: list[float] = []
            client.node.create_subscription(ActionChunk, 'action_chunk',
                                            lambda chunk: arrived.append(time.perf_counter()), qos.COMMAND, raw=True)
            statuses = client.node.create_publisher(ControllerStatus, 'controller_status', qos.STATUS)
            observations = client.node.create_publisher(Message, 'observation', qos.OBSERVATION)
            status = ControllerStatus(state=ControllerStatus.STATE_POLICY)

            def known() -> bool:
                if not process.running:
                    raise GraphError(process.describe_end())
                return bool(statuses.get_subscription_count() and observations.get_subscription_count()
                            and client.node.count_publishers('action_chunk'))

            def ask(observation: Observation) -> float:
                for _ in range(_TRIES):
                    time.sleep(REST_S - _PAUSE_S)
                    status.header.stamp = client.node.get_clock().now().to_msg()
                    statuses.publish(status)
                    time.sleep(_PAUSE_S)
                    message = as_bytes(_message(observation, client.node.get_clock().now().to_msg()))
                    arrived.clear()
                    started = time.perf_counter()
                    observations.publish(message)
                    with contextlib.suppress(GraphError):  # tried again
                        client.wait_for(lambda: arrived, 'a chunk', _ANSWER_LIMIT_S)
                        return arrived[0] - started
                end = 'no chunk came' if process.running else process.describe_end()
                raise GraphError(f'{_TRIES} observations were sent to the policy node: {end}')

            client.wait_for(known, 'the policy node', _START_LIMIT_S)
            yield ask
    finally:
        end_all([process])


def _message(observation: Observation, stamp: object) -> object:
    """Return an observation as proprio_ingest sends it."""
    from fpo_ros.msg import Observation as Message
    from fpo_ros.nodes import convert

    message = Message(joint_positions=observation.joint_positions.astype('float32'),
                      camera_names=list(observation.images), image_ages=[0.0] * len(observation.images),
                      images=[convert.image_message(image, stamp, name)
                              for name, image in observation.images.items()])
    message.header.stamp = stamp
    if observation.object_pose is not None:
        message.object_poses = convert.pose_messages(observation.object_pose)
        message.object_pose_ages = [0.0] * len(message.object_poses)
    return message
