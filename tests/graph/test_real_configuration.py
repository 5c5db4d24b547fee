"""The settings of the real cell on simulated arms: they move, grippers too, and a person can complete an episode."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from sensor_msgs.msg import JointState  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from fpo_ros.episodes.store import EpisodeStore  # noqa: E402
from fpo_ros.hardware.gripper import INTERBOTIX  # noqa: E402
from fpo_ros.hardware.names import FOLLOWERS, joint_states_topic  # noqa: E402
from fpo_ros.hardware.xs import FOLLOWER  # noqa: E402
from fpo_ros.hardware.xs_client import XsClient  # noqa: E402
from fpo_ros.msg import OperatorStatus  # noqa: E402
from fpo_ros.nodes import qos  # noqa: E402
from fpo_ros.nodes.client import EpisodeClient  # noqa: E402
from fpo_ros.nodes.graph import GraphError, GraphOptions  # noqa: E402
from fpo_ros.nodes.up import running_graph  # noqa: E402
from fpo_ros.nodes.xs_transport import RosXsTransport  # noqa: E402
from fpo_ros.policy.contract import START_JOINTS  # noqa: E402
from fpo_ros.runtime.controller_config import PARK_JOINTS, ArmState  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]


@pytest.fixture(scope='module')
def cell(releases, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The real configuration with the twin's arms, and the operator in place of its judge."""
    store = tmp_path_factory.mktemp('episodes') / 'store'
    options = GraphOptions(
        mode='real', use_twin=True, operator=True, learner=False, policy=str(releases.path / 'v000001'),
        trusted_keys=str(releases.keys), releases=str(releases.path), record_dir=str(store),
        parameters={'proprio_ingest': {'object_pose': True},  # the tiny policies see the state
                    'arm_controller': {'max_joint_age': 1.0},  # of a loaded test machine
                    'episode_manager': {'start_delay': 0.2, 'stream_limit': 2.0}})
    with running_graph(options, sink=lambda node, line: None) as graph, EpisodeClient() as client:
        status = client.latest(OperatorStatus, 'operator/status', qos.LATCHED)
        joints = client.latest(JointState, joint_states_topic('left'), qos.SENSOR)
        if client.controller_status().state == ArmState.STOPPED:  # a fresh cell waits for the deliberate start
            client.reset_emergency_stop()
        yield SimpleNamespace(graph=graph, client=client, status=status, joints=joints, store=store)


def say(cell, what: str):
    return cell.client.call(Trigger, f'operator/{what}', Trigger.Request(), 10.0)


def start(cell, seed: int, max_steps: int = 2000):
    """Start an episode, reset the scene as a person would, and return its handle once the policy drives."""
    handle = cell.client.start_episode(seed, max_steps=max_steps)
    wanted = cell.client.wait_for(
        lambda: cell.status() if cell.status() and cell.status().state == OperatorStatus.STATE_RESET else None,
        'the operator to be asked for a reset', 30.0)
    assert wanted.seed == seed and f'start position {seed}' in wanted.request
    assert say(cell, 'confirm_reset').success
    cell.client.wait_for(lambda: cell.status().state == OperatorStatus.STATE_EPISODE, 'the policy to drive', 30.0)
    return handle


def test_motors_are_prepared_before_anything_is_commanded(cell) -> None:
    client, steps = cell.client, []
    client.set_state(ArmState.IDLE)
    handle = client.start_sequence('prepare', steps.append)
    client.finish_sequence(handle, 'prepare', 60.0)
    assert steps[0] == 'follower_left: temperatures and errors' and 'follower_right: torque on' in steps
    client.set_state(ArmState.HOLD)
    client.wait_for_state(ArmState.HOLD)
    with pytest.raises(GraphError, match=r'the arms are being commanded \(HOLD\)'):
        client.finish_sequence(client.start_sequence('prepare'), 'prepare', 20.0)
    with pytest.raises(GraphError, match="unknown sequence 'dance': there are prepare"):
        client.finish_sequence(client.start_sequence('dance'), 'dance', 20.0)


def test_arms_and_grippers_reach_the_start_pose_on_the_scales_of_this_cell(cell) -> None:
    cell.client.finish_episode(start(cell, 5, max_steps=50), 30.0)
    measured = np.array(cell.client.controller_status().measured)
    np.testing.assert_allclose(measured, START_JOINTS, atol=0.05)
    positions = cell.client.wait_for(cell.joints, 'joint states', 5.0).position
    assert positions[6] == pytest.approx(INTERBOTIX.angle(START_JOINTS[6]), abs=0.05), 'the motor, in rad'
    finger = FOLLOWER.linkage.finger(INTERBOTIX.angle(START_JOINTS[6]))
    assert positions[7] == pytest.approx(finger, abs=1e-3), 'the finger, in m'


def test_person_resets_and_marks_success(cell) -> None:
    handle = start(cell, 7)
    assert say(cell, 'mark_success').success
    outcome = cell.client.finish_episode(handle, 10.0)
    assert (outcome.success, outcome.reason, outcome.max_stage) == (True, 'success', 4), outcome.message
    assert EpisodeStore.open(cell.store).read(outcome.episode_id).meta.success is True


def test_person_marks_failure_which_ends_the_episode(cell) -> None:
    handle = start(cell, 7)
    assert say(cell, 'mark_failure').success
    outcome = cell.client.finish_episode(handle, 10.0)
    assert (outcome.success, outcome.reason) == (False, 'failure'), outcome.message
    assert EpisodeStore.open(cell.store).read(outcome.episode_id).meta.success is False


def test_without_a_confirmation_nothing_moves_and_a_cancelled_request_is_withdrawn(cell) -> None:
    handle = cell.client.start_episode(9)
    cell.client.wait_for(lambda: cell.status().state == OperatorStatus.STATE_RESET, 'the request for a reset', 30.0)
    assert cell.client.controller_status().state == ArmState.HOLD
    assert not say(cell, 'mark_success').success
    cell.client.cancel(handle)
    assert cell.client.finish_episode(handle, 10.0).reason == 'canceled'
    cell.client.wait_for(lambda: cell.status().state == OperatorStatus.STATE_IDLE, 'the request to be withdrawn', 15.0)
    assert not say(cell, 'confirm_reset').success


def test_episodes_with_the_same_seed_need_a_reset_each(cell) -> None:
    for _ in range(2):
        assert cell.client.finish_episode(start(cell, 11, max_steps=50), 30.0).reason == 'timeout'


def test_a_controlled_stop_parks_the_arms_before_their_torque_goes(cell) -> None:
    client = cell.client
    handle = client.start_sequence('home')
    client.cancel(handle)
    with pytest.raises(GraphError, match='home: canceled'):
        client.finish_sequence(handle, 'home', 20.0)
    assert client.controller_status().state == ArmState.HOLD, 'a client who cancels makes the arms hold'
    for _ in range(3):  # a busy machine may make the arms hold on their way
        try:
            client.finish_sequence(client.start_sequence('rest'), 'rest', 60.0)
            break
        except GraphError as error:
            assert 'joint states are' in str(error), error
            assert client.controller_status().state == ArmState.HOLD, 'no torque goes off before they are parked'
    assert client.controller_status().state == ArmState.IDLE
    sunk = client.wait_for(cell.joints, 'joint states', 5.0)
    assert abs(sunk.position[1] - PARK_JOINTS[1]) < 0.4, 'it sank a little from where it was parked'
    transport = RosXsTransport(client.node, tuple(FOLLOWERS.values()))
    for arm in FOLLOWERS.values():
        assert not any(XsClient(transport, arm).torques().values())
    transport.close()


def test_arms_hold_where_they_are_when_the_node_that_moves_them_dies(cell) -> None:
    client = cell.client
    client.finish_sequence(client.start_sequence('prepare'), 'prepare', 60.0)
    client.set_state(ArmState.HOLD)
    client.wait_for_state(ArmState.HOLD)
    client.start_sequence('home')
    client.wait_for(lambda: client.controller_status().state == ArmState.HOMING, 'the arms to go home', 20.0)
    cell.graph.signal('arms', signal.SIGKILL)
    client.wait_for(lambda: client.controller_status().state == ArmState.HOLD, 'the arms to hold', 5.0)
    status = client.controller_status()
    assert re.search('no sign of who asked for the motion|joint states are', status.reason), status.reason
    assert not status.at_home
