"""A process of several that train on the tiny task: ``train_parallel.py DIRECTORY JSON``.

The JSON lists runs, one after the other: their ``name`` in the directory, ``settings`` that differ from those of
:func:`config`, ``iterations``, ``resume``, ``restores`` (see :func:`restoring`), ``timeout_s``, and with ``fault`` what
goes wrong in process 1 in the second iteration. An error is printed behind the name of its run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import tiny_task
import torch

from fpo_ros.learning import finetune as finetuning
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.followers import follow
from fpo_ros.learning.objective import ObjectiveConfig
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.scale.collecting import LocalPool
from fpo_ros.learning.update import Epochs


def config(objective: dict | None = None, **changes: object) -> FPOConfig:
    """Return tiny settings with steps of usual size, up to three microbatches in each, and every epoch."""
    chosen = {'learning_rate': 3e-4, 'drift_stop': None, 'microbatch': 2, **changes}
    return tiny_task.config(objective=ObjectiveConfig(**objective or {}), **chosen)


def behind_a_step(happens: Callable[[Epochs], None]) -> AbstractContextManager:
    """Let something happen behind the second step of the second iteration."""
    plain = Epochs.step

    def step(epochs: Epochs, **entries: object) -> None:
        plain(epochs, **entries)
        if (epochs._batch.where, epochs._done) == ('iteration 2', 2):
            happens(epochs)

    return mock.patch.object(Epochs, 'step', step)


def restoring() -> AbstractContextManager:
    """Go back to the policy of the first iteration after the second one."""
    return mock.patch.multiple(finetuning, best_of=lambda history, _: history[0],
                               _has_fallen=lambda history, _: len(history) == 2)


def die(_: Epochs) -> None:
    """End without a word, unless the launcher has started this process anew."""
    if os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') == '0':
        os.kill(os.getpid(), signal.SIGKILL)


def drift(epochs: Epochs) -> None:
    """Move a weight by less than a step does."""
    with torch.no_grad():
        epochs._flow.parameters[0].view(-1)[0] += 1e-6


def spoiled_rollout() -> AbstractContextManager:
    """Let the second rollout draw what is not finite."""
    plain, calls = LocalPool.collect, []

    def collect(pool: LocalPool, policy, *arguments):
        calls.append(policy)
        if len(calls) == 2:
            with torch.no_grad():
                policy.model.action_out_proj.weight.fill_(float('nan'))
        return plain(pool, policy, *arguments)

    return mock.patch.object(LocalPool, 'collect', collect)


FAULTS = {
    'dies': lambda: behind_a_step(die),
    'hangs': lambda: behind_a_step(lambda _: os.kill(os.getpid(), signal.SIGSTOP)),
    'drifts': lambda: behind_a_step(drift),
    'spoils': spoiled_rollout,
}


def main(directory: Path, runs: list[dict]) -> None:
    torch.set_num_threads(1)
    with Group.from_environment(timeout_s=runs[0].get('timeout_s', 60.0)) as group, tiny_task.short_episodes(), \
            tiny_task.waist_reward():
        for run in runs:
            with FAULTS[run['fault']]() if 'fault' in run and group.rank == 1 else nullcontext():
                try:
                    train(group, directory / run['name'], run)
                except (RuntimeError, ValueError) as error:  # the next run begins all the same, if there is a group
                    print(f'{run["name"]}: {type(error).__name__}: {error}', file=sys.stderr, flush=True)


def train(group: Group, run: Path, given: dict) -> None:
    if group.rank:
        torch.set_num_threads(2)
        follow(group)
        assert torch.get_num_threads() == 1, 'process 0 says how many'
        return
    with restoring() if given.get('restores') else nullcontext():
        settings = config(**given.get('settings', {}))
        finetune(tiny_task.policy(), run, settings, given.get('iterations', 2), resume=given.get('resume', False),
                 demonstrations=tiny_task.pairs() if settings.imitates_recorded else None, group=group,
                 on_iteration=lambda metrics: print(f'iteration {metrics["iteration"]}', flush=True))


if __name__ == '__main__':
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
