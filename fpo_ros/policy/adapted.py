"""Policies with adapters: added, merged into the weights, and what is trained of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import LoraConfig, Pi0Config
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.lora import AdaptedLinear
from fpo_ros.policy.pi0 import Pi0

#: Parts that can have adapters, with the rank and alpha that openpi gives them (models/gemma.py).
PARTS = {'language': LoraConfig(16, 16.0), 'expert': LoraConfig(32, 32.0)}
#: What can be trained of a policy → the parts that get adapters.
TRAINABLES = {'full': (), 'expert': (), 'lora': ('language', 'expert'), 'lora_language': ('language',),
              'lora_expert': ('expert',)}
#: Those under which the prefix stays as it is.
FROZEN_PREFIX = ('expert', 'lora_expert')


def check_trainable(trainable: str, rank: int | None = None) -> None:
    """Refuse what is no trainable, or a rank that cannot be.

    :raises ValueError: naming what there is.
    """
    if trainable not in TRAINABLES:
        raise ValueError(f"unknown trainable '{trainable}': use {', '.join(TRAINABLES)}")
    if rank is not None and (rank < 1 or not TRAINABLES[trainable]):
        raise ValueError(f'adapters of rank {rank} cannot be: use 1 or more' if rank < 1 else
                         f"lora_rank {rank}: '{trainable}' trains no adapters, leave it out")


def trainable_parameters(model: Pi0, trainable: str) -> list[nn.Parameter]:
    """Freeze a network but for what is trained of it, and return that.

    ``'full'``: everything. ``'expert'``: the action expert and its projections. ``'latent'``: the actor over the start
    noise, which it must have. ``'lora'``: as openpi's configuration
    of both variants with adapters (models/pi0_config.py ``get_freeze_filter``), the adapters, the projections in and
    out of the expert, and the vision tower; weights, norms and token embedding of language model and expert are
    frozen. ``'lora_language'``: the same with a whole expert. ``'lora_expert'``: adapters of the expert and its
    projections; the prefix is frozen, too.

    :param model: with the adapters that :func:`with_adapters` gives it for this.
    """
    adapters = [parameter for module in model.modules() if isinstance(module, AdaptedLinear)
                for parameter in module.adapter.parameters()]
    projections = [parameter for module in (model.state_proj, model.action_in_proj, model.action_time_mlp_in,
                                            model.action_time_mlp_out, model.action_out_proj)
                   for parameter in module.parameters()]
    vision = list(model.vision_tower.parameters()) if model.contract.cameras else []
    actor = [] if model.latent_actor is None else list(model.latent_actor.parameters())
    found = {'full': list(model.parameters()), 'expert': model.expert_parameters(), 'latent': actor,
             'lora': [*adapters, *projections, *vision], 'lora_expert': [*adapters, *projections],
             'lora_language': [*adapters, *vision, *model.expert_parameters()]}[trainable]
    trained = {id(parameter) for parameter in found}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return found


def with_adapters(policy: FlowPolicy, parts: Collection[str], rank: int | None = None, seed: int = 0, *,
                  unchanged: bool = False) -> FlowPolicy:
    """Return the same policy with new adapters, or itself where it has those; others are merged first.

    All other weights are those of the policy, not copies: training one trains both. As in openpi, both factors of an
    adapter start as small random numbers, so the policy is not quite the same.

    :param parts: of :data:`PARTS`.
    :param rank: of the adapters, which alpha equals; those of :data:`PARTS` if None.
    :param seed: of the adapters; the global random state is left alone.
    :param unchanged: start from factors that add nothing: exactly the same policy.
    :raises ContractError: for a policy with an actor over its start noise.
    """
    if policy.model.latent_actor is not None:
        raise ContractError('adapters and an actor over the start noise cannot be trained together: start from the '
                            'policy without the actor')
    chosen = {part: (PARTS[part] if rank is None else LoraConfig(rank, float(rank))) if part in parts else None
              for part in PARTS}
    config = policy.model.config
    if (config.language_lora, config.expert_lora) == (chosen['language'], chosen['expert']):
        return policy
    policy = merged(policy)
    config = replace(policy.model.config, language_lora=chosen['language'], expert_lora=chosen['expert'])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = _built(config, policy.model)
    if unchanged:
        for module in model.modules():
            if isinstance(module, AdaptedLinear):
                nn.init.zeros_(module.adapter.up)
    return FlowPolicy(model, policy.stats)


def _built(config: Pi0Config, model: Pi0) -> Pi0:
    """Return a network of other adapters around the weights of one without; nothing is copied."""
    with torch.device('meta'):
        found = Pi0(config, model.contract)
    found.load_state_dict(model.state_dict(), strict=False, assign=True)
    for module in found.modules():
        if isinstance(module, AdaptedLinear):
            module.adapter.to_empty(device='cpu')
            module.adapter.reset_parameters()
    return found.train(model.training)


def merged_network(model: Pi0) -> Pi0:
    """Return a network whose weights hold what its adapters add; itself where it has none."""
    if model.config.language_lora is None and model.config.expert_lora is None:
        return model
    weights = model.state_dict()
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, AdaptedLinear):
                weights[f'{name}.weight'] = module.merged()
    with torch.device('meta'):
        found = Pi0(replace(model.config, language_lora=None, expert_lora=None), model.contract)
    found.load_state_dict({name: value for name, value in weights.items() if '.adapter.' not in name}, assign=True)
    return found.train(model.training)


def merged(policy: FlowPolicy) -> FlowPolicy:
    """Return a policy whose weights hold what its adapters add, equal up to rounding; itself where it has none."""
    model = merged_network(policy.model)
    return policy if model is policy.model else FlowPolicy(model, policy.stats)
