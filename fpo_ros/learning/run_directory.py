"""The directory of a fine-tuning run: settings, start, recorded pairs, best policy; one trainer at a time.

``config.json`` is written last when a run begins: a directory that has one is a whole run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, from_numpy

from fpo_ros.files import replace_file, sync_dir, try_lock
from fpo_ros.learning.config import FPOConfig, config_from_dict
from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.progress import Progress
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.saving import saving, write_tensors

_CONFIG, _START, _PAIRS = 'config.json', 'start', 'demonstrations.safetensors'
_FAILED = 'failed_update.safetensors'
#: Held while a process trains in the directory. The learner node's own lock of it is another file, whose
#: descriptor the trainer inherits: two descriptors of one file would shut each other out.
_LOCK = '.finetune.lock'


class RunError(ValueError):
    """A run directory does not fit the request; the message says what to do."""


@dataclass(frozen=True)
class RunSettings:
    """What a run was begun with.

    :param config: settings of fine-tuning.
    :param seed: of scenes, noise and minibatches.
    :param contract: of the policy.
    :param start: :meth:`FlowPolicy.digest` of the start policy.
    :param demonstrations: origin, episodes and pairs of the recorded pairs; None where there are none.
    """

    config: FPOConfig
    seed: int
    contract: PolicyContract
    start: str
    demonstrations: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return {'fpo': dataclasses.asdict(self.config), 'seed': self.seed, 'contract': self.contract.to_dict(),
                'start': self.start, 'demonstrations': self.demonstrations}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunSettings:
        """Read what :meth:`to_dict` wrote; KeyError, TypeError or ValueError where it does not fit."""
        return cls(config_from_dict(data['fpo']), int(data['seed']),
                   PolicyContract.from_dict(data['contract']), str(data['start']), data['demonstrations'])

    def check(self, where: Path, **given: Any) -> None:
        """Refuse settings that differ from those of the run; None stands for one that is not given.

        :param where: the run, for the message.
        :param given: ``seed``, entries of the configuration, ``demonstrations`` as path of a store.
        :raises RunError: naming the first that differs, and both values.
        """
        known = dataclasses.asdict(self.config) | {'seed': self.seed}
        for name, value in given.items():
            if name == 'randomisation':
                if value is not None and value != self.config.randomisation:
                    raise RunError(f'{where} was started with another --{name}, or none (see {where / _CONFIG}): leave '
                                   'it out to continue the run, or choose another --run')
                continue
            if name == 'demonstrations':
                fits = value is None or not self.demonstrations or str(Path(value).resolve()) == self._origin
                stored = self._origin
            else:
                stored = known[name]
                fits = value is None or value == stored
            if not fits:
                raise RunError(f'{where} was started with --{name.replace("_", "-")} {stored}, not {value}: '
                               'leave it out to continue the run, or choose another --run')

    @property
    def _origin(self) -> str:
        return self.demonstrations['origin'] if self.demonstrations else ''


def read_settings(run: Path) -> RunSettings | None:
    """Return the settings of a run; None where the directory holds no whole run.

    :raises RunError: when they cannot be read.
    """
    path = run / _CONFIG
    if not path.exists():
        return None
    try:
        return RunSettings.from_dict(json.loads(path.read_text(encoding='utf-8')))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f'{path} is not the configuration of a run ({error}): choose another --run') from error


class RunDirectory:
    """A run directory, locked for this process while a ``with`` block lasts.

    :param path: made if missing.
    :raises RunError: when another process trains in it.
    :raises SaveError: when it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> RunDirectory:
        with saving(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = try_lock(self.path / _LOCK)
        if self._lock is None:
            raise RunError(f'{self.path}: another process trains in this run: wait for it or end it, '
                           'or choose another --run')
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def begin(self, settings: RunSettings, start: FlowPolicy, demonstrations: Demonstrations | None) -> None:
        """Write what a run needs to be continued alone.

        :raises SaveError: when the disk refuses; the directory is no run then.
        """
        with saving(self.path):
            (self.path / _START).mkdir(exist_ok=True)
            start.save(self.path / _START)
            if demonstrations is not None:
                arrays = {'states': demonstrations.states, 'chunks': demonstrations.chunks,
                          'frame': demonstrations.frame, 'images': demonstrations.images}
                write_tensors(self.path / _PAIRS, {name: from_numpy(value) for name, value in arrays.items()
                                                   if value is not None})
            sync_dir(self.path)
            replace_file(self.path / _CONFIG, (json.dumps(settings.to_dict(), indent=2) + '\n').encode())

    def beginning(self) -> list[Path]:
        """Return the files that the run began with."""
        found = [self.path / _CONFIG, self.path / _PAIRS, *sorted((self.path / _START).iterdir())]
        return [path for path in found if path.is_file()]

    def start(self) -> FlowPolicy:
        """Return the policy the run began with."""
        return FlowPolicy.load(self.path / _START)

    def demonstrations(self, settings: RunSettings) -> Demonstrations | None:
        """Return the recorded pairs the run began with, whatever their store has become since.

        :raises RunError: when they cannot be read.
        """
        about, path = settings.demonstrations, self.path / _PAIRS
        if about is None:
            return None
        try:
            arrays = load_file(path)
            return Demonstrations(arrays['states'], arrays['chunks'], arrays.get('images'), arrays['frame'],
                                  about['episodes'], about['origin'])
        except (OSError, KeyError, SafetensorError) as error:
            raise RunError(f'{path}: the recorded pairs of the run cannot be read ({error}): begin a new one with '
                           'another --run') from error

    def best(self) -> FlowPolicy:
        """Return the best policy so far.

        :raises ContractError: when there is none.
        """
        path = self.path / 'best'
        if not (path / 'policy.json').exists():
            raise ContractError(f'{path} is missing: the run did not complete an iteration')
        return FlowPolicy.load(path)

    def keep_best(self, policy: FlowPolicy) -> None:
        """Write a policy beside ``best`` and move it into place.

        :raises SaveError: when the disk refuses; the best policy before stands then.
        """
        self._keep('best', policy)

    def keep_average(self, policy: FlowPolicy) -> None:
        """Write a policy of averaged weights beside ``average`` and move it into place; see :meth:`keep_best`."""
        self._keep('average', policy)

    def keep_failed(self, tensors: dict[str, Tensor]) -> None:
        """Write the decisions of an update that failed to ``failed_update.safetensors``, for inspection.

        :raises SaveError: when the disk refuses.
        """
        if tensors:
            with saving(self.path):
                write_tensors(self.path / _FAILED, tensors)

    def _keep(self, name: str, policy: FlowPolicy) -> None:
        path, staging, old = self.path / name, self.path / f'.{name}.new', self.path / f'.{name}.old'
        with saving(path, 'the policy before it and the checkpoints stand: go on from them with --resume'):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                policy.save(staging)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            staging.rename(path)
            sync_dir(self.path)
            shutil.rmtree(old, ignore_errors=True)

    def recover_best(self) -> None:
        """Bring back the policy that :meth:`keep_best` had moved aside when its process was killed."""
        path, old = self.path / 'best', self.path / '.best.old'
        if old.exists() and not path.exists():
            old.rename(path)

    def progress(self, history: list[dict]) -> Progress:
        """Return the run's progress files, made to agree with a history.

        :raises SaveError: when the disk refuses.
        """
        return Progress(self.path, history)
