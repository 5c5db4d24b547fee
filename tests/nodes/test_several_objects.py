"""A task of two objects: trackers, observation, policy and recorder hold both, in the order of the task, or refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_releases import STEADY, Releases

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from geometry_msgs.msg import PoseStamped  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from fpo_ros.episodes.store import EpisodeStore  # noqa: E402
from fpo_ros.hardware.gripper import GYM_ALOHA  # noqa: E402
from fpo_ros.hardware.joints import joint_state_positions  # noqa: E402
from fpo_ros.hardware.names import JOINT_STATE_NAMES, object_pose_topics  # noqa: E402
from fpo_ros.msg import Observation  # noqa: E402
from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.logic.chunk_gate import Question  # noqa: E402
from fpo_ros.nodes.logic.episode_steps import StepAssembler  # noqa: E402
from fpo_ros.nodes.logic.health import ERROR, OK  # noqa: E402
from fpo_ros.nodes.logic.recorder import Recorder  # noqa: E402
from fpo_ros.nodes.policy import Policy  # noqa: E402
from fpo_ros.nodes.proprio_ingest import ProprioIngest  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.runtime.timeline import Joining  # noqa: E402
from fpo_ros.sim.task import sample_object_pose  # noqa: E402
from fpo_ros.sim.twin.node import DriverTwin  # noqa: E402
from fpo_ros.srv import ResetScene  # noqa: E402

pytestmark = pytest.mark.ros
POSES = sample_object_pose('insertion', 3)
PEG, SOCKET = convert.pose_messages(POSES)
#: The clock of the ingest stands still [ns].
NOW_NS = 1_000_000_000_000


@pytest.fixture
def configured(ros) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a configured node of a class with some parameters."""
    nodes = []

    def make(kind: type, **values: object) -> Any:
        nodes.append(kind(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()]))
        assert nodes[-1].trigger_configure() == TransitionCallbackReturn.SUCCESS
        return nodes[-1]

    yield make
    for node in nodes:
        node.trigger_shutdown()
        node.destroy_node()


def test_a_single_object_has_the_plain_topic_and_several_have_one_each() -> None:
    assert object_pose_topics('transfer_cube') == ('object_pose',)
    assert object_pose_topics('insertion') == ('object_pose/peg', 'object_pose/socket')


def test_poses_of_several_objects_survive_the_round_trip() -> None:
    np.testing.assert_array_equal(convert.poses_array(convert.pose_messages(POSES)), POSES)
    assert convert.poses_array([]) is None
    message = Observation(joint_positions=START_JOINTS.astype(np.float32), object_poses=[PEG, SOCKET])
    np.testing.assert_array_equal(convert.observation_value(message).object_pose, POSES)


def test_twin_tracks_every_object_and_a_reset_returns_all_of_them(configured) -> None:
    twin = configured(DriverTwin, task='insertion', seed=3)
    sent: list[tuple[str, PoseStamped]] = []
    assert [output.topic_name for output in twin.pose_outputs] == ['/object_pose/peg', '/object_pose/socket']
    for output in twin.pose_outputs:
        output.publish = lambda message, topic=output.topic_name: sent.append((topic, message))
    reply = twin._on_reset(ResetScene.Request(task='insertion', seed=3), ResetScene.Response())
    assert reply.success and list(reply.object_poses) == [PEG, SOCKET]
    twin._tick()
    twin._tick()
    assert [topic for topic, _ in sent] == ['/object_pose/peg', '/object_pose/socket']
    for row, (_, message) in enumerate(sent):
        assert message.header.frame_id == 'world' and message.header.stamp == sent[0][1].header.stamp
        across = slice(7 * row, 7 * row + 2)
        np.testing.assert_allclose(convert.pose_array(message.pose)[:2], POSES[across], atol=1e-3)


@pytest.fixture
def ingest(configured) -> ProprioIngest:
    """Active ``proprio_ingest`` of insertion that has joint states; what it publishes is kept in ``sent``."""
    node = configured(ProprioIngest, task='insertion', cameras='')
    node.now_ns, node.sent = lambda: NOW_NS, []
    node.output.publish = node.sent.append
    node.active = True
    node.quiet_until = NOW_NS
    joints = JointState(name=list(JOINT_STATE_NAMES), position=joint_state_positions(START_JOINTS[:7], GYM_ALOHA))
    joints.header.stamp = convert.stamp_of(NOW_NS)
    for side in ('left', 'right'):
        node._on_joints(side, joints)
    return node


def tracked(node: ProprioIngest, topic: str, pose: Any, age_s: float = 0.0) -> None:
    """Let a tracker's message arrive."""
    message = PoseStamped(pose=pose)
    message.header.stamp = convert.stamp_of(NOW_NS - round(age_s * 1e9))
    node._on_pose(topic, message)


def test_observation_holds_all_objects_in_their_order_whichever_came_first(ingest) -> None:
    tracked(ingest, 'object_pose/socket', SOCKET)
    tracked(ingest, 'object_pose/peg', PEG, age_s=0.05)
    ingest._publish()
    message = ingest.sent[-1]
    assert list(message.object_poses) == [PEG, SOCKET]
    assert list(message.object_pose_ages) == pytest.approx([0.05, 0.0])


def test_without_one_of_the_objects_there_are_no_poses_and_health_names_it(ingest) -> None:
    tracked(ingest, 'object_pose/peg', PEG)
    ingest._publish()
    assert list(ingest.sent[-1].object_poses) == [] and list(ingest.sent[-1].object_pose_ages) == []
    levels = {line.part: line.level for line in ingest.health()}
    assert levels['object_pose/peg'] != ERROR and levels['object_pose/socket'] == ERROR
    tracked(ingest, 'object_pose/socket', SOCKET, age_s=0.5)
    ingest._publish()
    assert not ingest.sent[-1].object_poses, 'older than max_pose_age'


def test_policy_answers_both_objects_and_refuses_one(configured, tmp_path) -> None:
    releases = Releases.make(tmp_path)
    path = releases.publish(START_JOINTS, replace(STEADY, task='insertion', prompt=''))
    node = configured(Policy, release=str(path), trusted_keys=str(releases.keys), task='insertion', horizon=10,
                      execute=10)
    sent = []
    node._send = lambda chunk, stamp, elapsed, joining: sent.append(chunk)
    message = Observation(joint_positions=START_JOINTS.astype(np.float32), object_poses=[PEG])
    node._answer_one(message, Question(Joining.AFTER))
    line, = node.health()
    assert not sent and line.level == ERROR and 'object pose must have 14 entries, got 7' in line.message
    message.object_poses = [PEG, SOCKET]
    node._answer_one(message, Question(Joining.AFTER))
    assert sent[0].shape == (10, 14) and node.health()[0].level == OK


def test_policy_of_another_task_is_refused(configured, tmp_path) -> None:
    releases = Releases.make(tmp_path)
    path = releases.publish(START_JOINTS)
    node = Policy(parameter_overrides=[Parameter(name, value=value) for name, value in {
        'release': str(path), 'trusted_keys': str(releases.keys), 'task': 'insertion', 'horizon': 10,
        'execute': 10}.items()])
    said = []
    node._complain = lambda what, error: said.append(str(error))
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert "task is 'transfer_cube', the cell has 'insertion'" in said[0]
    finally:
        node.trigger_shutdown()
        node.destroy_node()


def test_a_step_with_one_of_two_poses_is_left_out_and_counted(tmp_path) -> None:
    store, assembler = EpisodeStore.create_or_open(tmp_path / 'store'), StepAssembler()
    recorder = Recorder(store)
    recorder.begin({'task': 'insertion', 'prompt': 'x', 'observation': 'state', 'source': 'policy',
                    'created': '2026-01-01T00:00:00+00:00'})
    for number, seen in enumerate(([PEG, SOCKET], [PEG], [PEG, SOCKET])):
        recorder.append(assembler.assemble(20_000_000 * number, START_JOINTS, START_JOINTS,
                                           convert.poses_array(seen)), {})
    episode = store.read(recorder.commit(success=True).result(10.0))
    assert recorder.refused == episode.meta.extra['refused_steps'] == 1 and 'peg, socket' in recorder.newest_refusal
    np.testing.assert_allclose(episode.arrays['object_pose'], np.tile(POSES, (2, 1)), atol=1e-7)
    assert recorder.close()
