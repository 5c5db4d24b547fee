"""The policy node: what a bad policy, a bad observation or a bad announcement provokes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_releases import Releases

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402

from fpo_ros.msg import ActionChunk, ControllerStatus, Observation, PolicyRelease  # noqa: E402
from fpo_ros.nodes import convert  # noqa: E402
from fpo_ros.nodes.logic.chunk_gate import ChunkGate, Question  # noqa: E402
from fpo_ros.nodes.logic.health import ERROR, OK, WARN  # noqa: E402
from fpo_ros.nodes.policy import Policy  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.policy.realtime import Leftover  # noqa: E402
from fpo_ros.runtime.timeline import Joining  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture(scope='module')
def store(tmp_path_factory) -> Releases:
    """A release store with one tiny promoted policy that stands still."""
    releases = Releases.make(tmp_path_factory.mktemp('releases'))
    releases.publish(START_JOINTS)
    return releases


@pytest.fixture
def node(ros, store):
    """An active policy node; its messages are kept instead of sent."""
    values = {'release': str(store.path / 'v000001'), 'trusted_keys': str(store.keys), 'horizon': 10, 'execute': 10}
    node = Policy(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.sent = []
    node.joined = []
    node._send = lambda chunk, stamp, elapsed, joining: (node.sent.append(chunk), node.joined.append(joining))
    yield node
    node.trigger_shutdown()
    node.destroy_node()


def observation() -> Observation:
    """Return a message such as proprio_ingest sends, of arms at the start pose."""
    from geometry_msgs.msg import Pose

    pose = Pose()
    pose.orientation.w = 1.0
    return Observation(joint_positions=START_JOINTS.astype(np.float32), object_poses=[pose])


def pictured(message: Observation, camera: str, rows: int, columns: int) -> None:
    """Let a message bring a black picture."""
    message.camera_names, message.image_ages = [camera], [0.0]
    message.images = [convert.image_message(np.zeros((rows, columns, 3), np.uint8), message.header.stamp, camera)]


def test_observation_is_answered_with_a_chunk(node) -> None:
    node._answer_one(observation(), Question(Joining.AFTER))
    assert node.sent[0].shape == (10, 14) and node.health()[0].level == OK


def test_a_chunk_says_when_the_oldest_part_of_what_it_answers_was_measured(node, monkeypatch) -> None:
    sent: list[ActionChunk] = []
    del node._send
    monkeypatch.setattr(node, 'output', SimpleNamespace(
        publish=lambda data: sent.append(deserialize_message(data, ActionChunk))))
    message = observation()
    message.header.stamp, message.joint_age, message.object_pose_ages = convert.stamp_of(10**9), 0.01, [0.035]
    node._answer_one(message, Question(Joining.AFTER))
    assert convert.nanoseconds(sent[0].observation_stamp) == 10**9
    assert convert.nanoseconds(sent[0].measured_stamp) == pytest.approx(965_000_000, abs=100)


def test_policy_that_gives_nan_sends_nothing_and_says_so(node, monkeypatch) -> None:
    session = node.slot.session
    chunk = np.zeros((1, 10, 14), np.float32)
    chunk[0, 3, 2] = np.nan
    monkeypatch.setattr(session, '_sample', lambda *_: chunk)
    node._answer_one(observation(), Question(Joining.AFTER))
    line, = node.health()
    assert not node.sent and line.level == ERROR
    assert 'v000001' in line.message and 'not finite: row 3, left_elbow is nan' in line.message
    monkeypatch.undo()
    node._answer_one(observation(), Question(Joining.AFTER))
    assert node.health()[0].level == OK


@pytest.mark.parametrize(('change', 'why'), [
    (lambda message: setattr(message, 'object_poses', []), 'needs an object pose'),
    (lambda message: setattr(message, 'joint_positions', np.full(14, np.nan, np.float32)), 'joints are not finite'),
    (lambda message: setattr(message, 'camera_names', ['cam_high']), 'names 1 cameras but has 0 images'),
    (lambda message: pictured(message, 'cam_hihg', 96, 96), "has camera 'cam_hihg', the cell has none")])
def test_unfit_observation_is_not_answered(node, change, why) -> None:
    message = observation()
    change(message)
    node._answer_one(message, Question(Joining.AFTER))
    assert not node.sent and why in node.health()[0].message
    assert node.health()[0].values['observations_refused'] == 1


def test_late_status_is_answered_with_the_first_observation_after_the_last_row(node, monkeypatch) -> None:
    """The status says when the last row was sent; what came before it is not forgotten."""
    answered = []
    def answer(message, question):
        answered.append(convert.nanoseconds(message.header.stamp))
        node.gate.sent(node.now_ns(), answered[-1])

    monkeypatch.setattr(node, '_answer_one', answer)
    node.trigger_activate()
    start = node.now_ns()
    for period in range(4):
        message = observation()
        message.header.stamp = convert.stamp_of(start + period * 20_000_000)
        node._on_observation(message)
    status = ControllerStatus(state=ControllerStatus.STATE_POLICY, remaining=0)
    status.header.stamp = convert.stamp_of(start + 15_000_000)
    node._on_status(status)
    node.work.join()
    assert answered == [start + 20_000_000]
    node._on_status(status)  # of before the chunk
    assert not node.work.unfinished_tasks


@pytest.mark.parametrize('uri', ['file://[x', 'https://host/v000002', 'relative/../v000002', ''])
def test_malformed_announcement_leaves_the_policy_serving(node, uri) -> None:
    node._on_release(PolicyRelease(version='v000002', uri=uri))
    assert node.slot.wait(10.0) and node.slot.version == 'v000001'
    node._answer_one(observation(), Question(Joining.AFTER))
    assert len(node.sent) == 1


def test_a_defect_in_the_inference_thread_ends_the_node(node, monkeypatch) -> None:
    monkeypatch.setattr(node.slot, 'infer', lambda *_, **__: 1 / 0)
    node.trigger_activate()
    node.work.put((observation(), Question(Joining.AFTER)))
    node.worker.join(5.0)
    assert not node.worker.is_alive() and 'ZeroDivisionError' in node.failure


def offer_stale_observation(node: Policy) -> None:
    """Let the controller wait for a chunk, and offer an observation that is older than the node answers."""
    stale = node.now_ns() - 600_000_000
    status = ControllerStatus(state=ControllerStatus.STATE_POLICY, remaining=0)
    status.header.stamp = convert.stamp_of(stale - 1)
    node._on_status(status)
    message = observation()
    message.header.stamp = convert.stamp_of(stale)
    node._on_observation(message)


def test_observation_that_is_too_old_is_not_answered(node) -> None:
    node.trigger_activate()
    offer_stale_observation(node)
    assert not node.work.unfinished_tasks and node.waiting.dropped == 1
    assert 'the limit is 0.5 s' in node.health()[0].message


def test_while_a_chunk_is_played_the_newest_observation_is_answered_from_what_is_left(node, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(type(node.slot.session), 'goes_on', True)
    monkeypatch.setattr(node.slot, 'infer', lambda value, rng, leftover: asked.append((value.stamp_ns, leftover)))
    node.trigger_activate()
    start = node.now_ns() - 200_000_000
    node.gate.sent(start, start, 1, np.zeros((10, 14), np.float32), Joining.AFTER)
    for stamp in (start + 120_000_000, start + 140_000_000):
        message = observation()
        message.header.stamp = convert.stamp_of(stamp)
        node._on_observation(message)
    status = ControllerStatus(state=ControllerStatus.STATE_POLICY, remaining=4, chunk_sequence=1, chunk_delay=1)
    status.header.stamp = convert.stamp_of(start + 120_000_000)  # row 5 is being executed
    node._on_status(status)
    node.work.join()
    (stamp, leftover), = asked
    assert stamp == start + 140_000_000 and leftover.delay == 1 and len(leftover.rows) == 4


def test_pictures_of_another_size_are_not_answered(node) -> None:
    node.slot.cell = replace(node.slot.cell, observation='pixels', cameras=('cam_high',))
    message = observation()
    pictured(message, 'cam_high', 480, 640)
    node._answer_one(message, Question(Joining.AFTER))
    assert not node.sent and node.refused == 1
    assert "picture of camera 'cam_high' has 480x640 pixels, the cell has 96x96" in node.health()[0].message


def test_a_chunk_that_does_not_go_on_from_the_one_before_is_not_sent_as_if_it_did(node, monkeypatch) -> None:
    """As where the release just swapped in cannot."""
    leftover, session = Leftover(np.zeros((4, 14), np.float32), 1), type(node.slot.session)
    node._answer_one(observation(), Question(Joining.REALTIME, leftover))
    assert node.joined == [Joining.REALTIME] and node.health()[0].level == OK
    with monkeypatch.context() as patch:
        patch.setattr(session, 'objection', lambda *_: 'policy v000002 has no graph that goes on')
        node._answer_one(observation(), Question(Joining.REALTIME, leftover))
        assert node.joined[-1] is Joining.AFTER and len(node.sent) == 2
    line, = node.health()
    assert line.level == WARN and 'not joined in real time: policy v000002 has no graph that goes on' in line.message
    node._answer_one(observation(), Question(Joining.REALTIME, leftover))
    assert node.joined[-1] is Joining.REALTIME and node.health()[0].level == OK


def test_where_chunks_take_longer_than_the_policy_can_bridge_they_are_played_to_their_end(node, monkeypatch) -> None:
    def objection(session, cameras, delay):
        return 'it learned to go on over 2 control periods' if delay > 2 else ''

    monkeypatch.setattr(type(node.slot.session), 'objection', objection)
    node.trigger_activate()
    start = node.now_ns() - 200_000_000
    for delay, asked in ((3, False), (1, True)):
        node.gate = ChunkGate(node.slot.cell)
        node.gate.sent(start, start, 1, np.zeros((10, 14), np.float32), Joining.AFTER)
        node.gate.on_status(start + 120_000_000, True, 4, 1, delay)
        message = observation()
        message.header.stamp = convert.stamp_of(start + 140_000_000)
        assert (node._question(message) is not None) == asked
        line, = node.health()
        assert ('it learned to go on over 2 control periods' in line.message) != asked
        assert line.values['chunking'] == ('realtime' if asked else 'after')


@pytest.mark.parametrize('age', [float('nan'), float('inf'), -float('inf'), -0.001, 1e300])
@pytest.mark.parametrize('field', ['joint_age', 'image_ages[1]', 'object_pose_ages[0]'])
def test_an_observation_whose_age_is_none_is_refused_by_its_name_and_the_next_one_is_answered(node, monkeypatch, field,
                                                                                            age) -> None:
    said: list[str] = []
    monkeypatch.setattr(node, 'error_once', said.append)
    node.trigger_activate()
    start = node.now_ns()
    status = ControllerStatus(state=ControllerStatus.STATE_POLICY, remaining=0)
    status.header.stamp = convert.stamp_of(start)
    node._on_status(status)
    bad, good = observation(), observation()
    bad.joint_age, bad.image_ages, bad.object_pose_ages = 0.01, [0.01, 0.01], [0.01]
    name, _, index = field.rstrip(']').partition('[')
    if index:
        getattr(bad, name)[int(index)] = age
    else:
        bad.joint_age = age
    for message in (bad, good):
        message.header.stamp = convert.stamp_of(start + 20_000_000)
    node._on_observation(bad)
    assert not node.work.unfinished_tasks and node.active and not node.failure
    line, = node.health()
    assert line.level == ERROR and line.values['observations_refused'] == 1 and node.waiting.dropped == 0
    assert f'has {field} {age:g} s, and ages are finite and 0 or more' in line.message
    assert said == [f'no chunk: {line.message}']
    node._on_observation(good)
    node.work.join()
    assert len(node.sent) == 1 and node.health()[0].level == OK


def test_diagnostics_tell_what_serves_how_fast_it_answers_and_what_was_dropped(node, monkeypatch) -> None:
    del node._send
    monkeypatch.setattr(node, 'output', SimpleNamespace(publish=lambda message: None))
    told = []
    monkeypatch.setattr(node, '_diagnostics', SimpleNamespace(publish=told.append))
    node.trigger_activate()
    offer_stale_observation(node)
    for _ in range(3):
        node._answer_one(observation(), Question(Joining.AFTER))
    assert len(node.inference_s) == 3 and min(node.inference_s) > 0
    node.inference_s.extend(milliseconds * 1e-3 for milliseconds in range(1, 201))  # the newest 200 count
    node.counted = (0, 0)
    monkeypatch.setattr(node, 'steady_ns', lambda: 2_000_000_000)
    node._publish_diagnostics()
    line = next(status for status in told[0].status if status.name == 'policy: policy')
    assert line.level == bytes([OK]) and line.message == 'serving v000001'
    values = {entry.key: entry.value for entry in line.values}
    assert values == {
        'version': 'v000001', 'provider': 'cpu', 'chunking': 'realtime', 'chunks': '3', 'chunk_rate_hz': '1.5',
        'planned_delay_periods': '1', 'observations_dropped': '1', 'observations_refused': '0', 'swaps': '1',
        'refusals': '0', 'inference_p50_ms': '100.5', 'inference_p99_ms': '198.01'}
    monkeypatch.setattr(node, 'steady_ns', lambda: 3_000_000_000)
    assert node.health()[0].values['chunk_rate_hz'] == 0.0, 'none since the report before'
