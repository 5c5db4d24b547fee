"""The full state of a fine-tuning run on disk: resumable after kill -9, at most one iteration lost.

A checkpoint is a directory of safetensors and JSON, written beside the older one and renamed into place. The
successes of an iteration are written once: later checkpoints hold a hard link to the same file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fpo_ros.files import replace_file, sync_dir
from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.imitation import Weighted
from fpo_ros.learning.optimizers import load_optimizer, named, optimizer_tensors
from fpo_ros.learning.regression import AdvantageWeightedRegression
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.saving import saving, write_tensors

_COMPLETE = re.compile(r'\d+')
_STAGING = re.compile(r'\.\d+\.\d+')


def _file(prefix: str, iteration: int) -> str:
    return f'{prefix}-{iteration:06d}.safetensors'


def save_state(learner: FPO, directory: Path, history: list[dict], older: Path | None = None) -> None:
    """Write everything a run needs to continue bit-equally into an empty directory.

    :param older: checkpoint of an earlier iteration of the same run.
    :raises OSError: as the system reports it; SafetensorError or SaveError alike.
    """
    learner.policy.save(directory)
    tensors = {f'critic/{name}': value for name, value in learner.values.module.state_dict().items()}
    tensors |= optimizer_tensors('actor_optimizer', learner.actor_optimizer)
    tensors |= optimizer_tensors('critic_optimizer', learner.values.optimizer)
    tensors['generator'] = learner.generator.get_state()
    for prefix, part in (('flow', learner.flow), ('update', learner.update)):
        tensors |= {f'{prefix}/{name}': value for name, value in part.state().items()}
    if learner.average is not None:
        tensors |= {f'average/{name}': value for name, value in learner.average.model.state_dict().items()}
    for index, part in enumerate(learner.values.data):
        tensors |= {f'values/{index}/{name}': value for name, value in part.items()}
    document = {'iteration': learner.iteration, 'control_steps': learner.control_steps, 'history': history,
                'values': len(learner.values.data), 'rate_factor': learner.rate_factor, 'recent': list(learner.recent),
                'failed': list(learner.failed.kept), 'least_failing': learner.least_failing,
                'waiting': learner.waiting, 'spreads': learner.spreads, 'explored': learner.explored}
    for prefix, parts in _kept(learner).items():
        for back, part in enumerate(reversed(parts)):
            name = _file(prefix, learner.iteration - back)
            if older is None or not _link(older / name, directory / name):
                write_tensors(directory / name, part)
    write_tensors(directory / 'learner.safetensors', tensors)
    replace_file(directory / 'learner.json', (json.dumps(document, allow_nan=False) + '\n').encode())


def _kept(learner: FPO) -> dict[str, list[dict[str, Tensor]]]:
    """Return what iterations left behind, by the name of its files: successes, and with AWR all decisions."""
    kept = {'successes': [vars(part.decisions) | {'weight': part.weight} for part in learner.imitation.own]}
    if isinstance(learner.update, AdvantageWeightedRegression):
        kept['decisions'] = [vars(part) | {'weight': weight} for part, weight in learner.update.kept]
    return kept


def _weighted(path: Path) -> tuple[Decisions, Tensor]:
    """Return the decisions of a file and their weights."""
    part = load_file(path)
    weight = part.pop('weight')
    return Decisions(**part), weight


def _link(old: Path, new: Path) -> bool:
    """Give a file a second name; returns False where there is none or the file system has no links."""
    try:
        os.link(old, new)
    except OSError:
        return False
    return True


def load_state(learner: FPO, directory: Path) -> list[dict]:
    """Restore what :func:`save_state` wrote into a learner of the same configuration; return the history.

    :raises ContractError: naming the file that cannot be read.
    """
    path = directory / 'learner.json'
    try:
        document = json.loads(path.read_text())
        path = directory / 'learner.safetensors'
        tensors = load_file(path)
        path = directory
        learner.policy.model.load_state_dict(FlowPolicy.load(directory).model.state_dict())
        learner.values.module.load_state_dict(named('critic/', tensors))
        if learner.average is not None:
            learner.average.model.load_state_dict(named('average/', tensors))
        load_optimizer('actor_optimizer', learner.actor_optimizer, tensors)
        load_optimizer('critic_optimizer', learner.values.optimizer, tensors)
        learner.generator.set_state(tensors['generator'])
        learner.flow.load(named('flow/', tensors))
        learner.update.load(named('update/', tensors))
        learner.values.data.extend(named(f'values/{index}/', tensors) for index in range(document['values']))
        learner.iteration, learner.control_steps = document['iteration'], document['control_steps']
        learner.rate_factor = document['rate_factor']
        learner.recent.extend(document['recent'])
        learner.failed.kept.extend(document['failed'])
        learner.least_failing, learner.spreads = document['least_failing'], document['spreads']
        learner.waiting, learner.explored = document['waiting'], document.get('explored')
        first = max(learner.explored or 0, learner.iteration - learner.config.bc_history)
        for iteration in range(first, learner.iteration):
            path = directory / _file('successes', iteration + 1)
            learner.imitation.own.append(Weighted(*_weighted(path)))
        if isinstance(learner.update, AdvantageWeightedRegression):
            for path in sorted(directory.glob('decisions-*')):
                learner.update.kept.append(_weighted(path))
        return document['history']
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = ' '.join(str(error).split())
        raise ContractError(f'{path}: not a readable checkpoint ({reason}); remove {directory} to go on from '
                            'the one before') from error


class CheckpointDirectory:
    """``<run>/checkpoints/000012`` and so on; only complete ones carry such a name.

    Anything else in the directory is left alone.

    :param path: the directory that holds them.
    :param keep: how many of the newest are kept.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path, self.keep = path, keep
        with saving(path):
            path.mkdir(parents=True, exist_ok=True)

    def _complete(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return sorted((entry for entry in self.path.iterdir() if _COMPLETE.fullmatch(entry.name)),
                      key=lambda entry: int(entry.name))

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        return next(reversed(self._complete()), None)

    def save(self, learner: FPO, history: list[dict]) -> Path:
        """Write a checkpoint of the learner's iteration and drop the oldest.

        :raises SaveError: when the disk refuses; the older checkpoints stand then.
        """
        older = self.newest()
        final = self.path / f'{learner.iteration:06d}'
        staging = self.path / f'.{final.name}.{os.getpid()}'
        with saving(final, 'the checkpoints before it stand: go on from them with --resume'):
            self._remove_stale()
            staging.mkdir()
            try:
                save_state(learner, staging, history, older)
                sync_dir(staging)
                staging.rename(final)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
            sync_dir(self.path)
            for old in self._complete()[:-self.keep]:
                shutil.rmtree(old)
        return final

    def _remove_stale(self) -> None:
        """Remove what killed processes left half written."""
        for entry in self.path.iterdir():
            if _STAGING.fullmatch(entry.name):
                shutil.rmtree(entry)
