"""Optimiser states as tensors by name, for checkpoints without pickle."""

from __future__ import annotations

import torch
from torch import Tensor


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as ``<name>/<parameter>/<entry>`` → tensor."""
    state = optimizer.state_dict()['state']
    return {f'{name}/{index}/{key}': value for index, entry in state.items() for key, value in entry.items()}


def load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what :func:`optimizer_tensors` returned; KeyError or ValueError where it does not fit."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f'{name}/'):
            _, index, entry = key.split('/')
            state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': state})


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name begins so, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
