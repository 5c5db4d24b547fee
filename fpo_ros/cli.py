"""The command line ``fpo-ros``.

Exit codes: 0 done, 1 failed with one line that says what to do, 2 wrong usage, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import importlib
import json as json_
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fpo_ros.environment import isolate, write_below_checkout
from fpo_ros.files import FULL, explain
from fpo_ros.options import (
    AsJson,
    Cameras,
    ClusterAddress,
    MaxSteps,
    Observation,
    Precision,
    RandomisationFile,
    Seed,
    TaskName,
    Workers,
    cluster_of,
    contract_of,
    display_of,
    randomisation_of,
)

# Help is plain text: units in [brackets] are no markup.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 100},
                  help='Flow policies for ALOHA arms: demonstrations, SFT, FPO, signed releases and the ROS 2 graph. '
                  'Start with "fpo-ros demo".',
                  epilog='Exit codes: 0 done, 1 failed with one line that says what to do, 2 wrong usage, 130 '
                  'interrupted by Ctrl-C.')

#: Sub-commands whose modules are imported only when they are used: verb → module.
_GROUPS = {'train': 'fpo_ros.learning.cli', 'episodes': 'fpo_ros.episodes.cli', 'releases': 'fpo_ros.releases.cli',
           'up': 'fpo_ros.nodes.cli', 'run': 'fpo_ros.nodes.run_cli', 'arms': 'fpo_ros.nodes.arms_cli',
           'calibrate': 'fpo_ros.nodes.calibrate_cli',
           'operator': 'fpo_ros.nodes.operator_console', 'sim': 'fpo_ros.sim.cli',
           'bench': 'fpo_ros.bench.cli', 'results': 'fpo_ros.results.cli', 'analyse': 'fpo_ros.analysis.cli',
           'pi0': 'fpo_ros.policy.cli'}

#: Exit code after Ctrl-C: 128 and the number of SIGINT.
_INTERRUPTED = 130
#: How often a thread of torch looks for work before it sleeps: 0.1 to 0.3 ms, about what waking it takes.
SPIN = '5000'


@app.command()
def demo(quick: Annotated[bool, typer.Option('--quick', help='The same path with smaller numbers: a few minutes, '
                                             'no proof of anything.')] = False,
         observation: Observation = 'state',
         directory: Annotated[Path | None, typer.Option(
             '--dir', help='Where everything goes; runs/demo, or runs/demo-quick with --quick, if not given. Earlier '
             'results there are moved aside.', show_default=False)] = None,
         resume: Annotated[bool, typer.Option('--resume', help='Go on where an interrupted demo stopped.')] = False,
         check: Annotated[bool, typer.Option(
             '--check', help='Fail when the demo breaks a promise: a hot swap, every episode, 35 minutes (--quick: 6), '
             '6 GB of memory, 49 to 51 commands per second and, unless --quick or from pixels, success of FPO above '
             'that of SFT with 95 % intervals that lie apart.')] = False,
         as_json: AsJson = False) -> None:
    """The main job: demonstrations, SFT, FPO, release, the ROS 2 graph with a hot swap, a report."""
    from fpo_ros.demo.directory import check_directory, default_directory
    from fpo_ros.demo.machine import demo_contract, prepare_machine

    contract, display, work = demo_contract(observation), display_of(as_json), directory or default_directory(quick)
    check_directory(work, {'observation': observation, 'quick': quick}, resume)
    no_films = prepare_machine(contract, display)
    from fpo_ros.demo import run  # only now: it imports mujoco, which chooses its GL then

    numbers = run.run_demo(work, observation, quick, resume, display, no_films)
    if as_json:
        print(json_.dumps(numbers), flush=True)
    if check:
        run.check(numbers, observation, quick)


@app.command('eval')
def evaluate_(policy: Annotated[Path, typer.Option(help='Directory of the policy.')],
              task: Annotated[str | None, typer.Option(help='The task that the policy must be of: transfer_cube or '
                                                       'insertion.', show_default="the policy's own")] = None,
              episodes: Annotated[int, typer.Option(min=1, help='Held-out scenes.')] = 200,
              seed: Annotated[int, typer.Option(min=0, help='Which held-out scenes.')] = 0,
              sampling: Annotated[str, typer.Option(help='Start of the flow: random or zero.')] = 'random',
              max_steps: MaxSteps = None, randomisation: RandomisationFile = None,
              cluster: ClusterAddress = None, workers: Workers = None, as_json: AsJson = False) -> None:
    """Measure success on scenes that no training run sees, with its 95 % Wilson interval."""
    from fpo_ros.demo.learning_stages import summary
    from fpo_ros.learning.evaluate import evaluate
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.policy.contract import TASKS, ContractError

    if task is not None and task not in TASKS:
        raise ContractError(f"unknown task '{task}': use {' or '.join(TASKS)}, or leave --task out")
    loaded, display = FlowPolicy.load(policy), display_of(as_json)
    if task not in (None, loaded.contract.task):
        raise ContractError(f'{policy} is a policy of {loaded.contract.task}, not of {task}: leave --task out, or give '
                            f'a policy of {task}')
    with display.bar('held-out episodes', episodes) as bar:
        result = evaluate(loaded, episodes, seed, sampling, progress=bar.update,
                          cluster=cluster_of(cluster, workers), max_steps=max_steps,
                          randomisation=randomisation_of(randomisation)).to_dict()
    display.line(f'{result["task"]} within {result["max_steps"]} control steps: {summary(result)}; '
                 f'{result["success_strict_rate"]:.1%} by the strict rule; {result["timeouts"]} time-outs, '
                 f'{result["diverged"]} diverged')
    if result['lost_workers']:
        display.line(f'{result["lost_workers"]} workers were lost; their {result["recollected_episodes"]} episodes '
                     'were run again')
    if as_json:
        print(json_.dumps(result), flush=True)


@app.command()
def compare(a: Annotated[Path, typer.Argument(help='Directory of a policy.')],
            b: Annotated[Path, typer.Argument(help='Directory of another one.')],
            episodes: Annotated[int, typer.Option(min=1, help='Held-out scenes.')] = 500,
            seed: Annotated[int, typer.Option(min=0, help='Which held-out scenes.')] = 0,
            sampling: Annotated[str, typer.Option(help='Start of the flow: random or zero.')] = 'random',
            max_steps: MaxSteps = None, randomisation: RandomisationFile = None,
            cluster: ClusterAddress = None, workers: Workers = None, as_json: AsJson = False) -> None:
    """Measure how much more often policy B succeeds than policy A, scene by scene.

    Both run the same held-out scenes from the same noise; the difference has a 95 % interval, and McNemar's test says
    how likely so uneven a result is between policies that are as good.
    """
    from fpo_ros.learning.compare import RULES, paired
    from fpo_ros.learning.evaluate import evaluate
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.policy.contract import ContractError

    display, policies, found = display_of(as_json), [FlowPolicy.load(directory) for directory in (a, b)], []
    tasks = [policy.contract.task for policy in policies]
    if tasks[0] != tasks[1]:
        raise ContractError(f'{a} is a policy of {tasks[0]}, {b} of {tasks[1]}: compare policies of one task')
    with display.bar('held-out episodes', 2 * episodes) as bar:
        for count, policy in enumerate(policies):
            found.append(evaluate(policy, episodes, seed, sampling, cluster=cluster_of(cluster, workers),
                                  progress=lambda done, before=count * episodes: bar.update(before + done),
                                  max_steps=max_steps, randomisation=randomisation_of(randomisation)))
    results = {rule: paired(*(getattr(one, array) for one in found)) for rule, array in RULES.items()}
    for rule, result in results.items():
        display.line(f'{rule} rule: {result.in_words()}')
    if as_json:
        print(json_.dumps({'a': found[0].to_dict(), 'b': found[1].to_dict(),
                           **{rule: result.to_dict() for rule, result in results.items()}}), flush=True)


@app.command('export')
def export_(policy: Annotated[Path, typer.Option(help='Directory of the policy.')],
            out: Annotated[Path, typer.Option(help='Directory of the ONNX graphs; made if missing.')],
            precision: Precision = 'float32') -> None:
    """Export a policy as ONNX graphs with test vectors, and check them against torch."""
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.runtime.export import check, write

    loaded = FlowPolicy.load(policy)
    out.mkdir(parents=True, exist_ok=True)
    write(loaded, out, precision=precision)
    del loaded  # a whole pi0 and its graphs need not be in memory together
    error = check(out, precision)
    display_of(False).line(f'{out}: ONNX differs from torch by at most {error:.1e} (rad, grippers 0..1)')


@app.command()
def record(store: Annotated[Path, typer.Option(help='Episode store; made if missing.')],
           episodes: Annotated[int, typer.Option(min=1, help='Episodes to record.')] = 40,
           noise: Annotated[float | None, typer.Option(
               min=0.0, help='Standard deviation of the error of every waypoint coordinate [m]; 0 for no errors.',
               show_default='0.02 for transfer_cube, 0.005 for insertion')] = None,
           task: TaskName = 'transfer_cube', observation: Observation = 'state', cameras: Cameras = None,
           seed: Seed = 0) -> None:
    """Record demonstrations of the scripted expert in simulation; scenes the store holds already are passed over."""
    from fpo_ros.episodes.store import EpisodeStore
    from fpo_ros.learning.record import record_demonstrations, recorded_scenes
    from fpo_ros.sim.expert import EXPERTS
    from fpo_ros.sim.render import check_camera
    from fpo_ros.sim.scenes import Scenes, scene_seeds

    contract = contract_of(task, observation, cameras)
    for camera in contract.cameras:
        check_camera(camera)
    noise = EXPERTS[task].NOISE_M if noise is None else noise
    scenes, display = scene_seeds(Scenes.DEMONSTRATIONS, seed, episodes), display_of(False)
    episode_store = EpisodeStore.create_or_open(store)
    there = len(set(scenes.tolist()) & set(recorded_scenes(episode_store, contract, noise)))
    if there:
        display.line(f'{there} of {episodes} scenes are in {store} already')
    with display.bar('recording', episodes) as bar:
        good = record_demonstrations(episode_store, contract, episodes, noise, seed,
                                     progress=lambda done, good: bar.update(done, f'({good} succeeded)'))
    seen = f', pictures of {", ".join(contract.cameras)}' if contract.cameras else ''
    display.line(f'{store}: {episodes} episodes of {task} recorded, {good} of them successful{seen}')


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, GL, ROS 2, compiler, cores and disk, and say what to do."""
    from fpo_ros.doctor import doctor as check

    raise typer.Exit(check(as_json))


def _mount(verb: str) -> None:
    app.add_typer(importlib.import_module(_GROUPS[verb]).app, name=verb)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    :param arguments: words behind ``fpo-ros``; None: those this process was started with.
    """
    if arguments is None:
        isolate()  # may start this process anew, so nothing comes before it
        write_below_checkout()
        arguments = sys.argv[1:]
    # Threads that wait for each other must not burn the cores that ROS nodes and physics share with them. But waking
    # one takes as long as a small network's product: those that sleep at once make two threads slower than one.
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', SPIN)
    verb = next((word for word in arguments if not word.startswith('-')), None)
    # Only the group that is called is imported, all of them for the list of verbs.
    for name in [verb] if verb in _GROUPS else ([] if verb else _GROUPS):
        _mount_or_explain(name)
    sys.exit(_guarded(lambda: app(arguments, prog_name='fpo-ros')))


def _mount_or_explain(name: str) -> None:
    try:
        _mount(name)
    except ImportError as error:
        print(f'fpo-ros: "{name}" cannot be loaded: {error}. "fpo-ros doctor" says what is missing', file=sys.stderr)


def _guarded(work: Callable[[], Any]) -> int:
    """Run a command; turn the errors a user causes into one line."""
    try:
        work()
    except SystemExit as end:
        # Typer ends with this code on Ctrl-C and says nothing.
        if end.code == _INTERRUPTED:
            print('\nfpo-ros: interrupted; commands with --resume go on from here', file=sys.stderr)
        return end.code if isinstance(end.code, int) else 1
    except _expected_errors() as error:
        print(f'fpo-ros: {_in_words(error)}', file=sys.stderr)
        return 1
    return 0


def _expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors a user causes; that of safetensors only where something imported it."""
    safetensors = sys.modules.get('safetensors')
    return (ValueError, RuntimeError, OSError, ImportError,
            *((safetensors.SafetensorError,) if safetensors else ()))


def _in_words(error: Exception) -> str:
    """Return the message of an error in one line, with advice where the system gives none."""
    if isinstance(error, OSError) and isinstance(error.filename, (str, bytes, os.PathLike)):
        return explain(error, Path(os.fsdecode(error.filename)))
    if isinstance(error, OSError) and error.errno in FULL:
        return f'{error.strerror}: free some space or choose another disk'
    if isinstance(error, ImportError):
        return f'{error}. "fpo-ros doctor" says what is missing'
    return ' '.join(str(error).split())


if __name__ == '__main__':
    main()
