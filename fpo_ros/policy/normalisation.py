"""Normalisation statistics of states and actions (numpy only)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, ContractError, PolicyContract

#: Columns that hardly move in the data are not blown up: smallest standard deviation used.
MIN_STD = 1e-2


@dataclass(frozen=True)
class NormStats:
    """Mean and standard deviation per column.

    :param state_mean: (state_dim,) float32.
    :param state_std: (state_dim,) float32, positive.
    :param action_mean: (14,) float32.
    :param action_std: (14,) float32, positive.
    """

    state_mean: np.ndarray
    state_std: np.ndarray
    action_mean: np.ndarray
    action_std: np.ndarray

    def __post_init__(self) -> None:
        for name in ('state_mean', 'state_std', 'action_mean', 'action_std'):
            value = np.asarray(getattr(self, name), np.float32)
            if value.ndim != 1 or not np.isfinite(value).all():
                raise ContractError(f'{name} must be a finite vector, got shape {value.shape}')
            if name.endswith('std') and (value <= 0).any():
                raise ContractError(f'{name} must be positive, got {value.min()}')
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, states: np.ndarray, actions: np.ndarray) -> NormStats:
        """Compute the statistics of (N, state_dim) states and (M, 14) actions."""
        return cls(states.mean(0), np.maximum(states.std(0), MIN_STD),
                   actions.mean(0), np.maximum(actions.std(0), MIN_STD))

    def check(self, contract: PolicyContract) -> None:
        """Refuse statistics whose lengths are not the contract's.

        :raises ContractError: naming the vector.
        """
        for name, size in (('state_mean', contract.state_dim), ('state_std', contract.state_dim),
                           ('action_mean', ACTION_DIM), ('action_std', ACTION_DIM)):
            if len(getattr(self, name)) != size:
                raise ContractError(f'{name} has {len(getattr(self, name))} entries, the contract wants {size}')

    def normalise_state(self, state: np.ndarray) -> np.ndarray:
        """Map (..., state_dim) states to zero mean and unit deviation."""
        return (state - self.state_mean) / self.state_std

    def normalise_action(self, action: np.ndarray, width: int = ACTION_DIM) -> np.ndarray:
        """Map (..., 14) actions to zero mean and unit deviation, with zeros behind them up to ``width`` entries."""
        normalised = (action - self.action_mean) / self.action_std
        return np.pad(normalised, [(0, 0)] * (normalised.ndim - 1) + [(0, width - normalised.shape[-1])])

    def unnormalise_action(self, action: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`normalise_action`, without what pads."""
        return action[..., :len(self.action_mean)] * self.action_std + self.action_mean

    def to_json(self) -> str:
        """Return the layout of openpi's ``norm_stats.json`` (openpi shared/normalize.py)."""
        entry = {
            'state': {'mean': self.state_mean.tolist(), 'std': self.state_std.tolist()},
            'actions': {'mean': self.action_mean.tolist(), 'std': self.action_std.tolist()},
        }
        return json.dumps({'norm_stats': entry}, indent=2) + '\n'

    @classmethod
    def from_json(cls, text: str, where: str | Path = 'norm_stats.json') -> NormStats:
        """Read what :meth:`to_json` wrote.

        :raises ContractError: naming the file and what is wrong with it.
        """
        try:
            stats = json.loads(text)['norm_stats']
            return cls(*(np.asarray(stats[key][part], np.float32)
                         for key in ('state', 'actions') for part in ('mean', 'std')))
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError(f'{where}: not normalisation statistics: {error}') from error
