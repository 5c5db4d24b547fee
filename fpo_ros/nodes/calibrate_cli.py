"""``fpo-ros calibrate``: zeros of joints and ends of grippers, kept in the cell's file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help='Measure grippers and joints of the running drivers; keep them in the '
                  "cell's file. Refused while anything commands the arm.")

CellFile = Annotated[Path, typer.Argument(help='Cell file, such as a copy of config/cells/aloha_stationary.yaml.')]
ArmName = Annotated[str, typer.Argument(help='Arm, such as follower_left.')]
Namespace = Annotated[str, typer.Option(help='Namespace of the whole cell.')]


@app.command()
def gripper(cell: CellFile, arm: ArmName, namespace: Namespace = '/') -> None:
    """Measure where an arm's gripper is open and closed, by hand, without its torque."""
    from fpo_ros.hardware.calibration import measure_gripper
    from fpo_ros.hardware.cell import CellError, load_cell, save_calibration

    loaded = load_cell(cell)
    if arm not in loaded.arms:
        raise CellError(f"{cell} has no arm '{arm}': it has {', '.join(loaded.arms)}")
    with _arm(arm, namespace) as client:
        found = measure_gripper(client, _ask_while_idle(client), loaded.grippers[arm].linkage)
    save_calibration(loaded, grippers={arm: found})
    typer.echo(f'{cell}: {arm} is open at {found.joint_open_rad:.3f} rad, closed at {found.joint_closed_rad:.3f} rad')


@app.command()
def joints(cell: CellFile, arm: ArmName, namespace: Namespace = '/') -> None:
    """Mend the zeros of an arm's joints in the reference pose: in the motors' Homing_Offset, and in the file."""
    from fpo_ros.hardware.calibration import measure_joints
    from fpo_ros.hardware.cell import CellError, load_cell, save_calibration

    loaded = load_cell(cell)
    if arm not in loaded.arms:
        raise CellError(f"{cell} has no arm '{arm}': it has {', '.join(loaded.arms)}")
    with _arm(arm, namespace) as client:
        found = measure_joints(client, loaded.reference, _ask_while_idle(client))
    save_calibration(loaded, joint_offsets_rad={arm: found})
    typer.echo(f'{cell}: offsets of {arm} [rad]: {", ".join(f"{offset:+.4f}" for offset in found)}. Start its driver '
               'anew, which gives the second motors of shoulder and elbow the same')


@app.command()
def check(cell: CellFile, namespace: Namespace = '/') -> None:
    """Compare the motors' Homing_Offset with the file, for every arm that it has calibrated."""
    from fpo_ros.hardware.calibration import check_offsets
    from fpo_ros.hardware.cell import CellError, load_cell

    loaded = load_cell(cell)
    if not loaded.joint_offsets_rad:
        raise CellError(f'{cell}: no arm is calibrated yet: run "fpo-ros calibrate joints"')
    for arm in loaded.joint_offsets_rad:
        with _arm(arm, namespace) as client:
            check_offsets(client, loaded)
        typer.echo(f'{arm}: as in {cell}')


def _ask(what: str) -> None:
    typer.prompt(f'{what}, then press Enter', default='', show_default=False, prompt_suffix='')


def _ask_while_idle(client: Any) -> Callable[[str], None]:
    """Refuse an arm that somebody commands, and return what asks a person, and looks again once they have answered."""
    client.transport.check_uncommanded(client.arm)

    def ask(what: str) -> None:
        _ask(what)
        client.transport.check_uncommanded(client.arm, 0.0)

    return ask


@contextmanager
def _arm(arm: str, namespace: str) -> Iterator[Any]:
    try:
        from fpo_ros.hardware.xs_client import XsClient
        from fpo_ros.nodes.ros_client import RosClient
        from fpo_ros.nodes.xs_transport import RosXsTransport
    except ImportError as error:
        raise RuntimeError(f'ROS 2 is not importable ({error}): run "fpo-ros doctor"') from error
    with RosClient(f'calibrate_{os.getpid()}', namespace) as client:
        yield XsClient(RosXsTransport(client.node, (arm,)), arm)
