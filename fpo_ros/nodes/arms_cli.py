"""``fpo-ros arms``: sequences of the arms of a running cell, and what their motors say."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from fpo_ros.nodes.logic.sequences import SEQUENCES
from fpo_ros.options import display_of

app = typer.Typer(no_args_is_help=True, help='Prepare, home, park and rest the arms of a running cell; see their '
                  'motors.')

Namespace = Annotated[str, typer.Option(help='Namespace of the cell.')]
#: Longest sequence [s].
_LONGEST_S = 180.0


def _command(name: str, text: str) -> None:
    @app.command(name, help=text[0].upper() + text[1:] + '. Ctrl-C ends it, and the arms hold.')
    def run(namespace: Namespace = '/') -> None:
        with _client(namespace) as client:
            handle = client.start_sequence(name, lambda step: display_of(False).line(step))
            try:
                client.finish_sequence(handle, name, _LONGEST_S)
            except KeyboardInterrupt:
                client.cancel(handle)
                raise
        display_of(False).line(f'{name}: done')


for _name, _text in SEQUENCES.items():
    _command(_name, _text)


@app.command()
def status(namespace: Namespace = '/') -> None:
    """Show temperature, torque and errors of every follower motor."""
    from rich.console import Console
    from rich.table import Table

    from fpo_ros.hardware.names import FOLLOWERS
    from fpo_ros.hardware.xs_client import XsClient
    from fpo_ros.nodes.xs_transport import RosXsTransport

    with _client(namespace) as client:
        transport = RosXsTransport(client.node, tuple(FOLLOWERS.values()))
        for arm in FOLLOWERS.values():
            one = XsClient(transport, arm)
            table = Table('motor', 'temperature [deg C]', 'torque', 'errors', title=arm)
            temperatures, torques, errors = one.temperatures_c(), one.torques(), one.errors()
            for motor, value in temperatures.items():
                table.add_row(motor, str(value), 'on' if torques[motor] else 'off', ', '.join(errors.get(motor, ())))
            Console().print(table)


def _client(namespace: str) -> Any:
    try:
        from fpo_ros.nodes.client import EpisodeClient
    except ImportError as error:
        raise RuntimeError(f'ROS 2 is not importable ({error}): run "fpo-ros doctor"') from error
    return EpisodeClient(namespace, name=f'arms_{os.getpid()}')
