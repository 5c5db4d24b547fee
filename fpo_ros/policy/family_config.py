"""``config.json`` of openpi's and LeRobot's checkpoints of pi0: what of it makes our sizes and our contract, and back.

openpi examples/convert_jax_model_to_pytorch.py writes five entries; LeRobot policies/pi0/configuration_pi0.py every
setting. What we cannot follow is refused by its name rather than ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fpo_ros.policy.config import Pi0Config, preset
from fpo_ros.policy.contract import GRIPPER_COLUMNS, JOINT_NAMES, ContractError, PolicyContract
from fpo_ros.policy.families import OLD_PORT, FamilyError
from fpo_ros.policy.paligemma import MAX_TOKENS

#: Sizes by the names of both parts in openpi and LeRobot (openpi models/gemma.py).
VARIANTS = {('gemma_2b', 'gemma_300m'): 'pi0'}
#: Rows that openpi's examples execute of a chunk on real arms.
EXECUTED = 25
_IMAGES = 'observation.images.'
#: Settings of LeRobot that the network has no place for, and the only values it knows.
_FIXED = {'n_obs_steps': 1, 'min_period': 4e-3, 'max_period': 4.0, 'time_sampling_beta_alpha': 1.5,
          'time_sampling_beta_beta': 1.0, 'time_sampling_scale': 0.999, 'time_sampling_offset': 0.001,
          'use_peft': False}


@dataclass(frozen=True)
class FamilyConfig:
    """What a checkpoint says of itself.

    :param family: key of :data:`fpo_ros.policy.families.FAMILIES`.
    :param model: sizes of the network.
    :param contract: entries of :class:`fpo_ros.policy.contract.PolicyContract` that it decides.
    :param cameras: names, in the order the network sees them; empty where the checkpoint does not say.
    :param longest: prompt that it was trained with [tokens].
    """

    family: str
    model: Pi0Config
    contract: dict[str, Any] = field(default_factory=dict)
    cameras: tuple[str, ...] = ()
    longest: int = MAX_TOKENS


def read_config(directory: Path, model: Pi0Config | None = None) -> FamilyConfig:
    """Read a checkpoint's ``config.json``.

    :param directory: of the checkpoint.
    :param model: sizes, where the checkpoint's are no published ones.
    :raises FamilyError: for a file that is missing or damaged, of another model, or that asks for what we do not do.
    """
    path = directory / 'config.json'
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        read = _lerobot if 'type' in data else _openpi
        return read(data, model, path)
    except FamilyError:
        raise
    except KeyError as error:
        raise FamilyError(f'{path} has no {error.args[0]}: it is no configuration of pi0 by openpi or '
                          'LeRobot') from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FamilyError(f'{path} is no configuration of pi0 ({error}): copy it again') from error


def _openpi(data: dict[str, Any], model: Pi0Config | None, path: Path) -> FamilyConfig:
    model, width, horizon = _sizes(data, model, path), data['action_dim'], data['action_horizon']
    return FamilyConfig('openpi', replace(model, state_width=width), {
        'horizon': horizon, 'execute': min(EXECUTED, horizon), 'action_width': width, 'image_height': 224,
        'image_width': 224, 'units': 'pi'})


def _lerobot(data: dict[str, Any], model: Pi0Config | None, path: Path) -> FamilyConfig:
    if data['type'] != 'pi0':
        raise FamilyError(f"{path} is of a '{data['type']}', not of a pi0: only pi0 is read")
    if 'image_resolution' not in data and 'paligemma_variant' not in data:
        raise FamilyError(f'{path} {OLD_PORT}')
    for name, known in _FIXED.items():
        if data.get(name, known) != known:
            raise FamilyError(f'{path}: {name} is {data[name]!r}, and this pi0 knows {known!r} alone'
                              + (': merge the adapters first' if name == 'use_peft' else ''))
    mapped = data.get('normalization_mapping', {})
    if any(mapped.get(kind, 'MEAN_STD') != 'MEAN_STD' for kind in ('STATE', 'ACTION')):
        raise FamilyError(f'{path}: normalization_mapping is {mapped}, and pi0 knows mean and deviation alone')
    relative = bool(data.get('use_relative_actions', False))
    if relative:
        _check_relative(data, path)
    longest = data.get('tokenizer_max_length', MAX_TOKENS)
    if type(longest) is not int or longest < 1:
        raise FamilyError(f'{path}: tokenizer_max_length is {longest!r}, and a prompt has 1 token at least')
    height, width = data['image_resolution']
    # Pictures that LeRobot appends empty are masked: leaving them out is exact.
    cameras = tuple(name.removeprefix(_IMAGES) for name, feature in (data.get('input_features') or {}).items()
                    if feature['type'] == 'VISUAL' and not name.startswith(f'{_IMAGES}empty_camera_'))
    return FamilyConfig('lerobot', replace(_sizes(data, model, path), state_width=data['max_state_dim']), {
        'horizon': data['chunk_size'], 'execute': data['n_action_steps'], 'action_width': data['max_action_dim'],
        'image_height': height, 'image_width': width, 'flow_steps': data['num_inference_steps'],
        'relative': relative}, cameras, longest)


def _check_relative(data: dict[str, Any], path: Path) -> None:
    """Refuse what makes other columns absolute than the grippers: LeRobot tells them by their names."""
    excluded, names = data.get('relative_exclude_joints') or [], data.get('action_feature_names') or []
    absolute = tuple(column for column, name in enumerate(names)
                     if any(part.lower() in str(name).lower() for part in excluded))
    if len(names) != len(JOINT_NAMES) or absolute != GRIPPER_COLUMNS:
        raise FamilyError(f'{path}: its relative actions leave columns {list(absolute)} of {len(names)} absolute, and '
                          f'here {list(GRIPPER_COLUMNS)} of {len(JOINT_NAMES)}, the grippers, are')


def _sizes(data: dict[str, Any], model: Pi0Config | None, path: Path) -> Pi0Config:
    variants = data['paligemma_variant'], data['action_expert_variant']
    if model is not None:
        return model
    if variants not in VARIANTS:
        raise FamilyError(f'{path} is of sizes {" and ".join(variants)}, which are not known: known are '
                          f'{", ".join(" and ".join(known) for known in VARIANTS)}')
    return preset(VARIANTS[variants])


def config_of(model: Pi0Config, contract: PolicyContract, family: str) -> dict[str, Any]:
    """Return a ``config.json`` as a family's programs read it.

    :raises FamilyError: for sizes or a contract that the family has no words for.
    """
    names = dict(zip(('paligemma_variant', 'action_expert_variant'), _variants(model), strict=True))
    if not contract.prompt_tokens:
        raise FamilyError("the policy reads the bytes of its prompt, and the family's programs give it PaliGemma's "
                          'tokens: only a policy whose contract has prompt_tokens can be written')
    if family == 'openpi':
        if contract.units != 'pi':
            raise FamilyError("openpi's programs give a policy of ALOHA joints in pi's units: write one with units "
                              "'pi', or in the files of lerobot")
        if len(contract.prompt_tokens) > MAX_TOKENS:
            raise FamilyError(f"the prompt has {len(contract.prompt_tokens)} tokens, and openpi's programs cut it "
                              f'after {MAX_TOKENS}: shorten it')
        return {'action_dim': contract.action_dim, 'action_horizon': contract.horizon, **names, 'precision': 'float32'}
    if contract.units != 'cell':
        raise FamilyError("LeRobot's programs give a policy joints as they are: write one with units 'cell', or in the "
                          'files of openpi')
    return {
        'type': 'pi0', **names, 'dtype': 'float32', 'n_obs_steps': 1, 'chunk_size': contract.horizon,
        'n_action_steps': contract.execute, 'max_state_dim': model.state_width or contract.state_dim,
        'max_action_dim': contract.action_dim, 'num_inference_steps': contract.flow_steps,
        'tokenizer_max_length': longest_prompt(contract),
        'use_relative_actions': contract.relative, 'relative_exclude_joints': ['gripper'],
        'action_feature_names': list(JOINT_NAMES),
        'image_resolution': [contract.image_height, contract.image_width], 'empty_cameras': 0,
        'normalization_mapping': {'VISUAL': 'IDENTITY', 'STATE': 'MEAN_STD', 'ACTION': 'MEAN_STD'},
        'input_features': features_of(contract) | {'observation.state': {'type': 'STATE',
                                                                         'shape': [contract.state_dim]}},
        'output_features': {'action': {'type': 'ACTION', 'shape': [14]}},
    }


def longest_prompt(contract: PolicyContract) -> int:
    """Return how many tokens of a policy's prompt LeRobot's programs shall pass on."""
    return max(MAX_TOKENS, len(contract.prompt_tokens))


def _variants(model: Pi0Config) -> tuple[str, str]:
    """Return the names of both parts of a network.

    :raises FamilyError: for sizes without a name.
    """
    # What no size is: padding, which files say themselves, and what is merged or refused elsewhere.
    others = {'state_width': 0, 'latent_actor': '', 'language_lora': None, 'expert_lora': None}
    for variants, name in VARIANTS.items():
        if replace(preset(name), **others) == replace(model, **others):
            return variants
    raise FamilyError(f'a network with layers of {model.width} and {model.expert_width} numbers is none that openpi '
                      f'or LeRobot build: only those of {", ".join(" and ".join(known) for known in VARIANTS)} can be '
                      'written')


def features_of(contract: PolicyContract) -> dict[str, Any]:
    """Return the pictures of a contract as LeRobot describes them."""
    return {f'{_IMAGES}{name}': {'type': 'VISUAL', 'shape': [3, contract.image_height, contract.image_width]}
            for name in contract.cameras}


def camera_choice(text: str) -> tuple[str, ...] | dict[str, str]:
    """Read ``cam_high,cam_left_wrist`` as names, and ``cam_high=base_0_rgb,...`` as camera → picture of a checkpoint.

    Beside one with a picture, a name alone is bound to the picture of that name.

    :raises ContractError: for a name that is empty or given twice.
    """
    parts = [[word.strip() for word in part.split('=')] for part in text.split(',')]
    names = [words[0] for words in parts]
    for words in parts:
        if len(words) > 2 or not all(words):
            raise ContractError(f"'{'='.join(words)}' is no camera: write each as cam_high, or as cam_high=base_0_rgb, "
                                'and a comma between two')
        if names.count(words[0]) > 1:
            raise ContractError(f"camera '{words[0]}' is given twice")
    return {words[0]: words[-1] for words in parts} if any(len(words) == 2 for words in parts) else tuple(names)


def _bound(seen: tuple[str, ...], cameras: Mapping[str, str]) -> tuple[str, ...]:
    """Return cameras in the order of the pictures that they are bound to.

    :param seen: pictures of the checkpoint.
    :raises ContractError: where they are not bound one to one.
    """
    if not seen:
        raise ContractError('the checkpoint does not say which cameras it sees, and none can be bound to its pictures: '
                            'name yours alone, in the order base, left wrist, right wrist')
    found: dict[str, str] = {}
    for camera, picture in cameras.items():
        if picture not in seen:
            raise ContractError(f"camera '{camera}' is bound to '{picture}', and the checkpoint sees "
                                f'{", ".join(seen)}')
        if picture in found:
            raise ContractError(f"cameras '{found[picture]}' and '{camera}' are both bound to '{picture}': the "
                                f'checkpoint sees {", ".join(seen)}')
        found[picture] = camera
    missing = [picture for picture in seen if picture not in found]
    if missing:
        raise ContractError(f'no camera is bound to {", ".join(missing)}: bind one to each that the checkpoint sees')
    return tuple(found[picture] for picture in seen)


def contract_of(config: FamilyConfig, **given: Any) -> PolicyContract:
    """Return the contract of a checkpoint.

    :param given: entries that the user decides: cameras where the checkpoint does not say, or a mapping of cameras to
        those that it says; task, prompt.
    :raises ContractError: where cameras are missing, not those of the checkpoint, or not bound to them one to one.
    """
    cameras = given.pop('cameras', None) or ()
    if isinstance(cameras, Mapping):
        return _contract(config, _bound(config.cameras, cameras), given)
    cameras = tuple(cameras)
    if config.cameras and cameras and cameras != config.cameras:
        raise ContractError(f'the checkpoint sees {", ".join(config.cameras)} in this order, and '
                            f'{", ".join(cameras)} are given: leave cameras out, or bind yours to those, such as '
                            f'{cameras[0]}={config.cameras[0]}')
    if not config.cameras and not cameras:
        raise ContractError('the checkpoint does not say which cameras it sees: name them in the order base, left '
                            'wrist, right wrist, such as cam_high, cam_left_wrist, cam_right_wrist')
    return _contract(config, config.cameras or cameras, given)


def _contract(config: FamilyConfig, cameras: tuple[str, ...], given: dict[str, Any]) -> PolicyContract:
    return PolicyContract(**{**config.contract, 'observation': 'pixels', 'cameras': cameras, **given})
