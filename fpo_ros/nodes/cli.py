"""``fpo-ros up``: the graph without ROS 2's launch."""

from __future__ import annotations

import contextlib
import signal
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help='Start the ROS 2 graph as separate processes; Ctrl-C ends it.')

PolicyDir = Annotated[str, typer.Option('--policy', help='Directory of the release served first; empty: wait for one.')]
AnyPolicy = Annotated[str, typer.Option('--policy', help='Directory of the release served first, or a torch policy '
                                        'such as fpo_state, of which one is made for this run; empty: wait for one.')]
Keys = Annotated[str, typer.Option(help='File or directory of the public keys releases must be signed with.')]
Releases = Annotated[str, typer.Option(help='Release store of the cell, which the learner announces from.')]
Task = Annotated[str, typer.Option(help='Task of the cell; empty: as configured.')]
Cameras = Annotated[
    str, typer.Option(help='Camera names, comma-separated; "none" for none; empty: as configured.')
]
RecordDir = Annotated[str, typer.Option(help='Episode store; empty: as configured.')]
RunDir = Annotated[str, typer.Option(help="Run directory of the learner's trainer.")]
StartPolicy = Annotated[str, typer.Option(help='Torch policy a new training run of the learner starts from.')]
Learner = Annotated[bool, typer.Option(help='Whether the learner runs.')]
Teleop = Annotated[bool, typer.Option('--teleop', help='Whether an operator can drive the followers by the leaders.')]
Gamepad = Annotated[bool, typer.Option('--gamepad', help='Whether a gamepad or pedal stops the arms and speaks for '
                                       'the operator.')]
Commands = Annotated[str, typer.Option(help='log_only: a dry run, in which everything runs and no command leaves; '
                                       'send: commands go to the arms; empty: as configured.')]
Namespace = Annotated[str, typer.Option(help='Namespace of the whole cell.')]
Config = Annotated[str, typer.Option(help='Configuration file laid over the packaged one.')]
Timeout = Annotated[float, typer.Option(min=1.0, help='Time in which all nodes must be active [s].')]


@app.command()
def sim(policy: AnyPolicy = '', trusted_keys: Keys = '', releases: Releases = '', task: Task = '',
        cameras: Cameras = '', record_dir: RecordDir = '', run_dir: RunDir = '', start_policy: StartPolicy = '',
        learner: Learner = True, teleop: Teleop = False, gamepad: Gamepad = False, commands: Commands = '',
        namespace: Namespace = '/', config: Config = '', timeout: Timeout = 60.0) -> None:
    """Simulated arms: the driver twin in place of the hardware."""
    from fpo_ros.policies import is_policy

    with contextlib.ExitStack() as stack:
        parameters: dict[str, dict[str, Any]] = {}
        if is_policy(policy):
            from fpo_ros.releases.trial import trial_release

            if trusted_keys:
                raise ValueError(f'{policy} is no release: its release is signed with a key of this run, so leave '
                                 '--trusted-keys out, or name a release')
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing of the release stays
            typer.echo(f'making a release of {policy} for this run', err=True)
            policy, trusted_keys = map(str, stack.enter_context(trial_release(policy)))
            parameters = {'policy': {'require_promotion': False}}
        _up('sim', timeout, cameras, policy=policy, trusted_keys=trusted_keys, releases=releases, task=task,
            record_dir=record_dir, run_dir=run_dir, start_policy=start_policy, learner=learner, teleop=teleop,
            gamepad=gamepad, commands=commands, namespace=namespace, config=config, parameters=parameters)


@app.command()
def real(policy: PolicyDir = '', trusted_keys: Keys = '', releases: Releases = '', task: Task = '',
         cameras: Cameras = '', record_dir: RecordDir = '', run_dir: RunDir = '', start_policy: StartPolicy = '',
         learner: Learner = True, teleop: Teleop = False, gamepad: Gamepad = False, commands: Commands = '',
         namespace: Namespace = '/', config: Config = '', timeout: Timeout = 60.0,
         use_twin: Annotated[bool, typer.Option('--use-twin', '--twin', help='Simulated arms with the settings of the '
                                                'real cell.')] = False,
         cell: Annotated[str, typer.Option(help='File of the cell: arms, cameras, speeds, calibration.')] = '',
         operator: Annotated[bool | None, typer.Option(
             help='Whether a person resets the scene and judges episodes; by default where there is no twin.')] = None,
         ) -> None:
    """Real arms: start their drivers first, as aloha_real.launch.py would."""
    _up('real', timeout, cameras, policy=policy, trusted_keys=trusted_keys, releases=releases, task=task,
        record_dir=record_dir, run_dir=run_dir, start_policy=start_policy, learner=learner, teleop=teleop,
        gamepad=gamepad, commands=commands, namespace=namespace, config=config, use_twin=use_twin,
        operator=operator, cell=cell)


def _up(mode: str, timeout: float, cameras: str, **chosen: Any) -> None:
    try:
        from fpo_ros.nodes.graph import GraphOptions
        from fpo_ros.nodes.up import up
    except ImportError as error:
        raise RuntimeError(f'ROS 2 is not importable ({error}): run "fpo-ros doctor"') from error
    options = {name: None if value == '' else value for name, value in chosen.items()}
    options['cameras'] = {'': None, 'none': ''}.get(cameras, cameras)
    raise typer.Exit(up(GraphOptions(mode=mode, **options), timeout))
