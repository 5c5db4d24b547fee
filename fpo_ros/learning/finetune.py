"""A fine-tuning run in a directory: iterations, progress file, best policy, resume."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.evaluate import renderer_of
from fpo_ros.learning.fpo import FPO, FPOConfig
from fpo_ros.learning.training_state import CheckpointDirectory, load_state
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError
from fpo_ros.sim.batch import BatchedWorlds

#: The best policy is judged by the mean training success of this many iterations in a row.
SMOOTHING = 3


class RunError(ValueError):
    """A run directory does not fit the request; the message says what to do."""


def smoothed_success(history: list[dict]) -> float:
    """Return the mean success of the newest iterations."""
    return float(np.mean([entry['success_rate'] for entry in history[-SMOOTHING:]]))


def best_of(history: list[dict]) -> dict:
    """Return the entry of the best iteration, the later of equals.

    Means over fewer iterations than SMOOTHING are not judged; until there is a full one, the newest is the best.
    """
    judged = history[SMOOTHING - 1:] or history[-1:]
    return max(reversed(judged), key=lambda entry: entry['smoothed_success'])


def finetune(start: FlowPolicy, run: Path, config: FPOConfig, iterations: int, *, seed: int = 0,
             resume: bool = False, demonstrations: Demonstrations | None = None,
             on_iteration: Callable[[dict], None] | None = None,
             on_phase: Callable[[str], None] | None = None) -> tuple[FlowPolicy, list[dict]]:
    """Fine-tune a policy by FPO and return the best policy of the run with its history.

    ``<run>`` receives ``config.json``, ``progress.jsonl`` (one object per iteration), ``checkpoints/``
    and ``best/``.

    :param start: the SFT policy; used only where the run does not resume.
    :param iterations: total number of iterations, those of an interrupted run included.
    :param resume: continue from the newest checkpoint.
    :param demonstrations: successful recorded pairs, imitated beside the policy's own successes.
    :param on_iteration: called with the metrics of each iteration.
    :raises RunError: when the directory holds a run and ``resume`` is off, or one of another configuration.
    """
    run.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps({'fpo': dataclasses.asdict(config), 'seed': seed,
                                      'contract': start.contract.to_dict()}))
    config_file = run / 'config.json'
    if config_file.exists():
        if not resume:
            raise RunError(f'{run} already holds a run: pass --resume to continue it, or choose another --run')
        if _read_settings(config_file) != settings:
            raise RunError(f'{run} was started with other settings (see {config_file}): resume with those, '
                           'or choose another --run')
    else:
        # The configuration is written last: a run that has one has a whole start policy.
        start.save(_fresh(run / 'start'))
        _write(config_file, json.dumps(settings, indent=2) + '\n')
    _recover(run / 'best')
    checkpoints = CheckpointDirectory(run / 'checkpoints')
    learner = FPO(FlowPolicy.load(run / 'start'), config, seed, demonstrations)
    newest = checkpoints.newest()
    history = load_state(learner, newest) if newest else []
    # The progress file agrees with the checkpoint that the run continues from.
    _write(run / 'progress.jsonl', ''.join(json.dumps(entry) + '\n' for entry in history))
    with BatchedWorlds(start.contract.task, config.episodes) as worlds, renderer_of(start.contract) as renderer:
        while learner.iteration < iterations:
            metrics = learner.run_iteration(worlds, renderer, on_phase)
            history.append(metrics)
            metrics['smoothed_success'] = smoothed_success(history)
            if best_of(history) is metrics:
                _replace(run / 'best', learner.policy)
            checkpoints.save(learner, history)
            with open(run / 'progress.jsonl', 'a', encoding='utf-8') as progress:
                progress.write(json.dumps(metrics) + '\n')
            if on_iteration:
                on_iteration(metrics)
    if not (run / 'best' / 'policy.json').exists():
        raise ContractError(f'{run}/best is missing: the run did not complete an iteration')
    return FlowPolicy.load(run / 'best'), history


def _fresh(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _replace(path: Path, policy: FlowPolicy) -> None:
    """Write a policy beside ``path`` and move it into place."""
    staging, old = path.with_name(f'.{path.name}.new'), path.with_name(f'.{path.name}.old')
    shutil.rmtree(staging, ignore_errors=True)
    policy.save(_fresh(staging))
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    staging.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _recover(path: Path) -> None:
    """Bring back the policy that :func:`_replace` had moved aside when its process was killed."""
    old = path.with_name(f'.{path.name}.old')
    if old.exists() and not path.exists():
        old.rename(path)


def _read_settings(path: Path) -> dict:
    """
    Return the settings a run was started with.

    :raises RunError: when the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise RunError(f'{path} is not the configuration of a run ({error}): choose another --run') from error


def _write(path: Path, text: str) -> None:
    """Write a file beside ``path`` and move it into place."""
    staging = path.with_name(f'.{path.name}.new')
    staging.write_text(text, encoding='utf-8')
    staging.replace(path)
