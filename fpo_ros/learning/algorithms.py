"""FPO and its relatives by name: what each trains of a policy, and how it updates it."""

from __future__ import annotations

import torch

from fpo_ros.learning.chain import ChainFlow, gaussian_policy
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.imitation import Imitation
from fpo_ros.learning.latent import with_latent_actor
from fpo_ros.learning.soft_actor_critic import LatentSoftActorCritic
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import AdvantageWeightedRegression, FilteredCloning, FlowPolicyOptimization, Update
from fpo_ros.policy.checkpoint import FlowPolicy

#: Algorithms whose ratio is that of Gaussian steps.
_CHAINS = ('reinflow', 'ppo')


def prepared(policy: FlowPolicy, config: FPOConfig) -> FlowPolicy:
    """Return a start policy with the parts that an algorithm and a placement need; itself where it has them."""
    if config.algorithm == 'dsrl':
        return with_latent_actor(policy, 'gaussian')
    if config.algorithm == 'ppo':
        return gaussian_policy(policy)
    return with_latent_actor(policy, 'flow') if config.placement == 'latent' else policy


def flow_of(policy: FlowPolicy, config: FPOConfig, generator: torch.Generator) -> TrainedFlow:
    """Return what is trained of a prepared policy."""
    return (ChainFlow if config.algorithm in _CHAINS else TrainedFlow)(policy, config, generator)


def update_of(flow: TrainedFlow, config: FPOConfig, imitation: Imitation, optimizer: torch.optim.Optimizer,
              seed: int) -> Update:
    """Return the update of an algorithm."""
    if config.algorithm == 'awr':
        return AdvantageWeightedRegression(flow, config, optimizer)
    if config.algorithm == 'filtered_bc':
        return FilteredCloning(flow, config, imitation, optimizer)
    if config.algorithm == 'dsrl':
        return LatentSoftActorCritic(flow, config, optimizer, seed)
    return FlowPolicyOptimization(flow, config, imitation, optimizer)
