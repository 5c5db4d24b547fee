"""The command line ``fpo-ros``. Exit codes: 0 done, 1 failed with one line that says what to do, 2 wrong usage."""

from __future__ import annotations

import importlib
import json as json_
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, context_settings={
    'help_option_names': ['-h', '--help']}, help='Flow policies for ALOHA arms: demonstrations, SFT, FPO, signed '
    'releases and the ROS 2 graph. Start with "fpo-ros demo".')
train_app = typer.Typer(no_args_is_help=True, help='Train a policy: sft from demonstrations, then fpo in simulation.')
app.add_typer(train_app, name='train')

#: Sub-commands whose modules are imported only when they are used: verb → (module, help).
_GROUPS = {'episodes': ('fpo_ros.episodes.cli', 'Look at recorded episodes, check and salvage them.'),
           'releases': ('fpo_ros.releases.cli', 'Sign, check, promote and roll back policy releases.'),
           'up': ('fpo_ros.nodes.cli', 'Start the ROS 2 graph of a simulated or a real cell.')}

#: Exit code after Ctrl-C: 128 and the number of SIGINT.
_INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option('--json', help='Print one JSON object last on standard output.')]
Seed = Annotated[int, typer.Option(help='Seed of scenes, noise and minibatches.')]
Observation = Annotated[str, typer.Option(help='What the policy sees: pixels (camera and joints) or state '
                                          '(joints and object pose).')]


def _display(as_json: bool) -> Any:
    from fpo_ros.demo.display import Display

    return Display(to_stderr=as_json)


@app.command()
def demo(quick: Annotated[bool, typer.Option('--quick', help='The same path with smaller numbers: a few minutes, '
                                             'no proof of anything.')] = False,
         observation: Observation = 'state',
         directory: Annotated[Path, typer.Option('--dir', help='Where everything goes.')] = Path('runs/demo'),
         resume: Annotated[bool, typer.Option('--resume', help='Go on where an interrupted demo stopped.')] = False,
         as_json: AsJson = False) -> None:
    """The main job: demonstrations, SFT, FPO, release, the ROS 2 graph with a hot swap, a report."""
    from fpo_ros.demo.run import run_demo

    numbers = run_demo(directory, observation, quick, resume, _display(as_json))
    if as_json:
        print(json_.dumps(numbers), flush=True)


@train_app.command('sft')
def train_sft(demonstrations: Annotated[Path, typer.Option(help='Episode store to learn from.')],
              out: Annotated[Path, typer.Option(help='Directory of the trained policy; made if missing.')],
              observation: Observation = 'state',
              cameras: Annotated[str, typer.Option(help='Cameras for pixels, comma-separated.')] = 'cam_high',
              steps: Annotated[int, typer.Option(min=1, help='Optimiser steps.')] = 800,
              batch: Annotated[int, typer.Option(min=1, help='Training pairs per step.')] = 128,
              seed: Seed = 0) -> None:
    """Train pi0_tiny by conditional flow matching on recorded episodes."""
    from fpo_ros.episodes.store import EpisodeStore
    from fpo_ros.learning import sft
    from fpo_ros.learning.demonstrations import load_demonstrations
    from fpo_ros.policy.config import preset
    from fpo_ros.policy.contract import PolicyContract

    contract = PolicyContract(observation=observation,
                              cameras=tuple(cameras.split(',')) if observation == 'pixels' else ())
    pairs = load_demonstrations(EpisodeStore.open(demonstrations), contract)
    display = _display(False)
    out.mkdir(parents=True, exist_ok=True)
    with display.bar('flow matching', steps) as bar:
        policy = sft.train(pairs, contract, preset('pi0_tiny'), sft.SFTConfig(steps=steps, batch=batch), seed,
                           lambda step, loss: bar.update(step, f'(loss {loss:.3f})'))
    policy.save(out)
    display.line(f'{out}: trained on {len(pairs.states):,} pairs of {pairs.episodes} episodes')


@train_app.command('fpo')
def train_fpo(run: Annotated[Path, typer.Option(help='Run directory; made if missing.')],
              policy: Annotated[Path | None, typer.Option(help='Directory of the SFT policy to start from; the run '
                                                          'keeps its own copy, so --resume needs none.')] = None,
              iterations: Annotated[int, typer.Option(min=1, help='Iterations of the whole run.')] = 24,
              episodes: Annotated[int, typer.Option(min=1, help='Episodes per iteration.')] = 128,
              learning_rate: Annotated[float, typer.Option(min=0.0, help='Of the action expert.')] = 1e-4,
              demonstrations: Annotated[Path | None, typer.Option(
                  help='Episode store whose successful episodes are imitated beside the own successes.')] = None,
              resume: Annotated[bool, typer.Option('--resume', help='Continue after Ctrl-C or a crash.')] = False,
              seed: Seed = 0) -> None:
    """Fine-tune a policy by Flow Policy Optimization in simulation."""
    from fpo_ros.demo.display import TrainingTable
    from fpo_ros.learning.finetune import RunError, finetune
    from fpo_ros.learning.fpo import FPOConfig
    from fpo_ros.policy.checkpoint import FlowPolicy

    if policy is None and not (resume and (run / 'start').exists()):
        raise RunError(f'{run} is no run to resume: name the policy to start from with --policy')
    start = FlowPolicy.load(run / 'start' if policy is None else policy)
    recorded = _successful(demonstrations, start.contract) if demonstrations else None
    display = _display(False)
    with TrainingTable(display, iterations) as table:
        _, history = finetune(start, run, FPOConfig(episodes=episodes, learning_rate=learning_rate), iterations,
                              seed=seed, resume=resume, demonstrations=recorded, on_iteration=table.add,
                              on_phase=table.phase)
    display.line(f'best policy in {run / "best"} after {history[-1]["control_steps"]:,} control steps')


def _successful(path: Path, contract: Any) -> Any:
    """Return the successful episodes of a store; None where it holds none yet."""
    from fpo_ros.episodes.store import EpisodeStore
    from fpo_ros.learning.demonstrations import load_demonstrations

    store = EpisodeStore.open(path)
    if not any(episode.meta.success for episode in store.iter()):
        print(f'{path} holds no successful episode yet: training without demonstrations', flush=True)
        return None
    return load_demonstrations(store, contract, successes_only=True)


@app.command('eval')
def evaluate_(policy: Annotated[Path, typer.Option(help='Directory of the policy.')],
              episodes: Annotated[int, typer.Option(min=1, help='Held-out scenes.')] = 200,
              seed: Annotated[int, typer.Option(help='Which held-out scenes.')] = 0,
              sampling: Annotated[str, typer.Option(help='Start of the flow: random or zero.')] = 'random',
              as_json: AsJson = False) -> None:
    """Measure success on scenes that no training run sees, with its 95 % Wilson interval."""
    from fpo_ros.demo.learning_stages import summary
    from fpo_ros.learning.evaluate import evaluate
    from fpo_ros.policy.checkpoint import FlowPolicy

    display = _display(as_json)
    with display.bar('held-out episodes', episodes) as bar:
        result = evaluate(FlowPolicy.load(policy), episodes, seed, sampling, progress=bar.update).to_dict()
    display.line(f'{summary(result)}; {result["success_strict_rate"]:.1%} by the strict rule')
    if as_json:
        print(json_.dumps(result), flush=True)


@app.command('export')
def export_(policy: Annotated[Path, typer.Option(help='Directory of the policy.')],
            out: Annotated[Path, typer.Option(help='Directory of the ONNX graphs; made if missing.')]) -> None:
    """Export a policy as ONNX graphs with test vectors, and check them against torch."""
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.runtime.export import export

    loaded = FlowPolicy.load(policy)
    out.mkdir(parents=True, exist_ok=True)
    error = export(loaded, out)
    _display(False).line(f'{out}: ONNX differs from torch by at most {error:.1e} (rad, grippers 0..1)')


@app.command()
def record(store: Annotated[Path, typer.Option(help='Episode store; made if missing.')],
           episodes: Annotated[int, typer.Option(min=1, help='Episodes to record.')] = 40,
           noise: Annotated[float, typer.Option(min=0.0, help='Error of every waypoint coordinate [m].')] = 0.03,
           observation: Observation = 'state', seed: Seed = 0) -> None:
    """Record demonstrations of the scripted expert in simulation."""
    from fpo_ros.episodes.store import EpisodeStore
    from fpo_ros.learning.record import record_demonstrations
    from fpo_ros.policy.contract import PolicyContract

    contract = PolicyContract(observation=observation, cameras=('cam_high',) if observation == 'pixels' else ())
    display = _display(False)
    with display.bar('recording', episodes) as bar:
        good = record_demonstrations(EpisodeStore.create_or_open(store), contract, episodes, noise, seed,
                                     progress=lambda done, good: bar.update(done, f'({good} succeeded)'))
    display.line(f'{store}: {episodes} episodes recorded, {good} of them successful')


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, GL, ROS 2, compiler, cores and disk, and say what to do."""
    from fpo_ros.doctor import doctor as check

    raise typer.Exit(check(as_json))


def _mount(verb: str) -> None:
    module, text = _GROUPS[verb]
    app.add_typer(importlib.import_module(module).app, name=verb, help=text)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    # Threads that wait for each other must not burn the cores that the ROS nodes share with them.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    arguments = sys.argv[1:] if arguments is None else arguments
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
    except (ValueError, RuntimeError, OSError) as error:
        print(f'fpo-ros: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    main()
