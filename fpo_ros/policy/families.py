"""Weights of pi0 in the files of openpi and LeRobot: names, shapes, and an audit of what a file holds.

Names and shapes: openpi examples/convert_jax_model_to_pytorch.py and models_pytorch/gemma_pytorch.py; LeRobot
policies/pi0/modeling_pi0.py (its ``save_pretrained`` puts ``model.`` in front of the same names).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import ContractError

#: Who wrote a file → what stands in front of every name.
FAMILIES = {'openpi': '', 'lerobot': 'model.'}
_VLM = 'paligemma_with_expert.paligemma.'
_EXPERT = 'paligemma_with_expert.gemma_expert.'
_VISION = f'{_VLM}model.vision_tower.vision_model.'
_LANGUAGE = f'{_VLM}model.language_model.'
#: The output head of the language model, which is its token embedding; and the action expert's, which nothing uses.
TIED_HEAD, UNUSED_HEAD = f'{_VLM}lm_head.weight', f'{_EXPERT}lm_head.weight'
_EMBEDDING = f'{_LANGUAGE}embed_tokens.weight'
_GEMMA = ('input_layernorm', 'self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj',
          'post_attention_layernorm', 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj')
_HEADS = ('state_proj', 'action_in_proj', 'action_time_mlp_in', 'action_time_mlp_out', 'action_out_proj')
#: What is said of a checkpoint of another port by the same name.
OLD_PORT = ('was written by LeRobot before September 2025, whose "pi0" is another port with other names: use '
            'lerobot/pi0_base, or convert the original with openpi')
#: How many names an error lists.
_LISTED = 4


class FamilyError(ContractError):
    """A file of weights is not one of pi0's, or does not fit; the message names what is missing or unexpected."""


@dataclass(frozen=True)
class Entry:
    """A tensor of ours, and those of a file that make it.

    :param ours: name in :class:`fpo_ros.policy.pi0.Pi0`.
    :param theirs: names in the file, without what a family puts in front; several are joined along the first axis.
    """

    ours: str
    theirs: tuple[str, ...]


def entries(config: Pi0Config) -> list[Entry]:
    """Return what a whole pi0 with cameras consists of."""
    found = [Entry('embed_tokens.weight', (_EMBEDDING,)), Entry('language_norm.weight', (f'{_LANGUAGE}norm.weight',)),
             Entry('expert_norm.weight', (f'{_EXPERT}model.norm.weight',)),
             Entry('vision_tower.position_embedding', (f'{_VISION}embeddings.position_embedding.weight',))]
    for ours, theirs in (('patch_embedding', f'{_VISION}embeddings.patch_embedding'),
                         ('post_layernorm', f'{_VISION}post_layernorm'),
                         ('projector', f'{_VLM}model.multi_modal_projector.linear')):
        found += _affine(f'vision_tower.{ours}', theirs)
    for index in range(config.vision.depth):
        ours, theirs = f'vision_tower.layers.{index}.', f'{_VISION}encoder.layers.{index}.'
        for part, name in (('layer_norm1', 'layer_norm1'), ('layer_norm2', 'layer_norm2'),
                           ('out_proj', 'self_attn.out_proj'), ('fc1', 'mlp.fc1'), ('fc2', 'mlp.fc2')):
            found += _affine(ours + part, theirs + name)
        found += _affine(f'{ours}qkv', *(f'{theirs}self_attn.{part}_proj' for part in 'qkv'))
    for index in range(config.depth):
        for ours, theirs in (('language_layers', f'{_LANGUAGE}layers'), ('expert_layers', f'{_EXPERT}model.layers')):
            found += [Entry(f'{ours}.{index}.{part.removeprefix("self_attn.")}.weight',
                            (f'{theirs}.{index}.{part}.weight',)) for part in _GEMMA]
    for name in _HEADS:
        found += _affine(name, name)
    return found


def _affine(ours: str, *theirs: str) -> list[Entry]:
    return [Entry(f'{ours}.{part}', tuple(f'{name}.{part}' for name in theirs)) for part in ('weight', 'bias')]


def family_of(names: Iterable[str], where: str) -> str:
    """Return who wrote a file with these names, a key of :data:`FAMILIES`.

    :param where: the file, for messages.
    :raises FamilyError: for files of other models, saying which where it is known.
    """
    known = set(names)
    if any(name.startswith(('normalize_inputs.', 'unnormalize_outputs.', 'normalize_targets.'))
           or '.paligemma.language_model.model.' in name for name in known):
        raise FamilyError(f'{where} {OLD_PORT}')
    for family, front in FAMILIES.items():
        if f'{front}action_in_proj.weight' in known:
            if any('time_mlp_in' in name and 'action_time' not in name for name in known):
                raise FamilyError(f'{where} holds pi0.5, whose expert is another one: use weights of pi0')
            return family
    shown = ', '.join(sorted(known)[:_LISTED]) or 'nothing'
    raise FamilyError(f'{where} holds no pi0 of openpi or LeRobot: it begins with {shown}')


def check(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], config: Pi0Config,
          where: str) -> str:
    """Return the family of a file whose names and shapes are exactly those of a model.

    One of the two names of the token embedding may be missing, and the unused head of the expert may be there.

    :param shapes: of the file's tensors.
    :param wanted: of ours, by our names.
    :raises FamilyError: naming what is missing, unexpected, or of another shape.
    """
    family = family_of(shapes, where)
    front = FAMILIES[family]
    left = {name.removeprefix(front): tuple(shape) for name, shape in shapes.items() if name.startswith(front)}
    strange = [name for name in shapes if not name.startswith(front)]
    for name, other in ((TIED_HEAD, _EMBEDDING), (UNUSED_HEAD, None)):
        if name in left and (other is None or other in left):
            left.pop(name)
    missing, wrong = [], []
    for entry in entries(config):
        whole = wanted[entry.ours]
        expected = (whole[0] // len(entry.theirs), *whole[1:])
        for name in entry.theirs:
            shape = left.pop(TIED_HEAD if name == _EMBEDDING and TIED_HEAD in left else name, None)
            if shape is None:
                missing.append(front + name)
            elif shape != expected:
                wrong.append(f'{front}{name} is {list(shape)}, the model has {list(expected)}')
    unexpected = sorted([*strange, *(front + name for name in left)])
    problems = [_listed('missing', missing), _listed('unexpected', unexpected),
                _listed('of another shape', wrong)]
    if any(problems):
        raise FamilyError(f'{where} does not fit the model: {"; ".join(filter(None, problems))}')
    return family


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ''
    more = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
    return f'{what}: {", ".join(names[:_LISTED])}{more}'


def ours_of(tensors: Mapping[str, Tensor], config: Pi0Config, family: str) -> dict[str, Tensor]:
    """Return a file's tensors by our names; those that make one of ours are joined.

    :param tensors: checked by :func:`check`.
    """
    front = FAMILIES[family]

    def read(name: str) -> Tensor:
        return tensors[front + (TIED_HEAD if name == _EMBEDDING and front + name not in tensors else name)]

    return {entry.ours: read(entry.theirs[0]) if len(entry.theirs) == 1 else torch.cat(
        [read(name) for name in entry.theirs]) for entry in entries(config)}


def theirs_of(tensors: Mapping[str, Tensor], config: Pi0Config, family: str) -> dict[str, Tensor]:
    """Return our tensors by a family's names, with the heads that its loader asks for.

    The token embedding is given by the head's name, as safetensors keeps the first of two names of one tensor; the
    expert's head, which nothing uses, is zero.
    """
    front, found = FAMILIES[family], {}
    for entry in entries(config):
        parts = tensors[entry.ours].chunk(len(entry.theirs))
        found |= {front + (TIED_HEAD if name == _EMBEDDING else name): part
                  for name, part in zip(entry.theirs, parts, strict=True)}
    embedding = tensors['embed_tokens.weight']
    found[front + UNUSED_HEAD] = embedding.new_zeros(len(embedding), config.expert_width)
    return found
