"""The operator: what is asked of a person, what they may say when, and that no answer serves twice."""

from __future__ import annotations

import contextlib
import os
import pty
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from fpo_ros.nodes.logic.operator import OperatorDesk, OperatorState

S = 1_000_000_000
TASK = 'transfer_cube'


def ready_desk(seed: int = 7) -> OperatorDesk:
    """Return a desk whose reset is confirmed and fetched."""
    desk = OperatorDesk(TASK)
    desk.ask_reset(TASK, seed, 0)
    desk.confirm(1 * S)
    assert desk.ask_reset(TASK, seed, 2 * S).success
    return desk


def test_reset_is_pending_until_the_person_confirms() -> None:
    desk = OperatorDesk(TASK)
    for k in range(20):
        answer = desk.ask_reset(TASK, 7, k * S // 2)
        assert (answer.success, answer.pending) == (False, True) and 'start position 7' in answer.message
    assert desk.state is OperatorState.RESET and 'confirm' in desk.request
    assert desk.confirm(10 * S) == (True, '') and desk.request == ''
    assert desk.ask_reset(TASK, 7, 10 * S).success and desk.state is OperatorState.READY


def test_confirmation_serves_one_episode_also_with_the_same_seed() -> None:
    desk = ready_desk(seed=7)
    assert desk.ask_reset(TASK, 7, 3 * S).pending


def test_confirmation_of_an_abandoned_request_is_not_kept_for_the_next_episode() -> None:
    desk = OperatorDesk(TASK, ask_limit_s=5.0)
    desk.ask_reset(TASK, 7, 0)
    desk.confirm(1 * S)
    assert desk.ask_reset(TASK, 7, 7 * S).pending, 'the scene may have changed since'
    desk.tick(13 * S)
    assert desk.state is OperatorState.IDLE
    granted, why = desk.confirm(13 * S)
    assert not granted and 'no reset is asked for' in why


def test_another_seed_needs_another_confirmation() -> None:
    desk = OperatorDesk(TASK)
    desk.ask_reset(TASK, 7, 0)
    desk.confirm(0)
    assert desk.ask_reset(TASK, 8, 0).pending and desk.seed == 8


def test_foreign_task_is_refused_and_changes_nothing() -> None:
    desk = ready_desk()
    answer = desk.ask_reset('juggling', 7, 3 * S)
    assert (answer.success, answer.pending) == (False, False) and 'juggling' in answer.message
    assert desk.state is OperatorState.READY


def test_marks_are_taken_only_while_the_policy_drives_and_once() -> None:
    desk = ready_desk()
    assert not desk.mark(True)[0], 'the policy does not drive yet'
    desk.follow(True)
    assert desk.state is OperatorState.EPISODE and 'mark' in desk.request
    assert desk.mark(True) == (True, '') and (desk.success, desk.failure) == (True, False)
    granted, why = desk.mark(False)
    assert not granted and 'marked already' in why and desk.success


def test_a_mark_stays_until_the_next_reset() -> None:
    desk = ready_desk()
    desk.follow(True)
    desk.mark(False)
    desk.follow(False)
    assert desk.state is OperatorState.IDLE and (desk.success, desk.failure) == (False, True)
    desk.ask_reset(TASK, 8, 3 * S)
    assert (desk.success, desk.failure) == (False, False)


def test_a_desk_that_was_restarted_during_an_episode_takes_its_mark() -> None:
    desk = OperatorDesk(TASK)
    desk.follow(True)
    assert desk.mark(True)[0]


class Cell:
    """The operator node, and a client on a thread of its own."""

    def __init__(self) -> None:
        rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed')
        from rclpy.parameter import Parameter

        from fpo_ros.msg import ControllerStatus, OperatorStatus, TaskReward
        from fpo_ros.nodes import qos
        from fpo_ros.nodes.operator import Operator
        from fpo_ros.nodes.ros_client import RosClient
        from fpo_ros.nodes.running import make_executor

        self.rclpy = rclpy
        # Requests wait for a busy machine, too.
        self.node = Operator(parameter_overrides=[Parameter('ask_limit', value=60.0)])
        self.node.trigger_configure()
        self.node.trigger_activate()
        self.executor = make_executor()
        self.executor.add_node(self.node)
        self.ends = False
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()
        self.client = RosClient('operator_test')
        self.reward = self.client.latest(TaskReward, 'task_reward', qos.STATUS)
        self.status = self.client.latest(OperatorStatus, 'operator/status', qos.LATCHED)
        self.controller = self.client.node.create_publisher(ControllerStatus, 'controller_status', qos.STATUS)
        #: What the controller says at 50 Hz: (state, reason), or None for one that is silent.
        self.says: tuple[int, str] | None = (ControllerStatus.STATE_HOLD, '')
        self.client.node.create_timer(0.02, self._say)

    def _say(self) -> None:
        from fpo_ros.msg import ControllerStatus

        if says := self.says:
            self.controller.publish(ControllerStatus(state=says[0], reason=says[1]))

    def _spin(self) -> None:
        while not self.ends:
            self.executor.spin_once(timeout_sec=0.05)

    def reset(self, seed: int, task: str = TASK):
        from fpo_ros.srv import ResetScene

        return self.client.call(ResetScene, 'reset_scene', ResetScene.Request(task=task, seed=seed), 10.0)

    def say(self, what: str):
        from std_srvs.srv import Trigger

        return self.client.call(Trigger, f'operator/{what}', Trigger.Request(), 10.0)

    def until(self, condition, what: str):
        return self.client.wait_for(condition, what, 10.0)

    def close(self) -> None:
        self.client.close()
        self.ends = True
        self.thread.join()
        self.node.trigger_shutdown()
        self.executor.remove_node(self.node)
        self.node.destroy_node()


@pytest.fixture
def cell(ros) -> Iterator[Cell]:
    """A running operator node."""
    cell = Cell()
    yield cell
    cell.close()


@pytest.mark.ros
def test_node_asks_publishes_and_takes_the_answers(cell) -> None:
    from fpo_ros.msg import ControllerStatus

    reward = cell.until(cell.reward, 'a reward')
    assert (reward.task, reward.stage, reward.success, reward.failure) == (TASK, 0, False, False)
    assert reward.header.stamp.sec > 0
    reply = cell.reset(7)
    assert (reply.success, reply.pending) == (False, True) and 'start position 7' in reply.message
    cell.until(lambda: cell.status() and cell.status().state == cell.status().STATE_RESET, 'the request to be shown')
    assert cell.status().seed == 7 and 'confirm the reset' in cell.status().request
    lines = cell.node.health()
    assert lines[0].level == 1 and 'confirm the reset' in lines[0].message
    assert cell.say('confirm_reset').success
    assert cell.reset(7).success
    assert not cell.say('mark_success').success, 'no policy drives'
    cell.says = (ControllerStatus.STATE_POLICY, '')
    cell.until(lambda: cell.status().state == cell.status().STATE_EPISODE, 'the episode to be noticed')
    assert cell.say('mark_success').success
    reward = cell.until(lambda: cell.reward() if cell.reward().success else None, 'the mark in the reward')
    assert (reward.stage, reward.failure) == (4, False)
    assert not cell.say('mark_failure').success


@pytest.mark.ros
def test_node_rewards_at_the_rate_the_episode_manager_watches(cell) -> None:
    from fpo_ros.msg import TaskReward
    from fpo_ros.nodes import convert, qos

    stamps: list[int] = []
    cell.client.node.create_subscription(
        TaskReward, 'task_reward', lambda m: stamps.append(convert.nanoseconds(m.header.stamp)), qos.STATUS)
    cell.until(lambda: len(stamps) > 50, 'rewards')
    assert np.median(np.diff(stamps)) * 1e-9 == pytest.approx(0.02, abs=0.004), 'a busy machine skips some'


@pytest.mark.ros
def test_console_shows_requests_and_sends_keys(cell) -> None:
    from fpo_ros.nodes.operator_console import Console

    said = []
    console = Console(cell.client, said.append)
    console.wait()
    cell.reset(7)
    cell.until(lambda: cell.status() and cell.status().request, 'the request')
    console.serve('')
    console.serve('x')
    console.serve('c')
    cell.until(lambda: 'reset confirmed' in said and not console._asking.is_alive(), 'the reset to be confirmed')
    console.serve('s')
    cell.until(lambda: 'refused: no episode awaits a mark' in said, 'the refusal')
    assert f'{TASK}: nothing to do' in said and any('confirm the reset' in line for line in said)
    assert any('c confirm the reset' in line for line in said)
    assert cell.reset(7).success


@pytest.mark.ros
def test_console_repeats_the_stop_until_a_controller_confirms_it(cell, monkeypatch) -> None:
    from std_msgs.msg import Bool

    from fpo_ros.msg import ControllerStatus
    from fpo_ros.nodes import operator_console, qos

    monkeypatch.setattr(operator_console, 'CONFIRMED_S', 0.2)
    said: list[str] = []
    console = operator_console.Console(cell.client, said.append)
    pressed = cell.client.latest(Bool, 'operator_stop', qos.EVENT)
    cell.says = (ControllerStatus.STATE_STOPPED, 'earlier')
    cell.until(lambda: console._controller() and console._controller().reason, 'the console to hear a controller')
    cell.says = None
    time.sleep(0.5)  # what is under way arrives
    console.serve(' ')

    def served(line: str) -> bool:
        console.serve('')
        return any(line in text for text in said)

    cell.until(lambda: served('NOT CONFIRMED'), 'the doubt: what was said before the stop confirms nothing')
    assert cell.until(pressed, 'the stop').data and not any('STOPPED' in line for line in said)
    cell.says = (ControllerStatus.STATE_STOPPED, 'pressed')
    cell.until(lambda: served('STOPPED (pressed): the arms are sent nothing any more'), 'the confirmation')
    monkeypatch.setattr(console, '_answer', lambda key: time.sleep(1.0) or 'reset')
    console.serve('r')
    cell.until(lambda: not pressed().data, 'the stop to be released')
    console.serve(' ')
    cell.until(lambda: pressed().data, 'the stop, while the key before waits for its answer')


def test_keys_are_read_one_by_one_from_a_terminal_which_is_left_as_it_was() -> None:
    from fpo_ros.nodes.operator_console import single_keys

    termios = pytest.importorskip('termios')
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with single_keys(slave) as keys:
            assert next(keys) == ''
            os.write(master, b'cS')
            assert [next(keys), next(keys)] == ['c', 's']
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_keys_of_a_pipe_end_with_it() -> None:
    from fpo_ros.nodes.operator_console import single_keys

    reader, writer = os.pipe()
    os.write(writer, b'c\nf\n')
    os.close(writer)
    with single_keys(reader) as keys:
        assert [key for key in keys if key] == ['c', 'f']
    os.close(reader)


@pytest.mark.ros
def test_command_says_where_there_is_no_operator_and_stops_all_the_same(ros, monkeypatch) -> None:
    from fpo_ros.nodes import operator_console

    monkeypatch.setattr(operator_console, 'ABSENT_S', 0.3)
    monkeypatch.setattr(operator_console, 'single_keys', lambda: contextlib.nullcontext(iter((' ',))))
    lines = []
    monkeypatch.setattr(operator_console.typer, 'echo', lines.append)
    operator_console.operator('/nowhere')
    assert lines[0].startswith('no operator node answers') and lines[-1] == 'EMERGENCY STOP sent'
