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

app = typer.Typer(help='Confirm resets and mark episodes of a real cell from a terminal.')

#: Key → (service of the operator node, what it says).
KEYS = {'c': ('confirm_reset', 'reset confirmed'), 's': ('mark_success', 'marked as success'),
        'f': ('mark_failure', 'marked as failure')}
HELP = 'keys: c confirm the reset, s success, f failure, q quit'
#: Time without a status of the operator node after which it counts as absent [s].
ABSENT_S = 5.0


@app.callback(invoke_without_command=True)
def operator(namespace: Annotated[str, typer.Option(help='Namespace of the cell.')] = '/') -> None:
    """Show what the cell asks for; c confirms a reset, s and f mark the running episode, q quits."""
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
        from fpo_ros.msg import OperatorStatus
        from fpo_ros.nodes import qos

        self._client = client
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
        if key in KEYS:
            print(self._answer(key), flush=True)
        elif key.strip():
            print(HELP, flush=True)
        self._show()

    def _answer(self, key: str) -> str:
        from std_srvs.srv import Trigger

        from fpo_ros.nodes.graph import GraphError

        service, done = KEYS[key]
        try:
            reply = self._client.call(Trigger, f'operator/{service}', Trigger.Request(), 5.0)
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
        yield character.decode('ascii', 'replace').strip().lower()
