"""What travels between this process and a worker: bytes of files, plain arrays, numbers and words."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import mujoco
import numpy as np
import torch
from torch import Tensor

import fpo_ros
from fpo_ros.learning.rollout import Rollout
from fpo_ros.policy.checkpoint import FlowPolicy

#: Packages whose version decides what an episode looks like; fpo_ros itself comes first.
_DECISIVE = ('numpy', 'gym-aloha')


def policy_message(policy: FlowPolicy) -> dict[str, np.ndarray]:
    """Return the files that ``FlowPolicy.save`` writes, as (bytes,) uint8 arrays by name.

    :raises NotFiniteError: for weights that are not finite.
    """
    with tempfile.TemporaryDirectory() as directory:
        policy.save(Path(directory))
        return {path.name: np.fromfile(path, np.uint8) for path in sorted(Path(directory).iterdir())}


def policy_of(message: dict[str, np.ndarray]) -> FlowPolicy:
    """Return the policy of a message.

    :raises ContractError: for files that are no policy.
    """
    with tempfile.TemporaryDirectory() as directory:
        for name, content in message.items():
            content.tofile(Path(directory) / name)
        return FlowPolicy.load(Path(directory))


def rollout_message(rollout: Rollout) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays of a rollout by name, those that are tensors apart."""
    values = {field.name: getattr(rollout, field.name) for field in fields(Rollout)}
    return {'tensors': {name: value.numpy() for name, value in values.items() if isinstance(value, Tensor)},
            'arrays': {name: value for name, value in values.items() if not isinstance(value, Tensor)}}


def rollout_of(message: dict[str, dict[str, np.ndarray]]) -> Rollout:
    """Return a rollout of its own memory; a message from Ray can only be read."""
    return Rollout(**{name: torch.tensor(value) for name, value in message['tensors'].items()},
                   **{name: value.copy() for name, value in message['arrays'].items()})


def versions() -> dict[str, str]:
    """Return the versions that must be the same wherever episodes are run."""
    return {'fpo_ros': fpo_ros.__version__, 'mujoco': mujoco.__version__, 'torch': torch.__version__,
            **{name: metadata.version(name) for name in _DECISIVE}}


def processor() -> str:
    """Return what kind of arithmetic this machine does: architecture and torch's vector instructions."""
    return f'{platform.machine()} {torch.backends.cpu.get_cpu_capability()}'


def description() -> dict:
    """Return host, process, processor and versions of this process."""
    return {'host': socket.gethostname(), 'pid': os.getpid(), 'processor': processor(), 'versions': versions()}
