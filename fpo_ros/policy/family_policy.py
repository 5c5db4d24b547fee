"""Whole checkpoints of openpi and LeRobot: weights, configuration, statistics and prompt, as a policy and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import JOINT_NAMES
from fpo_ros.policy.family_config import config_of, contract_of, features_of, longest_prompt, read_config
from fpo_ros.policy.paligemma import BEGIN, paligemma_tokens
from fpo_ros.policy.pretrained import read_pretrained, write_pretrained
from fpo_ros.policy.saving import saving
from fpo_ros.policy.statistics import read_lerobot, read_openpi, write_openpi


def read_policy(directory: Path, tokenizer: Path, *, model: Pi0Config | None = None, statistics: Path | None = None,
                least_std: float | None = None, dtype: str | None = None, **given: Any) -> FlowPolicy:
    """Read a checkpoint that openpi's converter or LeRobot's ``save_pretrained`` wrote.

    :param directory: with ``config.json``, ``model.safetensors`` and statistics.
    :param tokenizer: ``paligemma_tokenizer.model``.
    :param model: sizes, where they are not the published ones.
    :param statistics: where openpi's statistics are, if not with the checkpoint.
    :param least_std: floor of deviations; those near zero are refused if None.
    :param dtype: see :func:`fpo_ros.policy.pretrained.read_pretrained`.
    :param given: entries of the contract: ``task``, ``prompt``, ``cameras``, ``units``, ``relative``, ``execute``.
        ``cameras`` may map each camera to the one of the checkpoint's that it stands for.
    :raises ContractError: naming what is missing, damaged or does not fit.
    """
    config = read_config(directory, model)
    plain = contract_of(config, **{**given, 'prompt_tokens': (BEGIN,)})  # its prompt is not split yet
    tokens = paligemma_tokens(plain.prompt, tokenizer, config.model.vocabulary_size, config.longest)
    contract = contract_of(config, **{**given, 'prompt_tokens': tokens})
    read = read_openpi if config.family == 'openpi' else read_lerobot
    stats = read(statistics or directory, contract, least_std)
    return FlowPolicy(read_pretrained(directory, config.model, contract, dtype), stats)


def write_policy(policy: FlowPolicy, directory: Path, family: str) -> None:
    """Write a policy as a family's programs read it.

    :param directory: made if missing.
    :param family: key of :data:`fpo_ros.policy.families.FAMILIES`.
    :raises FamilyError: for a policy that has no place in the family's files; nothing is written then.
    :raises SaveError: when the disk refuses.
    """
    contract, stats = policy.contract, policy.stats
    config = config_of(policy.model.config, contract, family)
    with saving(directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_pretrained(policy.model, directory / 'model.safetensors', family)
        _write_json(directory / 'config.json', config)
        if family == 'openpi':
            assets = directory / 'assets' / 'trossen'
            assets.mkdir(parents=True, exist_ok=True)
            write_openpi(stats, assets / 'norm_stats.json')
            return
        for name, steps in (('policy_preprocessor', _preprocessor(policy)),
                            ('policy_postprocessor', _postprocessor(policy))):
            for index, step in enumerate(steps):
                if 'state_file' in step:
                    step['state_file'] = f'{name}_step_{index}_{step["registry_name"]}.safetensors'
                    save_file({'observation.state.mean': stats.state_mean, 'observation.state.std': stats.state_std,
                               'action.mean': stats.action_mean, 'action.std': stats.action_std},
                              directory / step['state_file'])
            _write_json(directory / f'{name}.json', {'name': name, 'steps': steps})


def _preprocessor(policy: FlowPolicy) -> list[dict[str, Any]]:
    """Return the steps of LeRobot policies/pi0/processor_pi0.py on the way in."""
    return [
        {'registry_name': 'rename_observations_processor', 'config': {'rename_map': {}}},
        {'registry_name': 'to_batch_processor', 'config': {}},
        {'registry_name': 'pi0_new_line_processor', 'config': {}},
        {'registry_name': 'tokenizer_processor', 'config': {
            'max_length': longest_prompt(policy.contract), 'task_key': 'task', 'padding_side': 'right',
            'padding': 'max_length', 'truncation': True, 'tokenizer_name': 'google/paligemma-3b-pt-224'}},
        {'registry_name': 'device_processor', 'config': {'device': 'cpu', 'float_dtype': None}},
        {'registry_name': 'relative_actions_processor', 'config': {
            'enabled': policy.contract.relative, 'exclude_joints': ['gripper'],
            'action_names': list(JOINT_NAMES)}},
        _normaliser(policy, 'normalizer_processor', ('VISUAL', 'STATE', 'ACTION')),
    ]


def _postprocessor(policy: FlowPolicy) -> list[dict[str, Any]]:
    """Return the steps on the way out."""
    return [
        _normaliser(policy, 'unnormalizer_processor', ('ACTION',)),
        {'registry_name': 'absolute_actions_processor', 'config': {'enabled': policy.contract.relative}},
        {'registry_name': 'device_processor', 'config': {'device': 'cpu', 'float_dtype': None}},
    ]


def _normaliser(policy: FlowPolicy, name: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    features = {'observation.state': {'type': 'STATE', 'shape': [policy.contract.state_dim]},
                'action': {'type': 'ACTION', 'shape': [len(policy.stats.action_mean)]}, **features_of(policy.contract)}
    return {'registry_name': name, 'state_file': '', 'config': {
        'eps': 1e-8, 'features': {key: one for key, one in features.items() if one['type'] in kinds},
        'norm_map': {'VISUAL': 'IDENTITY', 'STATE': 'MEAN_STD', 'ACTION': 'MEAN_STD'}}}


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + '\n', encoding='utf-8')
