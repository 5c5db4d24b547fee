"""A node in a process of its own: served until it is asked to end, then ended in order, within a limit."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from fpo_ros.nodes.base import CellNode

#: A process whose environment holds this variable, the id of its launcher, ends when that does.
END_WITH_PARENT = 'FPO_ROS_END_WITH_PARENT'
#: Time in which what a node sends when it is deactivated, such as the result of an episode, gets out [s].
LAST_WORDS_S = 0.3
#: Time to release what a node holds, when what could be said and saved is: with the ten seconds that saving may take
#: and the last words, less than the patience of ``fpo-ros up`` [s].
RELEASE_LIMIT_S = 14.0


def make_executor(context: rclpy.Context | None = None) -> Executor:
    """Return rclpy's events executor where there is one (half the CPU time), else the usual one."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def run_node(factory: Callable[[], CellNode], args: Sequence[str] | None = None) -> int:
    """Run one node until SIGINT, SIGTERM or the end of its parent, then deactivate and shut it down.

    :returns: exit code: 0 after an orderly end, 1 when it could not start.
    """
    stop_requests: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: stop_requests.append(received))
    parent = int(os.environ[END_WITH_PARENT]) if END_WITH_PARENT in os.environ else None
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = factory()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f'cannot start: {error}', file=sys.stderr)
        rclpy.shutdown()
        return 1
    executor = make_executor()
    executor.add_node(node)
    try:
        code = 0 if not node.get_parameter('autostart').value or _autostart(node) else 1
        if code == 0:
            code = _spin(node, executor, stop_requests, parent)
    except Exception as error:  # whatever a callback raised, the end is an orderly one
        node.get_logger().fatal(f'{error!r}\n{traceback.format_exc()}')
        code = 1
    _end(node, executor)
    return code


def _spin(node: CellNode, executor: Executor, stop_requests: list[int], parent: int | None) -> int:
    """Serve a node until it is asked to end, has failed, or was shut down by its lifecycle; return the exit code."""
    while not stop_requests and rclpy.ok() and not node.finalized:
        executor.spin_once(timeout_sec=0.1)
        if node.failure:
            return 1
        if parent is not None and os.getppid() != parent:
            node.get_logger().warning('the launcher has ended: shutting down')
            break
    return 0


def _end(node: CellNode, executor: Executor) -> None:
    """Deactivate a node, let its last messages out, and release everything.

    Fast DDS 3 can lock up for good while it releases (its threads wait for each other where a peer left at the wrong
    moment: eProsima/Fast-DDS#6502, #6193), inside a call that lets no Python run: the process then ends all the same,
    with exit code 1, and prints where its threads stood, the main one last.
    """
    try:
        if node.active:
            node.trigger_deactivate()
            until = node.steady_ns() + round(LAST_WORDS_S * 1e9)
            while node.steady_ns() < until:
                executor.spin_once(timeout_sec=0.05)
    finally:
        with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):  # there may be no stderr
            faulthandler.dump_traceback_later(RELEASE_LIMIT_S, exit=True)  # by a thread that needs no interpreter lock
        _release(node, executor)


def _release(node: CellNode, executor: Executor) -> None:
    try:
        if not node.finalized:
            node.trigger_shutdown()
    finally:
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()


def _autostart(node: CellNode) -> bool:
    ok = TransitionCallbackReturn.SUCCESS
    return node.trigger_configure() == ok and node.trigger_activate() == ok
