"""``fpo-ros up``: the graph without ROS 2's launch."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help='Start the ROS 2 graph as separate processes; Ctrl-C ends it.')

Policy = Annotated[str, typer.Option(help='Directory of the release served first; empty: wait for one.')]
Keys = Annotated[str, typer.Option(help='File or directory of the public keys releases must be signed with.')]
Releases = Annotated[str, typer.Option(help='Release store the learner announces from.')]
Task = Annotated[str, typer.Option(help='Task of the cell; empty: as configured.')]
Cameras = Annotated[
    str, typer.Option(help='Camera names, comma-separated; "none" for none; empty: as configured.')
]
RecordDir = Annotated[str, typer.Option(help='Episode store; empty: as configured.')]
RunDir = Annotated[str, typer.Option(help="Run directory of the learner's trainer.")]
Learner = Annotated[bool, typer.Option(help='Whether the learner runs.')]
Namespace = Annotated[str, typer.Option(help='Namespace of the whole cell.')]
Config = Annotated[str, typer.Option(help='Another configuration file.')]
Timeout = Annotated[float, typer.Option(min=1.0, help='Time in which all nodes must be active [s].')]


@app.command()
def sim(
    policy: Policy = '',
    trusted_keys: Keys = '',
    releases: Releases = '',
    task: Task = '',
    cameras: Cameras = '',
    record_dir: RecordDir = '',
    run_dir: RunDir = '',
    learner: Learner = True,
    namespace: Namespace = '/',
    config: Config = '',
    timeout: Timeout = 60.0,
) -> None:
    """Simulated arms: the driver twin in place of the hardware."""
    _up('sim', policy=policy, trusted_keys=trusted_keys, releases=releases, task=task, cameras=cameras,
        record_dir=record_dir, run_dir=run_dir, learner=learner, namespace=namespace, config=config,
        timeout=timeout)


@app.command()
def real(policy: Policy = '', trusted_keys: Keys = '', releases: Releases = '', task: Task = '',
         cameras: Cameras = '', record_dir: RecordDir = '', run_dir: RunDir = '', learner: Learner = True,
         namespace: Namespace = '/', config: Config = '', timeout: Timeout = 60.0) -> None:
    """Real arms: start their drivers first, as aloha_real.launch.py would."""
    _up('real', policy=policy, trusted_keys=trusted_keys, releases=releases, task=task, cameras=cameras,
        record_dir=record_dir, run_dir=run_dir, learner=learner, namespace=namespace, config=config,
        timeout=timeout)


def _up(mode: str, *, timeout: float, learner: bool, namespace: str, cameras: str, **texts: str) -> None:
    try:
        from fpo_ros.nodes.graph import GraphError, GraphOptions
        from fpo_ros.nodes.up import up
    except ImportError as error:
        typer.echo(f'error: ROS 2 is not importable ({error}): run "fpo-ros doctor"', err=True)
        raise typer.Exit(1) from error
    chosen = {name: value or None for name, value in texts.items()}
    try:
        options = GraphOptions(mode=mode, learner=learner, namespace=namespace,
                               cameras={'': None, 'none': ''}.get(cameras, cameras), **chosen)
    except GraphError as error:
        typer.echo(f'error: {error}', err=True)
        raise typer.Exit(1) from error
    raise typer.Exit(up(options, timeout))
