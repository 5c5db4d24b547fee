"""Weights of openpi and LeRobot on disk: read into a network without a second copy in memory, and written."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from fpo_ros.policy.adapted import merged_network
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.families import FamilyError, check, ours_of, theirs_of
from fpo_ros.policy.finite import check_finite
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.saving import saving, write_tensors

#: Types that a network can compute in.
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
#: What stays in single precision whatever the rest is in (openpi models_pytorch/gemma_pytorch.py, and its heads).
PRECISE = ('vision_tower.patch_embedding', 'vision_tower.position_embedding', 'input_layernorm',
            'post_attention_layernorm', 'expert_norm', 'language_norm', 'state_proj', 'action_')
#: What computes in a type of its own; attention joins all that is left.
_VISION = 'vision_tower.'
_INDEX = 'model.safetensors.index.json'


def files_of(path: Path) -> list[Path]:
    """Return the files that hold a network's weights.

    :param path: a safetensors file, or a directory with ``model.safetensors`` or the index of several files.
    :raises FamilyError: where there are none.
    """
    if path.is_file():
        return [path]
    if (path / _INDEX).exists():
        try:
            names = set(json.loads((path / _INDEX).read_text())['weight_map'].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FamilyError(f'{path / _INDEX} is no index of weights ({error}): copy it again') from error
        return [path / name for name in sorted(names)]
    if (path / 'model.safetensors').exists():
        return [path / 'model.safetensors']
    raise FamilyError(f'{path} holds no model.safetensors: name the file of weights, or the directory that '
                      'openpi or LeRobot wrote')


def read_pretrained(path: Path, config: Pi0Config, contract: PolicyContract, dtype: str | None = None) -> Pi0:
    """Return a network with the weights of a file; they stay mapped from it where their type fits.

    :param path: see :func:`files_of`.
    :param dtype: key of :data:`DTYPES`: what layers compute in, while norms, embeddings of patches and the projections
        in and out are in single precision. None: the widest type in the file, of the vision tower and of the rest
        apart: LeRobot's files in half precision have a vision tower in single.
    :raises FamilyError: for a file that is cut short or missing, of another model, or that does not fit the sizes.
    :raises NotFiniteError: for weights that are not finite.
    """
    with torch.device('meta'):
        model = Pi0(config, contract)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    files = files_of(path)
    tensors: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for file in files:
            try:
                opened = stack.enter_context(safe_open(file, 'pt'))
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            except (OSError, SafetensorError) as error:
                raise FamilyError(f'{file} cannot be read ({error}): it is missing or cut short, copy it '
                                  'again') from error
    family = check({name: tuple(value.shape) for name, value in tensors.items()}, shapes, config, str(path))
    ours = ours_of(tensors, config, family)
    ours = _typed(ours, None if dtype is None else DTYPES[dtype])
    check_finite(ours, str(path), 'copy the file again, or use another checkpoint')
    model.load_state_dict(ours, assign=True)
    return model.eval()


def _typed(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Return a network's tensors in the types that it computes in; see :func:`read_pretrained`."""
    found = {name: value.float() for name, value in tensors.items() if any(part in name for part in PRECISE)}
    for vision in (True, False):
        part = {name: value for name, value in tensors.items()
                if name not in found and name.startswith(_VISION) == vision}
        wide = dtype or reduce(torch.promote_types, {value.dtype for value in part.values()})
        found |= {name: value.to(wide) for name, value in part.items()}
    return found


def write_pretrained(model: Pi0, path: Path, family: str) -> None:
    """Write a network's weights as a family names them, what its adapters add among them.

    :param path: of the safetensors file.
    :param family: key of :data:`fpo_ros.policy.families.FAMILIES`.
    :raises FamilyError: for a network that is no whole pi0: one without cameras, or with a latent actor.
    :raises SaveError: when the disk refuses.
    """
    model = merged_network(model)
    if not model.contract.cameras or model.latent_actor is not None or model.config.steps_per_token != 1 \
            or model.config.predicts != 'velocity':
        raise FamilyError('only a pi0 with cameras, a token per step, velocities and no actor over its noise has a '
                          f'place in the files of {family}')
    with saving(path):
        write_tensors(path, theirs_of(model.state_dict(), model.config, family))
