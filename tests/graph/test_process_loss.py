"""kill -9 of each process of the graph: the arms hold, somebody says why, a restart heals it."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Empty  # noqa: E402

from fpo_ros.episodes.store import EpisodeStore  # noqa: E402
from fpo_ros.hardware.names import joint_states_topic  # noqa: E402
from fpo_ros.msg import ActionChunk, ControllerStatus  # noqa: E402
from fpo_ros.nodes import convert, qos  # noqa: E402
from fpo_ros.nodes.client import EpisodeClient  # noqa: E402
from fpo_ros.nodes.graph import GraphError, GraphOptions  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.runtime.controller_config import ArmState  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]
#: Why the controller holds: on a busy machine the death of a process may stall the joint states first.
HELD_WITHOUT_MANAGER = 'no sign of the episode manager|joint states are'
#: Control periods after the last fresh command within which the arms must hold.
HOLD_PERIODS = 2


@pytest.fixture(scope='module')
def cell(releases, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The graph with a policy that turns the left waist to and fro, quick to notice losses."""
    options = GraphOptions(
        policy=str(releases.path / 'v000001'), trusted_keys=str(releases.keys), releases=str(releases.path),
        record_dir=str(tmp_path_factory.mktemp('episodes') / 'store'), cameras='cam_high',
        parameters={'driver_twin': {'camera_rate': 10.0, 'image_height': 48, 'image_width': 64},
                    'camera_ingest': {'image_height': 48, 'image_width': 64},
                    'arm_controller': {'starve_limit': 1.5}})
    with running_graph(options, sink=lambda node, line: None) as graph, EpisodeClient() as client:
        yield SimpleNamespace(graph=graph, client=client, releases=releases, handles=[],
                              store=Path(options.record_dir))


@pytest.fixture(autouse=True)
def whole_cell(cell) -> Iterator[None]:
    """A test that fails half-way must not leave the next one without a node, or with an episode running."""
    yield
    ended = [name for name, process in cell.graph.processes.items() if not process.running]
    for name in ended:
        cell.graph.restart(name, 60.0)
    while cell.handles:
        handle = cell.handles.pop()
        if 'episode_manager' not in ended and not handle.get_result_async().done():
            cell.client.cancel(handle)
            cell.client.finish_episode(handle, 20.0)


def _running_episode(cell):
    """Start a long episode and return its handle once the policy drives."""
    handle = cell.client.start_episode(3, max_steps=5000)
    cell.handles.append(handle)
    end = handle.get_result_async()

    def driving() -> bool:
        assert not end.done(), f'the episode ended early: {end.result().result}'
        status = cell.client.controller_status()
        return status.state == ArmState.POLICY and status.chunk_sequence > 0

    cell.client.wait_for(driving, 'the policy to drive', 20.0)
    return handle


def _kill(cell, name: str) -> None:
    cell.graph.signal(name, signal.SIGKILL)
    assert 'SIGKILL' in cell.graph.ended()[0]


def _heal(cell, name: str) -> None:
    cell.graph.restart(name, 30.0)
    assert cell.client.run_episode(4, max_steps=10, timeout_s=40.0).reason == 'timeout'


def _commands_stand_still(cell) -> None:
    first = np.array(cell.client.controller_status().command)
    time.sleep(0.2)
    np.testing.assert_array_equal(cell.client.controller_status().command, first)


def _newer_refusal(client, known: int):
    status = client.controller_status()
    return status if status.refused_inputs > known else None


@pytest.mark.parametrize('name', ['policy', 'proprio_ingest', 'camera_ingest'])
def test_without_its_inputs_the_policy_stops_and_the_arms_hold(cell, name) -> None:
    handle = _running_episode(cell)
    _kill(cell, name)
    outcome = cell.client.finish_episode(handle, 10.0)
    assert outcome.reason == 'controller' and 'no chunk for 1.5 s' in outcome.message
    cell.client.wait_for_state(ArmState.HOLD, 2.0)
    assert outcome.episode_id, 'what was recorded until then must be stored'
    _commands_stand_still(cell)
    _heal(cell, name)


def test_without_the_drivers_the_controller_holds(cell) -> None:
    handle = _running_episode(cell)
    _kill(cell, 'driver_twin')
    outcome = cell.client.finish_episode(handle, 10.0)
    assert outcome.reason in ('controller', 'stream')
    status = cell.client.wait_for_state(ArmState.HOLD, 2.0)
    assert 'joint states are' in status.reason or 'episode ended' in status.reason
    with pytest.raises(GraphError, match='joint states are'):
        cell.client.set_state(ArmState.HOMING)
    _heal(cell, 'driver_twin')


def test_without_the_controller_the_arms_keep_their_last_target(cell) -> None:
    handle = _running_episode(cell)
    joints = cell.client.latest(JointState, joint_states_topic('left'), qos.SENSOR)
    _kill(cell, 'arm_controller')
    outcome = cell.client.finish_episode(handle, 10.0)
    assert outcome.reason == 'stream' and 'arm_controller' in outcome.message
    first = np.array(cell.client.wait_for(joints, 'joint states', 2.0).position)
    time.sleep(0.5)
    np.testing.assert_allclose(joints().position, first, atol=0.01)
    _heal(cell, 'arm_controller')


def test_without_the_episode_manager_the_controller_holds_and_the_recording_can_be_saved(cell) -> None:
    _running_episode(cell)
    first = cell.client.controller_status().chunk_sequence
    cell.client.wait_for(lambda: cell.client.controller_status().chunk_sequence > first + 30,
                         'more steps than a recorder keeps to itself', 20.0)
    _kill(cell, 'episode_manager')
    status = cell.client.wait_for_state(ArmState.HOLD, 2.0)
    assert re.search(HELD_WITHOUT_MANAGER, status.reason), status.reason
    _commands_stand_still(cell)
    store = EpisodeStore.open(cell.store)
    leftover, = store.leftovers()
    assert leftover.steps >= 100
    assert store.read(store.salvage(leftover.name)).meta.extra['salvaged'] is True
    _heal(cell, 'episode_manager')


def test_without_the_episode_manager_homing_ends_too(cell) -> None:
    cell.client.run_episode(3, max_steps=30)
    cell.client.start_episode(3, max_steps=5000)
    cell.client.wait_for(lambda: cell.client.controller_status().state == ArmState.HOMING, 'homing to begin', 5.0)
    _kill(cell, 'episode_manager')
    status = cell.client.wait_for_state(ArmState.HOLD, 2.0)
    assert re.search(HELD_WITHOUT_MANAGER, status.reason), status.reason
    _heal(cell, 'episode_manager')


def test_recorder_that_fails_ends_the_episode_and_the_arms_hold(cell) -> None:
    handle = _running_episode(cell)
    shutil.rmtree(cell.store / '.incoming')
    outcome = cell.client.finish_episode(handle, 20.0)
    assert outcome.reason == 'recording' and '.incoming' in outcome.message and not outcome.episode_id
    cell.client.wait_for_state(ArmState.HOLD, 2.0)
    assert cell.client.run_episode(3, max_steps=10).episode_id, 'the next episode is recorded again'


def test_without_the_learner_the_episode_goes_on(cell) -> None:
    handle = cell.client.start_episode(3, max_steps=50)
    _kill(cell, 'learner')
    assert cell.client.finish_episode(handle, 20.0).reason == 'timeout'
    _heal(cell, 'learner')


def test_chunks_that_are_not_fit_are_refused_and_the_arms_hold(cell) -> None:
    """NaN, a wrong length, an old observation: the policy's place is taken by the test."""
    client = cell.client
    client.run_episode(3, max_steps=5)
    _kill(cell, 'policy')
    with contextlib.ExitStack() as cleanup:
        _send_unfit_chunks(cell, cleanup)
    _heal(cell, 'policy')


def _send_unfit_chunks(cell, cleanup: contextlib.ExitStack) -> None:
    client, node = cell.client, cell.client.node
    sender = node.create_publisher(ActionChunk, 'action_chunk', qos.COMMAND)
    heart = node.create_publisher(Empty, 'episode_heartbeat', qos.SENSOR)
    beat = node.create_timer(0.05, lambda: heart.publish(Empty()))
    for destroy, entity in ((node.destroy_publisher, sender), (node.destroy_publisher, heart),
                            (node.destroy_timer, beat)):
        cleanup.callback(destroy, entity)
    client.wait_for(lambda: sender.get_subscription_count() and heart.get_subscription_count(),
                    'the controller to find the test', 5.0)
    now = lambda: node.get_clock().now().nanoseconds  # noqa: E731
    good = np.tile(START_JOINTS, (10, 1))
    good[:, 0] = 0.3
    bad = good.copy()
    bad[4, 2] = np.nan
    cases = [(bad, 0, 'not finite: row 4, left_elbow is nan'), (good[:9], 0, r'shape \(9, 14\)'),
             (good, 2_000_000_000, r'observation 2\.\d+ s old')]
    for sequence, (rows, age_ns, why) in enumerate(cases, 1000):
        for state in (ArmState.HOLD, ArmState.POLICY):
            client.set_state(state)
            client.wait_for_state(state, 2.0)  # seen in a status, so its first tick has been
        before = client.controller_status()
        known = before.refused_inputs
        sender.publish(
            convert.chunk_message(
                rows,
                sequence=sequence,
                observation_ns=now() - age_ns,
                now_ns=now(),
                version='test',
                period_s=0.02,
                inference_s=0.0,
            )
        )
        status = client.wait_for(
            lambda known=known: _newer_refusal(client, known), 'the chunk to be refused', 5.0)
        assert re.search(why, status.last_refusal), status.last_refusal
        np.testing.assert_array_equal(status.command, before.command)
        assert abs(client.controller_status().measured[0]) < 0.02
    client.set_state(ArmState.HOLD)


def test_lost_policy_stops_the_arms_within_two_periods_of_its_last_row(cell) -> None:
    """The policy steers to 0.1 rad; killed on the way, the target freezes where the last row left it."""
    client = cell.client
    if client.policy_status().version != 'v000002':
        client.announce('v000002')
        client.wait_for_version('v000002')
    history = []
    subscription = client.node.create_subscription(
        ControllerStatus, 'controller_status', lambda m: history.append((m.remaining, m.command[0], m.state)),
        qos.STATUS)
    _running_episode(cell)
    _kill(cell, 'policy')
    reason = client.wait_for_state(ArmState.HOLD, 5.0).reason
    client.node.destroy_subscription(subscription)
    targets = np.array([command for _, command, state in history if state == ArmState.POLICY])
    rows = [index for index, (remaining, _, state) in enumerate(history)
            if state == ArmState.POLICY and remaining > 0]
    policy = [index for index, (_, _, state) in enumerate(history) if state == ArmState.POLICY]
    last = policy.index(rows[-1]) + 1  # the tick that sent the last row
    assert np.ptp(targets[last + HOLD_PERIODS:]) == 0.0
    assert np.ptp(targets) > 0.02, f'the arm must have been moving for the test to mean anything ({reason})'
    _heal(cell, 'policy')
