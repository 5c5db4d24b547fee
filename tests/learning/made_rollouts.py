"""Rollouts that are made up: every number is known, and no physics runs."""

from __future__ import annotations

import numpy as np
import torch

from fpo_ros.learning.rollout import Rollout, privileged_dim
from fpo_ros.policy.checkpoint import FlowPolicy


def rollout(policy: FlowPolicy, valid: np.ndarray, rewarded: np.ndarray | None = None, seed: int = 0) -> Rollout:
    """Return episodes of random numbers in the shapes of a policy.

    :param valid: (N, K) bool, decisions taken.
    :param rewarded: (N,) bool; no episode if None.
    """
    (count, decisions), contract, model = valid.shape, policy.contract, policy.model.config
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rewarded = np.zeros(count, bool) if rewarded is None else rewarded
    chunk = (contract.horizon, contract.action_dim)
    prefix = policy.prefix(None).detach() if not contract.cameras else drawn(
        model.depth, 2, count * decisions, model.num_kv_heads, 3, model.head_dim)
    return Rollout(
        states=drawn(count, decisions, contract.state_dim),
        privileged=drawn(count, decisions, privileged_dim(contract)).numpy(),
        prefix_kv=prefix,
        chunks=drawn(count, decisions, *chunk),
        paths=drawn(count, decisions, 0 if model.latent_actor == '' else 1, *chunk),
        valid=valid, success=rewarded, strict=rewarded, rewarded=rewarded, diverged=np.zeros(count, bool),
        max_stage=np.zeros(count, np.int8), steps=valid.sum(1) * contract.execute, gym_return=np.zeros(count))
