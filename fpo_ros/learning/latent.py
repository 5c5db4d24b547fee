"""A policy with an actor over its start noise, from one without."""

from __future__ import annotations

from dataclasses import replace

import torch

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.pi0 import Pi0


def with_latent_actor(policy: FlowPolicy, kind: str = 'flow', seed: int = 0) -> FlowPolicy:
    """Return the same policy with an actor over latents that changes nothing yet (``'flow'``).

    :param kind: ``'flow'`` or ``'gaussian'``, see :mod:`fpo_ros.policy.latent`.
    :param seed: of the actor's initial weights; the global random state is left alone.
    :raises ContractError: when the policy has such an actor of another kind.
    """
    config = policy.model.config
    if config.latent_actor == kind:
        return policy
    if config.latent_actor:
        raise ContractError(f'the policy has a latent actor of kind "{config.latent_actor}": start from one without')
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = Pi0(replace(config, latent_actor=kind), policy.contract)
    missing, unexpected = model.load_state_dict(policy.model.state_dict(), strict=False)
    if unexpected or any(not name.startswith('latent_actor.') for name in missing):
        raise ContractError(f'the weights of the policy do not fit its configuration: {missing + unexpected}')
    return FlowPolicy(model, policy.stats)
