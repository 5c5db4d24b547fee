"""``fpo-ros operator``: what the cell asks of a person, and their answers by keys."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import tty
from collections.abc import Iterator
from typing import Annotated, Any

import typer

app = typer.Typer(help='Stop the arms, confirm resets and mark episodes of a cell from a terminal.')

#: Key → (service, what it says).
KEYS = {'c': ('operator/confirm_reset', 'reset confirmed'), 's': ('operator/mark_success', 'marked as success'),
        'f': ('operator/mark_failure', 'marked as failure'), 't': ('take_over', 'the arms are taken over'),
        'b': ('hand_back', 'the arms are handed back'), 'r': ('reset_emergency_stop', 'the emergency stop is reset')}
#: The key that stops: the largest, and found without looking.
STOP = ' '
HELP = ('keys: space EMERGENCY STOP, r reset it, c confirm the reset, s success, f failure, t take over by the '
        'leaders, b hand back, q quit')
#: Time without a status of the operator node after which it counts as absent [s].
ABSENT_S = 5.0


@app.callback(invoke_without_command=True)
def operator(namespace: Annotated[str, typer.Option(help='Namespace of the cell.')] = '/') -> None:
    """Show what the cell asks for; space stops the arms, c confirms a reset, s and f mark the episode, q quits.

    The stop is software, not a safety-rated function: keep the one that cuts motor power within reach.
    """
    try:
        from fpo_ros.nodes.graph import GraphError
        from fpo_ros.nodes.ros_client import RosClient
    except ImportError as error:
        raise RuntimeError(f'ROS 2 is not importable ({error}): run "fpo-ros doctor"') from error
    with RosClient(f'operator_console_{os.getpid()}', namespace) as client, single_keys() as keys:
        console = Console(client)
        try:
            console.wait()
        except GraphError as error:
            raise GraphError('no operator node answers: it runs with a real cell, and with the twin where '
                             '"operator" is chosen') from error
        print(HELP, flush=True)
        for key in keys:
            if key == 'q':
                break
            console.serve(key)


class Console:
    """Prints each new request and sends the person's answers.

    :param client: a :class:`fpo_ros.nodes.ros_client.RosClient` of the cell.
    """

    def __init__(self, client: Any) -> None:
        from std_msgs.msg import Bool

        from fpo_ros.msg import OperatorStatus
        from fpo_ros.nodes import qos

        self._client = client
        stop = client.node.create_publisher(Bool, 'emergency_stop', qos.EVENT)
        self._press = lambda pressed: stop.publish(Bool(data=pressed))
        self._status = client.latest(OperatorStatus, 'operator/status', qos.LATCHED)
        self._shown = ''

    def wait(self) -> None:
        """Wait for the operator node.

        :raises GraphError: when there is none.
        """
        self._client.wait_for(self._status, 'the status of the operator node', ABSENT_S)
        self._show()

    def serve(self, key: str) -> None:
        """Show what is new; act on a key, '' for none."""
        if key == STOP:
            self._press(True)
            print('EMERGENCY STOP: the arms are sent nothing any more; r resets it', flush=True)
        elif key in KEYS:
            if key == 'r':
                self._press(False)
            print(self._answer(key), flush=True)
        elif key.strip():
            print(HELP, flush=True)
        self._show()

    def _answer(self, key: str) -> str:
        from std_srvs.srv import Trigger

        from fpo_ros.nodes.graph import GraphError

        service, done = KEYS[key]
        try:
            reply = self._client.call(Trigger, service, Trigger.Request(), 5.0)
        except GraphError as error:
            return f'not sent: {error}'
        return done if reply.success else f'refused: {reply.message}'

    def _show(self) -> None:
        status = self._status()
        text = status.request or 'nothing to do'
        if text != self._shown:
            self._shown = text
            print(f'{status.task}: {text}', flush=True)


@contextlib.contextmanager
def single_keys(stream: int = 0) -> Iterator[Iterator[str]]:
    """Read single keys of a terminal, or the characters of a pipe; yields '' four times a second meanwhile.

    :param stream: file descriptor.
    """
    if not os.isatty(stream):
        yield _characters(stream)
        return
    saved = termios.tcgetattr(stream)
    try:
        tty.setcbreak(stream)  # Ctrl-C still interrupts
        yield _characters(stream)
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, saved)


def _characters(stream: int) -> Iterator[str]:
    while True:
        if not select.select([stream], [], [], 0.25)[0]:
            yield ''
            continue
        character = os.read(stream, 1)
        if not character:  # end of input
            return
        yield character.decode('ascii', 'replace').strip('\r\n\t').lower()
