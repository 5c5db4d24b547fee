"""FPO and its relatives by name: what each trains of a policy, and how it updates it."""

from __future__ import annotations

import torch

from fpo_ros.learning.chain import ChainFlow, MeanFlow, gaussian_policy
from fpo_ros.learning.config import CHAINS, FPOConfig
from fpo_ros.learning.imitation import Imitation
from fpo_ros.learning.latent import with_latent_actor
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.regression import AdvantageWeightedRegression, FilteredCloning
from fpo_ros.learning.soft_actor_critic import LatentSoftActorCritic
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import FlowPolicyOptimization, Update
from fpo_ros.policy.adapted import merged, with_adapters
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ACTION_DIM, ContractError
from fpo_ros.policy.flow import Sampling


def prepared(policy: FlowPolicy, config: FPOConfig) -> FlowPolicy:
    """Return a start policy with the parts that an algorithm and a placement need; itself where it has them.

    Adapters that are not trained are merged. New ones change nothing at first, so the first iteration measures the
    start policy.

    :raises ContractError: when the policy has an actor over latents that the settings do not train.
    """
    if config.placement != 'lora':
        policy = merged(policy)
    if config.algorithm == 'dsrl':
        return with_latent_actor(policy, 'gaussian')
    if config.placement != 'latent' and policy.model.latent_actor is not None:
        raise ContractError('the policy has a latent actor, which its expert cannot be trained under: train the actor '
                            'with placement latent or algorithm dsrl, or start from the policy without it')
    if config.algorithm in CHAINS and policy.contract.action_dim > ACTION_DIM:
        raise ContractError(f'{config.algorithm} knows no densities of padded actions, and the policy draws '
                            f'{policy.contract.action_dim} entries: use fpo')
    if config.placement == 'lora':
        policy = with_adapters(policy, ('expert',), config.lora_rank, unchanged=True)
    if config.algorithm == 'ppo':
        return gaussian_policy(policy)
    return with_latent_actor(policy, 'flow') if config.placement == 'latent' else policy


def flow_of(policy: FlowPolicy, config: FPOConfig, generator: torch.Generator) -> TrainedFlow:
    """Return what is trained of a prepared policy."""
    return (ChainFlow if config.algorithm in CHAINS else TrainedFlow)(policy, config, generator)


def imitating_flow_of(policy: FlowPolicy, config: FPOConfig, generator: torch.Generator) -> TrainedFlow:
    """Return what successes are imitated with: the flow as it acts."""
    return (MeanFlow if config.algorithm == 'ppo' else TrainedFlow)(policy, config, generator)


def start_sampling(config: FPOConfig) -> Sampling:
    """Return how a prepared start policy draws its chunks where its success is measured, as it will be evaluated."""
    return Sampling(noise_range=(0.0, 0.0)) if config.algorithm == 'ppo' else Sampling()


def update_of(flow: TrainedFlow, config: FPOConfig, imitation: Imitation, optimizer: torch.optim.Optimizer,
              seed: int, group: Group) -> Update:
    """Return the update of an algorithm, for the processes that train together."""
    if config.algorithm == 'awr':
        return AdvantageWeightedRegression(flow, config, optimizer, group)
    if config.algorithm == 'filtered_bc':
        return FilteredCloning(flow, config, imitation, optimizer, group)
    if config.algorithm == 'dsrl':
        return LatentSoftActorCritic(flow, config, optimizer, seed)
    return FlowPolicyOptimization(flow, config, imitation, optimizer, group)
