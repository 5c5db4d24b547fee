"""One seed of a row: its start, fine-tuning in legs, an evaluation at the end of each, and the JSON that stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from fpo_ros.demo.display import Display, TrainingTable
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.files import is_locked, locked, replace_file
from fpo_ros.learning import sft
from fpo_ros.learning.algorithms import prepared
from fpo_ros.learning.demonstrations import Demonstrations, load_demonstrations
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.followers import follow
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.prefixes import new_prefix
from fpo_ros.learning.record import record_demonstrations
from fpo_ros.learning.training_state import CheckpointDirectory
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.saving import saving
from fpo_ros.results.rows import Row, Start, recipe_of
from fpo_ros.results.stale import (
    StaleError,
    check_result,
    check_start,
    check_unfinished_start,
    keep_start,
    take_packaged,
)

#: Metrics whose curve stays.
_CURVE = ('control_steps', 'rewarded_rate', 'success_rate', 'replayed', 'replayed_rate', 'chunk_spread',
          'worst_region', 'explained_variance', 'loss_change_good', 'loss_change_bad', 'learning_rate', 'noise_high',
          'narrowed', 'rollout_s', 'update_s')

#: What process 0 sends to the others before a leg begins.
_LEG = b'leg'


@contextmanager
def _place_of(start: Start, work: Path, display: Display) -> Iterator[Path]:
    """Hold the directory of a start, waiting for another process that makes it."""
    where = work / 'starts' / start.name
    where.mkdir(parents=True, exist_ok=True)
    if is_locked(where / '.lock'):
        display.line(f'{start.name}, the start: waiting for another process, which works in {where}')
    with locked(where / '.lock'):
        yield where


def start_policy(start: Start, work: Path, display: Display, packaged: bool = True) -> FlowPolicy:
    """Return a start policy below ``work``: the one there, that of the package, or one that is trained now.

    What is trained on another machine differs in its last bits, and what is learned from it, in more.

    :param packaged: whether that of the package will do.
    :raises StaleError: for one that was made otherwise.
    """
    with _place_of(start, work, display) as where:
        return _start_policy(start, where, display, packaged)


def _start_policy(start: Start, where: Path, display: Display, packaged: bool) -> FlowPolicy:
    if not (where / 'policy' / 'policy.json').exists() and not (packaged and take_packaged(start, where)):
        check_unfinished_start(start, where)
        keep_start(start, where)
        pairs = _demonstrations(start, where, display)
        network = new_prefix(start.contract, start.model, start.grounding, display) if start.grounding else None
        with display.bar(f'flow matching for {start.name}', start.sft.steps) as bar:
            policy = sft.train(pairs, start.contract, start.model, start.sft, 0,
                               lambda step, loss: bar.update(step, f'(loss {loss:.3f})'), network)
        (where / 'policy').mkdir(parents=True, exist_ok=True)
        policy.save(where / 'policy')
    found = FlowPolicy.load(where / 'policy')
    check_start(start, found, where)
    return found


def demonstrations_of(start: Start, work: Path, display: Display, successes_only: bool = False) -> Demonstrations:
    """Return the demonstrations of a start, below ``work``; those that are missing there are recorded now.

    :raises NoDemonstrationsError: where none can be used.
    """
    with _place_of(start, work, display) as where:
        return _demonstrations(start, where, display, successes_only)


def _demonstrations(start: Start, where: Path, display: Display, successes_only: bool = False) -> Demonstrations:
    store = EpisodeStore.create_or_open(where / 'demonstrations')
    with display.bar(f'recording for {start.name}', start.demonstrations) as bar:
        record_demonstrations(store, start.contract, start.demonstrations, start.noise_m,
                              frame_every=start.frame_every,
                              progress=lambda done, good: bar.update(done, f'({good} succeeded)'))
    return load_demonstrations(store, start.contract, successes_only=successes_only)


def start_evaluation(policy: FlowPolicy, row: Row, work: Path, display: Display,
                     threads: int | None = None) -> dict[str, Any]:
    """Return the evaluation of what a row's training starts from, which the rows that share it share."""
    policy = prepared(policy, row.config())
    name = f'evaluation-{policy.digest()[:16]}-{row.episodes}-{row.sampling}.json'
    path = work / 'starts' / row.start.name / name
    if path.exists():
        return json.loads(path.read_text(encoding='utf-8'))
    found = measured(policy, row, row.sampling, display, f'{row.start.name}, the start', threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    with saving(path):
        replace_file(path, (json.dumps(found) + '\n').encode())
    return found


def measured(policy: FlowPolicy, row: Row, sampling: str, display: Display, text: str,
             threads: int | None = None) -> dict[str, Any]:
    """Return an evaluation on held-out scenes; successes by either rule as a string of 0 and 1, a scene each."""
    with display.bar(text, row.episodes) as bar:
        found = evaluate(policy, row.episodes, sampling=sampling, progress=bar.update, threads=threads)
    return {'sampling': sampling, 'episodes': row.episodes, 'gym': _bits(found.success), 'strict': _bits(found.strict)}


def _bits(array: np.ndarray) -> str:
    return ''.join('01'[int(value)] for value in array)


def help_to_train(group: Group, threads: int | None = None) -> None:
    """Follow process 0 of a group through the legs of its rows, until :func:`end_help`.

    :param group: connected; of a process other than 0.
    :param threads: of the physics; by default this process's share of the cores.
    :raises ParallelError: when process 0 gives up, is lost, or does not go with this process.
    """
    while group.broadcast():
        follow(group, threads)


def end_help(group: Group) -> None:
    """Let the processes that :func:`help_to_train` end."""
    group.broadcast(b'')


def prepare(row: Row, work: Path, display: Display, threads: int | None = None) -> None:
    """Make what all seeds of a row begin with, so that they can be run side by side.

    :raises StaleError: for a start that was made otherwise.
    """
    start_evaluation(start_policy(row.start, work, display), row, work, display, threads)
    if row.recorded:
        demonstrations_of(row.start, work, display)


def run_seed(row: Row, seed: int, work: Path, results: Path, display: Display,
             threads: int | None = None, group: Group | None = None) -> dict[str, Any]:
    """Run one seed of a row to its end, from where it was left; return what ``<results>/<row>-<seed>.json`` holds.

    :param work: where starts and runs are kept.
    :param results: where the JSON goes, rewritten after every leg.
    :param threads: of the physics; by default one per core that this process may use.
    :param group: processes that share the training, of which this is number 0; the others are in
        :func:`help_to_train`. This process alone if None.
    :raises ParallelError: when another process of the group is lost; what is done stays.
    :raises SaveError: when the disk refuses.
    :raises StaleError: for what is there of other settings, or of another start.
    """
    group = group or Group()
    path, run = results / f'{row.name}-{seed}.json', work / 'runs' / f'{row.name}-{seed}'
    known = json.loads(path.read_text(encoding='utf-8')) if path.exists() else None
    if known and known['finished']:
        check_result(known, row, _start_if_there(row.start, work, display), path, run)
        return known
    start = start_policy(row.start, work, display)
    if known is None:
        known = {'row': row.name, 'seed': seed, 'date': date.today().isoformat(), 'settings': asdict(row.config()),
                 'start': asdict(row.start), 'start_sha256': start.digest(), 'recorded': row.recorded,
                 'recipe': recipe_of(row),
                 'evaluations': [], 'curve': [], 'minutes': 0.0, 'finished': False}
    else:
        check_result(known, row, start, path, run)
    recorded = demonstrations_of(row.start, work, display, successes_only=True) if row.recorded else None
    for mark in (0, *row.marks):
        if any(entry['mark'] == mark for entry in known['evaluations']):
            continue
        if mark:
            history = _leg(row, seed, mark, start, recorded, run, display, threads, group)
            if len(history) > 1 and history[-2]['control_steps'] >= mark:
                raise StaleError(f'{run} has gone beyond {mark:,} control steps, of which {path} holds no evaluation: '
                                 'put the file back, or remove the run to train it anew')
            known['processes'] = group.size
            # Of all iterations, whichever program ran them.
            known['minutes'] = sum(entry['rollout_s'] + entry['update_s'] for entry in history) / 60
            known['curve'] = [{name: entry[name] for name in _CURVE if name in entry} for entry in history]
            known['alarms'] = sorted({name for entry in history for name in entry['alarms']})
            known['restored'] = sum(bool(entry.get('restored')) for entry in history)
            policy, steps = FlowPolicy.load(CheckpointDirectory(run / 'checkpoints').newest()), \
                history[-1]['control_steps']
            found = measured(policy, row, row.sampling, display, f'{row.name} seed {seed} at {steps:,} steps', threads)
        else:
            steps, found = 0, start_evaluation(start, row, work, display, threads)
        known['evaluations'].append({'mark': mark, 'control_steps': steps, **found})
        if mark == row.marks[-1]:
            if row.group == 'main':
                best = FlowPolicy.load(run / 'best')
                for name, one, sampling in (('zero', policy, 'zero'), ('best', best, row.sampling)):
                    known[name] = measured(one, row, sampling, display, f'{row.name} seed {seed}, {name}', threads)
            known['finished'] = True
        results.mkdir(parents=True, exist_ok=True)
        with saving(path):
            replace_file(path, (json.dumps(known) + '\n').encode())
    return known


def _start_if_there(start: Start, work: Path, display: Display) -> FlowPolicy | None:
    """Return a start policy that nothing has to go on from: None where it is not there, or of a format that is gone."""
    if not (work / 'starts' / start.name / 'policy' / 'policy.json').exists():
        return None
    try:
        return start_policy(start, work, display)
    except ContractError as error:
        display.line(f'{error}: what is finished is not compared with it')
        return None


def _leg(row: Row, seed: int, mark: int, start: FlowPolicy, recorded: Demonstrations | None, run: Path,
         display: Display, threads: int | None, group: Group) -> list[dict]:
    group.broadcast(_LEG)
    with TrainingTable(display, None) as table:
        return finetune(start, run, row.config(), control_steps=mark, seed=seed, resume=True, force=True,
                        demonstrations=recorded, threads=threads, on_iteration=table.add, on_phase=table.phase,
                        on_warning=display.line, group=group)[1]
