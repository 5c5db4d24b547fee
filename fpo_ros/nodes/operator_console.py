"""``fpo-ros operator``: what the cell asks of a person, and their answers by keys."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
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
#: Time after which a stop that no controller confirmed is told to the person [s].
CONFIRMED_S = 1.0


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
        console = Console(client, typer.echo)
        try:
            console.wait()
        except GraphError:
            typer.echo('no operator node answers: it runs with a real cell, and with the twin where "operator" is '
                       'chosen. Stop, reset, takeover and hand-back work without it.')
        typer.echo(HELP)
        for key in keys:
            if key == 'q':
                break
            console.serve(key)


class Console:
    """Prints each new request and sends the person's answers. Nothing keeps the stop waiting.

    :param client: a :class:`fpo_ros.nodes.ros_client.RosClient` of the cell.
    :param say: prints a line.
    """

    def __init__(self, client: Any, say: Callable[[str], None]) -> None:
        from std_msgs.msg import Bool

        from fpo_ros.msg import ControllerStatus, OperatorStatus
        from fpo_ros.nodes import qos

        self._client, self._say = client, say
        stop = client.node.create_publisher(Bool, 'operator_stop', qos.EVENT)
        self._press = lambda pressed: stop.publish(Bool(data=pressed))
        self._status = client.latest(OperatorStatus, 'operator/status', qos.LATCHED)
        self._controller = client.latest(ControllerStatus, 'controller_status', qos.SENSOR)
        self._shown = ''
        self._pressed_s: float | None = None
        self._before: Any = None
        self._doubted = False
        self._asking: threading.Thread | None = None

    def wait(self) -> None:
        """Wait for the operator node.

        :raises GraphError: when there is none.
        """
        self._client.wait_for(self._status, 'the status of the operator node', ABSENT_S)
        self._show()

    def serve(self, key: str) -> None:
        """Show what is new; act on a key, '' for none. Call it a few times a second."""
        if key == STOP:
            self._pressed_s, self._before, self._doubted = time.monotonic(), self._controller(), False
            self._say('EMERGENCY STOP sent')
        elif key in KEYS:
            if key == 'r':
                self._pressed_s = None
                self._press(False)
            self._ask(key)
        elif key.strip():
            self._say(HELP)
        self._go_on_stopping()
        self._show()

    def _go_on_stopping(self) -> None:
        """Repeat the stop until the controller says that it has stopped; say it where it does not."""
        if self._pressed_s is None:
            return
        self._press(True)
        status = self._controller()
        if status is not None and status is not self._before and status.state == status.STATE_STOPPED:
            self._pressed_s = None
            self._say(f'STOPPED ({status.reason}): the arms are sent nothing any more; r resets it')
        elif not self._doubted and time.monotonic() - self._pressed_s > CONFIRMED_S:
            self._doubted = True
            self._say('NOT CONFIRMED: no arm controller says that it has stopped. Press the button that cuts the power')

    def _ask(self, key: str) -> None:
        if self._asking is not None and self._asking.is_alive():
            self._say('not sent: the key before waits for its answer')
            return
        self._asking = threading.Thread(target=lambda: self._say(self._answer(key)), daemon=True)
        self._asking.start()

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
        if status is None:
            return
        text = status.request or 'nothing to do'
        if text != self._shown:
            self._shown = text
            self._say(f'{status.task}: {text}')


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
