"""An operator drives simulated followers by simulated leaders, over real DDS and the drivers' own interfaces."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from sensor_msgs.msg import JointState  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from fpo_ros.episodes import EpisodeStore  # noqa: E402
from fpo_ros.hardware.names import SIDES  # noqa: E402
from fpo_ros.msg import LeaderPose  # noqa: E402
from fpo_ros.nodes import qos  # noqa: E402
from fpo_ros.nodes.client import EpisodeClient  # noqa: E402
from fpo_ros.nodes.graph import GraphError, GraphOptions  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.policy.contract import ARM_JOINTS, GRIPPER_COLUMNS, START_JOINTS  # noqa: E402
from fpo_ros.runtime.controller_config import ArmState  # noqa: E402
from fpo_ros.srv import InjectFault  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]
#: Largest step of a joint target between two control periods (joint_speed of the configuration) [rad].
STEP = 2.0 * 0.02
#: Columns of joints.
ARMS = [column for column in range(14) if column not in GRIPPER_COLUMNS]


@pytest.fixture(scope='module')
def cell(releases, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The graph with leaders, and what the tests hear."""
    store = tmp_path_factory.mktemp('episodes') / 'store'
    options = GraphOptions(policy=str(releases.path / 'v000001'), trusted_keys=str(releases.keys),
                           releases=str(releases.path), cameras='', learner=False, teleop=True,
                           record_dir=str(store), parameters={  # the machine may be busy
                               'arm_controller': {'max_leader_age': 0.5, 'max_joint_age': 1.0},
                               'episode_manager': {'stream_limit': 2.0}})
    lines: list[str] = []
    with running_graph(options, sink=lambda node, line: lines.append(line)) as graph:
        with EpisodeClient() as client:
            heard = SimpleNamespace(graph=graph, client=client, pose=None, store=store, lines=lines)
            client.node.create_subscription(LeaderPose, 'leader_pose', lambda m: setattr(heard, 'pose', np.array(
                m.joint_positions)), qos.SENSOR)
            heard.hands = {side: client.node.create_publisher(JointState, f'driver_twin/move_leader_{side}', qos.DRIVER)
                           for side in SIDES}
            heard.wishes = {name: client.node.create_client(Trigger, name) for name in ('take_over', 'hand_back')}
            yield heard


def _hold_at_home(cell) -> None:
    client, until = cell.client, time.monotonic() + 15
    while True:
        try:
            client.set_state(ArmState.HOMING)
            break
        except GraphError:  # joint states do not flow yet
            assert time.monotonic() < until, 'the controller did not let the arms home within 15 s'
            time.sleep(0.2)
    client.wait_for_state(ArmState.HOLD, 20.0)
    client.wait_for(lambda: cell.pose is not None and np.abs(cell.pose - START_JOINTS)[ARMS].max() < 0.1,
                    'the leaders to reach their followers', 30.0)


def _wish(cell, name: str) -> Trigger.Response:
    service = cell.wishes[name]
    cell.client.wait_for(service.service_is_ready, f'service {name}', 10.0)
    future = service.call_async(Trigger.Request())
    cell.client.wait_for(future.done, f'the answer of {name}', 10.0)
    return future.result()


def _pull(cell, side: str, **joints: float) -> None:
    cell.hands[side].publish(JointState(name=list(joints), position=list(joints.values())))


def _drive(cell) -> None:
    """Let an operator take over the arms at home."""
    _hold_at_home(cell)
    for side in SIDES:
        _pull(cell, side, **_whole(0.0))
    assert _wish(cell, 'take_over').success
    cell.client.wait_for_state(ArmState.TELEOP, 10.0)


def _whole(waist: float) -> dict[str, float]:
    """Return all joints of an arm at home, the waist turned, the trigger open."""
    return dict(zip(ARM_JOINTS, map(float, START_JOINTS[:6]), strict=True)) | {'waist': waist, 'gripper': 0.8}


def test_leaders_go_with_their_followers_and_an_operator_drives_them(cell) -> None:
    client = cell.client
    _drive(cell)
    history = []
    until = time.monotonic() + 3.0
    _pull(cell, 'left', **_whole(0.3))
    while time.monotonic() < until:
        status = client.controller_status()
        history.append((status.ticks, status.command[0]))
        time.sleep(0.01)
    ticks, waists = np.array(history).T
    assert abs(waists[-1] - 0.3) < 0.06 and abs(client.controller_status().measured[0] - waists[-1]) < 0.05
    assert (np.abs(np.diff(waists)) <= STEP * np.diff(ticks) + 1e-5).all(), 'the followers go smoothly'
    assert _wish(cell, 'hand_back').success
    status = client.wait_for_state(ArmState.HOLD, 5.0)
    assert abs(status.command[0] - waists[-1]) < 0.02, 'the arms hold where the operator left them'
    for side in SIDES:
        _pull(cell, side)


def test_an_operator_drives_an_episode_from_the_start_and_it_is_stored_as_theirs(cell) -> None:
    phases: list[str] = []
    for side in SIDES:
        _pull(cell, side)
    handle = cell.client.start_episode(3, max_steps=60, operated=True,
                                       on_feedback=lambda step, stage, phase: phases.append(phase))
    cell.client.wait_for(lambda: 'taking over' in phases, 'the operator to be asked to take over', 30.0)
    cell.client.wait_for(lambda: cell.pose is not None and np.abs(cell.pose - START_JOINTS)[ARMS].max() < 0.1,
                         'the leaders to reach their followers', 30.0)
    for side in SIDES:
        _pull(cell, side, **_whole(0.0))
    assert _wish(cell, 'take_over').success
    outcome = cell.client.finish_episode(handle, 20.0)
    assert (outcome.reason, outcome.steps, outcome.policy_version) == ('timeout', 60, '')
    assert phases[:2] == ['homing', 'resetting'] and {'taking over', 'running'} < set(phases)
    episode = EpisodeStore.open(cell.store).read(outcome.episode_id)
    assert episode.meta.source == 'teleop' and episode.arrays['operated'].all()


def test_followers_hold_while_a_leader_cannot_be_read(cell) -> None:
    _drive(cell)
    before = np.array(cell.client.controller_status().command)

    def fault(name: str) -> None:
        request = InjectFault.Request(fault=name, target='leader_left')
        assert cell.client.call(InjectFault, 'driver_twin/inject_fault', request).success

    fault('read_failure')  # every motor reads -pi
    try:
        status = cell.client.wait_for_state(ArmState.HOLD, 3.0)
        assert 'pose of the leaders' in status.reason
        assert np.abs(np.array(status.command) - before)[ARMS].max() < 2 * STEP, 'nobody went after what was read'
        cell.client.wait_for(lambda: any('leader_left: shoulder reads -3.142' in line for line in cell.lines),
                             'the reason in the log', 5.0)
    finally:
        fault('clear')


def test_without_the_leaders_node_the_followers_hold(cell) -> None:
    _drive(cell)
    cell.graph.signal('teleop', signal.SIGKILL)
    reason = cell.client.wait_for_state(ArmState.HOLD, 3.0).reason
    assert 'pose of the leaders' in reason
    cell.graph.ended()
    cell.graph.restart('teleop', 30.0)
    for side in SIDES:
        _pull(cell, side)
