"""Normalisation statistics as openpi and LeRobot keep them beside their weights.

openpi shared/normalize.py and transforms.py: ``norm_stats.json``, (x - mean) / (std + 1e-6) both ways. LeRobot
processor/normalize_processor.py: safetensors named by the processors' JSON, (x - mean) / (std + 1e-8) on the way in and
x std + mean on the way out, in which a feature without statistics would pass through as it is: here that is an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fpo_ros.policy.contract import ACTION_DIM, JOINT_NAMES, ContractError, PolicyContract
from fpo_ros.policy.normalisation import NormStats

OPENPI_EPSILON, LEROBOT_EPSILON = 1e-6, 1e-8
#: A column that moves less than this would be blown up by what it is divided by [its unit].
LEAST_STD = 1e-4
_FILE = 'norm_stats.json'
_PREPROCESSOR, _POSTPROCESSOR = 'policy_preprocessor.json', 'policy_postprocessor.json'


class StatisticsError(ContractError):
    """Statistics are missing, cut short or of another robot; the message names the file and what to do."""


def read_openpi(path: Path, contract: PolicyContract, least_std: float | None = None) -> NormStats:
    """Read openpi's statistics.

    :param path: ``norm_stats.json``, or a directory with one or with a single ``assets/<asset>/norm_stats.json``.
    :param least_std: floor of the deviations; those below :data:`LEAST_STD` are refused if None.
    :raises StatisticsError: naming what is missing or unfit.
    """
    path = _openpi_file(path)
    try:
        stats = json.loads(path.read_text(encoding='utf-8'))['norm_stats']
        found = [np.asarray(stats[key][part], np.float64) for key in ('state', 'actions') for part in ('mean', 'std')]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StatisticsError(f'{path} holds no statistics of pi0 ({_said(error)}): copy it again from the checkpoint, '
                              'or compute it anew with openpi scripts/compute_norm_stats.py') from error
    return _stats(found, contract, OPENPI_EPSILON, OPENPI_EPSILON, least_std, path)


def read_lerobot(directory: Path, contract: PolicyContract, least_std: float | None = None) -> NormStats:
    """Read LeRobot's statistics: of states from the preprocessor, of actions from the postprocessor.

    :param directory: with ``policy_preprocessor.json``, ``policy_postprocessor.json`` and the files they name.
    :param least_std: see :func:`read_openpi`.
    :raises StatisticsError: naming what is missing or unfit.
    """
    found = [*_feature(directory / _PREPROCESSOR, 'normalizer_processor', 'observation.state'),
             *_feature(directory / _POSTPROCESSOR, 'unnormalizer_processor', 'action')]
    return _stats(found, contract, LEROBOT_EPSILON, 0.0, least_std, directory)


def write_openpi(stats: NormStats, path: Path) -> None:
    """Write statistics as openpi reads them: what it adds to deviations is taken off."""
    plain = NormStats(stats.state_mean, np.maximum(stats.state_std - OPENPI_EPSILON, OPENPI_EPSILON),
                      stats.action_mean, np.maximum(stats.action_std - OPENPI_EPSILON, OPENPI_EPSILON))
    path.write_text(plain.to_json(), encoding='utf-8')


def _openpi_file(path: Path) -> Path:
    """Return the file of statistics that a path means."""
    if path.is_file():
        return path
    found = [path / _FILE] if (path / _FILE).is_file() else sorted(path.glob(f'assets/*/{_FILE}'))
    if len(found) == 1:
        return found[0]
    if found:
        names = ', '.join(one.parent.name for one in found)
        raise StatisticsError(f'{path} holds statistics of several robots, {names}: name the file of yours (trossen is '
                              'ALOHA)')
    raise StatisticsError(f'{path} holds no {_FILE}: a policy without statistics cannot be used, copy the assets of '
                          'the checkpoint, too')


def _feature(path: Path, step: str, feature: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of a feature, from the file that a processor's step names."""
    try:
        steps = json.loads(path.read_text(encoding='utf-8'))['steps']
        chosen = [one for one in steps if one['registry_name'] == step]
        named = [path.parent / one['state_file'] for one in chosen if one.get('state_file')]
        mode = next((_mode(one, feature) for one in chosen), 'MEAN_STD')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StatisticsError(f'{path} is no processor of LeRobot ({_said(error)}): copy the checkpoint '
                              'again') from error
    if mode != 'MEAN_STD':
        raise StatisticsError(f'{path}: {feature} is normalised by {mode}, and in pi0 by mean and deviation: is this '
                              'pi0.5?')
    if not named:
        raise StatisticsError(f'{path} names no file of statistics: LeRobot would pass {feature} through as it is, '
                              'which no trained policy expects; copy the checkpoint again')
    try:
        tensors = load_file(named[0])
    except (OSError, SafetensorError) as error:
        raise StatisticsError(f'{named[0]} cannot be read ({error}): copy it again') from error
    try:
        return tuple(np.asarray(tensors[f'{feature}.{part}'], np.float64) for part in ('mean', 'std'))
    except KeyError as error:
        raise StatisticsError(f'{named[0]} holds no {error.args[0]}, only {", ".join(sorted(tensors)[:6])}: LeRobot '
                              f'would pass {feature} through as it is, which no trained policy expects') from error


def _mode(step: dict[str, Any], feature: str) -> str:
    """Return how a step normalises a feature, by the kind of the feature."""
    kind = 'ACTION' if feature == 'action' else 'STATE'
    return step.get('config', {}).get('norm_map', {}).get(kind, 'IDENTITY')


def _stats(found: list[np.ndarray], contract: PolicyContract, state_epsilon: float, action_epsilon: float,
           least_std: float | None, where: Path) -> NormStats:
    """Return statistics of what the contract has, those of padding cut off."""
    parts = []
    for index, (name, size) in enumerate((('state', contract.state_dim), ('actions', ACTION_DIM))):
        mean, std = found[2 * index:2 * index + 2]
        if mean.ndim != 1 or mean.shape != std.shape or len(mean) < size:
            raise StatisticsError(f'{where}: {name} has means of shape {mean.shape} and deviations of shape '
                                  f'{std.shape}, and {size} entries are needed: these are of another robot')
        mean, std = mean[:size], std[:size]
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise StatisticsError(f'{where}: {name} has a mean or deviation that is not finite: compute them anew')
        still = np.flatnonzero(std < LEAST_STD)
        if len(still) and least_std is None:
            names = ', '.join(JOINT_NAMES[column] if column < ACTION_DIM else str(column) for column in still[:4])
            raise StatisticsError(f'{where}: {name} hardly moved in {names} (deviation {std[still[0]]:.2g}), and the '
                                  'smallest motion would be blown up: give a floor for deviations, such as 0.01, or '
                                  'record data that moves it')
        parts += [mean, np.maximum(std, least_std or 0.0) + (state_epsilon, action_epsilon)[index]]
    return NormStats(*parts)


def _said(error: Exception) -> str:
    return f'no {error.args[0]}' if isinstance(error, KeyError) else str(error)
