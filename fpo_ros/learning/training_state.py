"""The full state of a fine-tuning run on disk: resumable after kill -9, at most one iteration lost.

A checkpoint is a directory of safetensors and JSON, written beside the older one and renamed into place.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fpo_ros.learning.fpo import FPO, Decisions
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError


def _optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()['state']
    return {f'{name}/{index}/{key}': value for index, entry in state.items() for key, value in entry.items()}


def _load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f'{name}/'):
            _, index, entry = key.split('/')
            state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': state})


def save_state(learner: FPO, directory: Path, history: list[dict]) -> None:
    """Write everything a run needs to continue bit-equally."""
    learner.policy.save(directory)
    tensors = {f'critic/{name}': value for name, value in learner.critic.state_dict().items()}
    tensors |= _optimizer_tensors('actor_optimizer', learner.actor_optimizer)
    tensors |= _optimizer_tensors('critic_optimizer', learner.critic_optimizer)
    tensors['generator'] = learner.generator.get_state()
    for index, (states, targets) in enumerate(learner.value_data):
        tensors |= {f'value/{index}/states': states, f'value/{index}/targets': targets}
    for index, part in enumerate(learner.successes):
        tensors |= {f'success/{index}/states': part.states, f'success/{index}/chunks': part.chunks,
                    f'success/{index}/prefix_kv': part.prefix_kv}
    save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()},
              directory / 'learner.safetensors')
    document = {'iteration': learner.iteration, 'control_steps': learner.control_steps, 'history': history,
                'value': len(learner.value_data), 'success': len(learner.successes)}
    (directory / 'learner.json').write_text(json.dumps(document) + '\n')


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
        learner.critic.load_state_dict({name.removeprefix('critic/'): value for name, value in tensors.items()
                                        if name.startswith('critic/')})
        _load_optimizer('actor_optimizer', learner.actor_optimizer, tensors)
        _load_optimizer('critic_optimizer', learner.critic_optimizer, tensors)
        learner.generator.set_state(tensors['generator'])
        learner.value_data.extend((tensors[f'value/{i}/states'], tensors[f'value/{i}/targets'])
                                  for i in range(document['value']))
        learner.successes.extend(Decisions(tensors[f'success/{i}/states'], tensors[f'success/{i}/prefix_kv'],
                                           tensors[f'success/{i}/chunks']) for i in range(document['success']))
        learner.iteration, learner.control_steps = document['iteration'], document['control_steps']
        return document['history']
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = ' '.join(str(error).split())
        raise ContractError(f'{path}: not a readable checkpoint ({reason}); remove {directory} to go on from '
                            'the one before') from error


class CheckpointDirectory:
    """``<run>/checkpoints/000012`` and so on; only complete ones carry such a name.

    :param path: the directory that holds them.
    :param keep: how many of the newest are kept.
    """

    def __init__(self, path: Path, keep: int = 2) -> None:
        self.path, self.keep = path, keep
        path.mkdir(parents=True, exist_ok=True)

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        found = sorted(entry for entry in self.path.iterdir() if entry.name.isdigit())
        return found[-1] if found else None

    def save(self, learner: FPO, history: list[dict]) -> Path:
        """Write a checkpoint of the learner's iteration and drop the oldest."""
        final = self.path / f'{learner.iteration:06d}'
        staging = self.path / f'.{final.name}.{os.getpid()}'
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        save_state(learner, staging, history)
        for file in staging.iterdir():
            with open(file, 'rb') as handle:
                os.fsync(handle.fileno())
        if final.exists():
            shutil.rmtree(final)
        staging.rename(final)
        for entry in self.path.iterdir():
            if entry.name.startswith('.'):
                shutil.rmtree(entry)
        for old in sorted(entry for entry in self.path.iterdir())[:-self.keep]:
            shutil.rmtree(old)
        return final
