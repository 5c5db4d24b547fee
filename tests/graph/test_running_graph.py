"""The whole graph over real DDS: episodes, hot swap, refusals, emergency stop, orderly end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from fpo_ros.bench import graph as bench  # noqa: E402
from fpo_ros.demo.display import Display  # noqa: E402
from fpo_ros.episodes.store import EpisodeStore  # noqa: E402
from fpo_ros.hardware.names import SIDES, group_command_topic, single_command_topic  # noqa: E402
from fpo_ros.msg import ActionChunk, ControllerStatus, PolicyRelease, TaskReward  # noqa: E402
from fpo_ros.nodes import qos  # noqa: E402
from fpo_ros.nodes.client import EpisodeClient  # noqa: E402
from fpo_ros.nodes.graph import GraphError, GraphOptions  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS, PolicyContract  # noqa: E402
from fpo_ros.runtime.controller_config import ArmState  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]


@pytest.fixture(scope='module')
def cell(releases, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The graph with v000001 served, one small camera, and a client."""
    record_dir = tmp_path_factory.mktemp('episodes') / 'store'
    options = GraphOptions(
        policy=str(releases.path / 'v000001'), trusted_keys=str(releases.keys), releases=str(releases.path),
        record_dir=str(record_dir), cameras='cam_high',
        parameters={'driver_twin': {'camera_rate': 10.0, 'image_height': 48, 'image_width': 64},
                    'camera_ingest': {'image_height': 48, 'image_width': 64},
                    'arm_controller': {'max_joint_age': 0.4},  # the machine may be busy
                    'episode_manager': {'stream_limit': 2.0}})
    lines: list[str] = []
    with running_graph(options, sink=lambda node, line: lines.append(f'{node}: {line}')) as graph:
        with EpisodeClient() as client:
            yield SimpleNamespace(
                graph=graph, client=client, releases=releases, store=record_dir, lines=lines, options=options,
                handles=[])
    assert {name: process.popen.returncode for name, process in graph.processes.items()} == dict.fromkeys(
        graph.processes, 0), 'SIGINT must end every node with exit code 0'


@pytest.fixture(autouse=True)
def whole_cell(cell) -> Iterator[None]:
    """A test that fails half-way must not leave the next one an episode or a latched stop."""
    yield
    while cell.handles:
        handle = cell.handles.pop()
        if not handle.get_result_async().done():
            cell.client.cancel(handle)
            cell.client.finish_episode(handle, 20.0)
    if cell.client.controller_status().state == ArmState.STOPPED:
        cell.client.emergency_stop(False)
        cell.client.reset_emergency_stop()


def _start(cell, **options):
    handle = cell.client.start_episode(3, **options)
    cell.handles.append(handle)
    return handle


def test_episode_runs_to_its_time_out_and_is_stored_as_it_happened(cell) -> None:
    steps = []
    outcome = cell.client.run_episode(7, max_steps=50, on_feedback=lambda step, stage, phase: steps.append(step))
    assert (outcome.success, outcome.reason, outcome.steps) == (False, 'timeout', 50), outcome.message
    assert outcome.policy_version == 'v000001' and steps[0] == 0
    episode = EpisodeStore.open(cell.store).read(outcome.episode_id)
    assert (episode.meta.seed, episode.meta.success, episode.meta.steps) == (7, False, 50)
    assert episode.meta.policy_version == 'v000001'
    joints, action = np.array(episode.arrays['joint_positions']), np.array(episode.arrays['action'])
    np.testing.assert_allclose(action[-1], START_JOINTS, atol=1e-5)
    assert np.abs(joints - START_JOINTS).max() < 0.05
    periods = np.diff(np.array(episode.arrays['timestamp']))
    assert abs(np.median(periods) - 0.02) < 0.002
    frames, at = episode.images('cam_high')
    assert np.array(frames).shape[1:] == (48, 64, 3)
    assert {0, 10, 20, 30, 40} <= set(at) and 6 <= len(at) <= 16, 'every tenth step, and where a chunk begins'


def test_episodes_are_run_from_the_command_line(cell) -> None:
    command = [sys.executable, '-m', 'fpo_ros.cli', 'run', '--episodes', '2', '--seed', '21', '--max-steps', '10',
               '--record', '--json']
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found['task'], found['driver'], found['episodes'], found['successes']) == ('transfer_cube', 'policy', 2, 0)
    assert [(one['seed'], one['reason'], one['steps']) for one in found['outcomes']] == [
        (21, 'timeout', 10), (22, 'timeout', 10)]
    assert 'seed 22: timeout after 0.2 s' in done.stderr and '0 of 2 succeeded' in done.stderr
    assert EpisodeStore.open(cell.store).read(found['outcomes'][1]['episode_id']).meta.seed == 22


def test_same_seed_puts_the_object_at_the_same_place(cell) -> None:
    poses = []
    for seed in (11, 12, 11):
        outcome = cell.client.run_episode(seed, max_steps=5)
        poses.append(np.array(EpisodeStore.open(cell.store).read(outcome.episode_id).arrays['object_pose'])[0])
    across = slice(0, 2)  # it falls the last millimetres onto the table while the arms settle
    np.testing.assert_allclose(poses[0][across], poses[2][across], atol=1e-3)
    assert np.abs(poses[0] - poses[1])[across].max() > 1e-2


def test_success_signal_ends_the_episode(cell) -> None:
    client = cell.client
    judge = client.node.create_publisher(TaskReward, 'task_reward', qos.STATUS)
    handle = _start(cell, max_steps=1000, on_feedback=lambda step, stage, phase: judge.publish(
        TaskReward(task='transfer_cube', stage=4, success=True)))
    outcome = client.finish_episode(handle)
    client.node.destroy_publisher(judge)
    assert (outcome.success, outcome.reason, outcome.max_stage) == (True, 'success', 4)
    assert EpisodeStore.open(cell.store).read(outcome.episode_id).meta.success is True


def test_cancel_ends_the_episode_and_the_arms_hold(cell) -> None:
    client = cell.client
    started = []
    handle = _start(cell, max_steps=1000, on_feedback=lambda step, stage, phase: started.append(phase))
    client.wait_for(lambda: 'running' in started, 'the episode to run', 20.0)
    client.cancel(handle)
    outcome = client.finish_episode(handle, 5.0)
    assert outcome.reason == 'canceled' and outcome.episode_id
    client.wait_for_state(ArmState.HOLD, 2.0)


def test_second_goal_is_refused_while_an_episode_runs(cell) -> None:
    handle = _start(cell, max_steps=5000)
    with pytest.raises(GraphError, match='seed 4 was refused'):
        cell.client.start_episode(4)
    cell.client.cancel(handle)
    assert cell.client.finish_episode(handle).reason == 'canceled'


def test_episode_of_an_unknown_task_says_which_one_the_cell_has(cell) -> None:
    outcome = cell.client.run_episode(3, task='juggling')
    assert (outcome.reason, outcome.steps) == ('setup', 0)
    assert "task 'juggling' is not this cell's, which is transfer_cube" in outcome.message


def test_announced_release_takes_over_without_stopping_the_graph(cell) -> None:
    client = cell.client
    before = client.controller_status().ticks
    pids = {name: process.popen.pid for name, process in cell.graph.processes.items()}
    assert client.announce('v000002') == 'v000002'
    assert client.wait_for_version('v000002').swaps == 2
    outcome = client.run_episode(5, max_steps=60)
    assert outcome.policy_version == 'v000002'
    assert client.controller_status().measured[0] == pytest.approx(0.1, abs=0.01)
    assert client.controller_status().ticks > before
    assert {name: process.popen.pid for name, process in cell.graph.processes.items()} == pids


def _refused(cell, uri: str, version: str, digest: str = '') -> str:
    client = cell.client
    before = client.policy_status()
    announcer = client.node.create_publisher(PolicyRelease, 'policy_release', qos.LATCHED)
    announcer.publish(PolicyRelease(version=version, uri=uri, manifest_sha256=digest))
    status = client.wait_for(
        lambda: client.policy_status() if client.policy_status().refusals > before.refusals else None,
        'the policy node to refuse the release', 20.0)
    client.node.destroy_publisher(announcer)
    assert status.version == before.version, 'the old policy must keep serving'
    return status.last_refusal


def test_tampered_release_is_refused_and_the_old_policy_serves(cell, releases) -> None:
    path = releases.publish(START_JOINTS)
    stats = path / 'norm_stats.json'
    signed = stats.read_text()
    stats.write_text(signed + ' ')
    assert 'norm_stats.json' in _refused(cell, path.as_uri(), path.name)
    stats.write_text(signed)


def test_release_of_another_shape_is_refused(cell, releases) -> None:
    path = releases.publish(START_JOINTS, PolicyContract(horizon=12, execute=10, flow_steps=1))
    assert 'horizon is 12' in _refused(cell, str(path), path.name)


def test_release_that_was_not_promoted_is_refused(cell, releases) -> None:
    path = releases.publish(START_JOINTS, promote=False)
    assert 'not promoted' in _refused(cell, str(path), path.name)


def test_older_release_does_not_come_back_by_an_announcement(cell, releases) -> None:
    older, _ = (releases.publish(START_JOINTS) for _ in range(2))
    assert 'promoted later' in _refused(cell, str(older), older.name)


def test_copy_of_a_release_beside_a_list_of_its_own_is_refused(cell, releases, tmp_path) -> None:
    path = releases.publish(START_JOINTS, promote=False)
    copy = Path(shutil.copytree(path, tmp_path / 'store' / path.name))
    (copy.parent / 'promoted').write_text(f'{path.name}\n')
    assert 'does not lie in the release store of this cell' in _refused(cell, str(copy), path.name)


def test_policy_rolls_back_at_once_and_does_not_take_the_one_it_left_again(cell, releases) -> None:
    client, before, bad = cell.client, cell.client.policy_status().version, releases.publish(START_JOINTS).name
    client.announce(bad)
    client.wait_for_version(bad)
    assert client.rollback_policy() == f'serving {before}'
    assert client.run_episode(5, max_steps=20).policy_version == before
    client.announce(bad)
    with pytest.raises(GraphError, match='was rolled back here'):
        client.wait_for_version(bad)
    with pytest.raises(GraphError, match='no earlier policy'):
        client.rollback_policy()


def test_unknown_release_is_not_announced(cell) -> None:
    with pytest.raises(GraphError, match='no release v000099'):
        cell.client.announce('v000099')


def test_emergency_stop_latches_until_a_deliberate_reset(cell) -> None:
    client = cell.client
    handle = _start(cell, max_steps=1000)
    client.wait_for_state(ArmState.POLICY, 20.0)
    client.emergency_stop(True)
    client.wait_for_state(ArmState.STOPPED, 2.0)
    outcome = client.finish_episode(handle, 5.0)
    assert outcome.reason == 'controller' and 'emergency stop' in outcome.message
    held = np.array(client.controller_status().measured)
    with pytest.raises(GraphError, match='refused HOMING'):
        client.set_state(ArmState.HOMING)
    client.emergency_stop(False)
    time.sleep(0.3)
    assert client.controller_status().state == ArmState.STOPPED, 'releasing the button must not end the stop'
    np.testing.assert_allclose(client.controller_status().measured, held, atol=0.02)
    with pytest.raises(GraphError, match='refused IDLE'):
        client.set_state(ArmState.IDLE)
    client.reset_emergency_stop()
    client.wait_for_state(ArmState.IDLE, 2.0)
    assert client.run_episode(3, max_steps=10).reason == 'timeout'


def _configure_anew(client, commands: str) -> None:
    """Let the controller begin anew with another value of ``commands``."""
    value = Parameter('commands', value=commands).to_parameter_msg()
    answer = client.call(SetParameters, 'arm_controller/set_parameters', SetParameters.Request(parameters=[value]))
    assert answer.results[0].successful
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP,
                       Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert client.call(ChangeState, 'arm_controller/change_state', ChangeState.Request(
            transition=Transition(id=transition)), 20.0).success


def test_dry_run_walks_through_an_episode_and_no_command_leaves(cell) -> None:
    client, node, said = cell.client, cell.client.node, {}
    topics = [topic(side) for topic in (group_command_topic, single_command_topic) for side in SIDES]
    sent = []
    subscriptions = [node.create_subscription(kind, topic, sent.append, qos.SENSOR) for topic, kind in zip(
        topics, (JointGroupCommand, JointGroupCommand, JointSingleCommand, JointSingleCommand), strict=True)]
    subscriptions.append(node.create_subscription(
        DiagnosticArray, '/diagnostics', lambda m: said.update({s.name: s for s in m.status}), qos.DIAGNOSTICS))
    client.run_episode(5, max_steps=5, record=False)
    client.wait_for(lambda: sent, 'a command, which is sent as ever', 5.0)
    try:
        _configure_anew(client, 'log_only')
        client.wait_for(lambda: not any(node.count_publishers(topic) for topic in topics),
                        'the publishers of commands to be gone', 10.0)
        sent.clear()
        outcome = client.run_episode(5, max_steps=40, record=False)
        assert (outcome.reason, outcome.steps) == ('timeout', 40), outcome.message
        status = client.controller_status()
        assert 'log_only: no command is sent' in status.reason
        assert np.abs(np.array(status.command) - START_JOINTS)[1:6].max() < 0.2, 'targets go on'
        line = client.wait_for(lambda: said.get('arm_controller: commands'), 'its line in /diagnostics', 5.0)
        assert line.message == 'log_only: no command is sent' and line.values[0].key == 'left_waist'
        assert not sent, 'a command left'
        assert sum('DRY RUN' in line for line in cell.lines) == 1
        assert any('log_only, not sent: left [' in line for line in cell.lines)
    finally:
        _configure_anew(client, 'send')
        for subscription in subscriptions:
            node.destroy_subscription(subscription)
    assert client.run_episode(5, max_steps=5).reason == 'timeout'


def test_benchmark_measures_the_graph_as_it_runs(cell) -> None:
    run = bench.GraphRun(cell.client, cell.options)
    found, stages, chunk_rate, bare_p99 = bench.of_running(run, 2.0, 1, Display(to_stderr=True))
    assert [found['command_rate_hz'], found['bare_rate_hz']] == pytest.approx([50, 50], rel=0.3)
    assert 0 < found['bare_transport_p50_ms'] <= bare_p99 and chunk_rate > 1
    assert len(stages) > 3 and all(sum(one.values()) > one['inference'] > 0 for one in stages)
    assert found['observation_to_command_p99_ms'] >= found['observation_to_command_p50_ms'] > found['overhead_p50_ms']
    assert 0 < found['hold_reaction_ms'] < 1000


def test_second_graph_in_the_same_domain_is_refused(cell, monkeypatch) -> None:
    monkeypatch.setattr('fpo_ros.nodes.up.DISCOVERY_S', 30.0)  # a busy machine finds nodes late
    monkeypatch.setattr('fpo_ros.nodes.up.ANSWER_S', 20.0)
    with pytest.raises(GraphError, match='already has a node /'):
        with running_graph(cell.options, sink=lambda node, line: None):
            pytest.fail('two graphs of the same names started in one domain')


def test_chunks_go_on_from_one_another_without_a_pause(cell) -> None:
    """The next chunk is there before the one before has ended; synchronously, a fifth of the periods had no row."""
    client, chunks, remaining = cell.client, [], []
    subscriptions = [
        client.node.create_subscription(ActionChunk, 'action_chunk', lambda m: chunks.append(m.joining), qos.COMMAND),
        client.node.create_subscription(ControllerStatus, 'controller_status', lambda m: remaining.append(m.remaining)
                                        if m.state == ControllerStatus.STATE_POLICY and m.chunk_sequence else None,
                                        qos.STATUS)]
    for _ in range(3):  # a busy machine may be late now and then
        chunks.clear()
        remaining.clear()
        client.run_episode(5, max_steps=150, timeout_s=60.0)
        if gone_on := np.mean(np.array(remaining) > 0) > 0.9:
            break
    for subscription in subscriptions:
        client.node.destroy_subscription(subscription)
    assert chunks.count(ActionChunk.JOIN_REALTIME) > len(chunks) / 2 and len(chunks) > 15
    assert gone_on


def test_command_stream_keeps_its_pace(cell) -> None:
    cell.client.wait_for(lambda: cell.client.controller_status().ticks > 500
                         and cell.client.command_timing().rate_hz == pytest.approx(50.0, rel=0.02),
                         '500 control periods at 50 Hz, in which the machine is not too busy for them', 40.0)


def test_diagnostics_come_from_every_node(cell) -> None:
    seen: set[str] = set()
    subscription = cell.client.node.create_subscription(
        DiagnosticArray, '/diagnostics', lambda m: seen.update(s.name.split(':')[0] for s in m.status),
        qos.DIAGNOSTICS)
    names = {spec.name for spec in cell.graph.description.nodes}
    cell.client.wait_for(lambda: names <= seen, f'diagnostics of {sorted(names)}', 5.0)
    cell.client.node.destroy_subscription(subscription)
