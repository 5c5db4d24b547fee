"""Supervised fine-tuning: conditional flow matching on demonstrations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.policy.adapted import FROZEN_PREFIX, TRAINABLES, check_trainable, trainable_parameters, with_adapters
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.continued import draw_decided
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.finite import check_finite
from fpo_ros.policy.flow import sample_time, squared_error
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.transforms import image_tensor


@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning.

    :param steps: optimiser steps.
    :param batch: training pairs per step.
    :param learning_rate: peak of the cosine schedule.
    :param warmup: steps of linear warm-up.
    :param weight_decay: of AdamW.
    :param trainable: what is trained of a policy that is gone on from, a key of
        :data:`fpo_ros.policy.adapted.TRAINABLES`.
    :param lora_rank: of adapters, where some are trained; openpi's if None.
    """

    steps: int = 800
    batch: int = 128
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 1e-4
    trainable: str = 'expert'
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        check_trainable(self.trainable, self.lora_rank)


def learning_rate_at(step: int, config: SFTConfig) -> float:
    """Return the learning rate: linear warm-up, then a cosine to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def descend(parameters: list[nn.Parameter], config: SFTConfig, loss_of: Callable[[], Tensor], what: str, advice: str,
            progress: Callable[[int, float], None] | None = None) -> None:
    """Take the steps of a supervised training.

    :param loss_of: draws a batch and returns its loss.
    :param what: name of a step, and ``advice`` what to do, for the error.
    :param progress: called with (steps done, mean loss of the newest steps) about fifty times.
    :raises NotFiniteError: when the loss stops being finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.95),
                                  weight_decay=config.weight_decay)
    report_every, recent = max(1, config.steps // 50), []
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group['lr'] = learning_rate_at(step, config)
        loss = loss_of()
        check_finite({'the loss': loss.detach()}, f'{what} {step + 1} of {config.steps}',
                     f'{advice} a lower learning rate than {config.learning_rate:g}')
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent.append(loss.item())
        if progress and ((step + 1) % report_every == 0 or step + 1 == config.steps):
            progress(step + 1, sum(recent) / len(recent))
            recent.clear()


def train(demonstrations: Demonstrations, contract: PolicyContract, model_config: Pi0Config, config: SFTConfig,
          seed: int, progress: Callable[[int, float], None] | None = None, network: Pi0 | None = None) -> FlowPolicy:
    """Train a policy from scratch, or the action expert of a network whose prefix stays as it is.

    :param network: of ``model_config`` and ``contract``, such as :func:`fpo_ros.learning.grounding.grounded` makes; it
        is trained in place, its prefix computed once for every frame.
    :param progress: called with (steps done, mean loss of the newest steps) about fifty times.
    :raises NotFiniteError: when the loss stops being finite.
    """
    torch.manual_seed(seed)
    policy = FlowPolicy(network or Pi0(model_config, contract), demonstrations.stats(contract))
    return _descended(policy, demonstrations, config, 'full' if network is None else 'expert', seed, progress)


def go_on(policy: FlowPolicy, demonstrations: Demonstrations, config: SFTConfig, seed: int,
          progress: Callable[[int, float], None] | None = None) -> FlowPolicy:
    """Train what ``config.trainable`` names of a policy, whose contract and statistics stay.

    :param policy: trained in place; adapters that it has, and that are not trained, are merged first.
    :param progress: as in :func:`train`.
    :returns: the policy, with its adapters beside its weights where some were trained.
    :raises ContractError: for adapters of a policy with an actor over its start noise.
    :raises NotFiniteError: when the loss stops being finite.
    """
    policy = with_adapters(policy, TRAINABLES[config.trainable], config.lora_rank, seed)
    return _descended(policy, demonstrations, config, config.trainable, seed, progress)


def _descended(policy: FlowPolicy, demonstrations: Demonstrations, config: SFTConfig, trainable: str, seed: int,
               progress: Callable[[int, float], None] | None) -> FlowPolicy:
    contract, generator = policy.contract, torch.Generator().manual_seed(seed)
    trained = trainable_parameters(policy.model, trainable)
    prefixes = None
    if trainable in FROZEN_PREFIX:
        with torch.no_grad():
            prefixes = policy.prefix(demonstrations.images)
    states = policy.known_states(demonstrations.states)
    chunks = policy.known_chunks(demonstrations.chunks, demonstrations.joints)

    def loss() -> Tensor:
        pick = torch.randint(len(states), (config.batch,), generator=generator)
        if prefixes is not None:
            rows = torch.as_tensor(demonstrations.frame)[pick] if contract.cameras else torch.zeros(1, dtype=torch.long)
            prefix = prefixes[:, :, rows]
        elif contract.cameras:
            images = torch.as_tensor(image_tensor(demonstrations.images[demonstrations.frame[pick.numpy()]]))
            prefix = policy.model.prefix(policy.tokens, images)
        else:
            prefix = policy.model.prefix(policy.tokens)
        actions = chunks[pick]
        noise = torch.randn(actions.shape, generator=generator)
        time = sample_time((config.batch,), generator)
        cache = policy.model.with_state(states[pick], prefix)
        decided = (draw_decided(config.batch, contract.horizon, contract.max_delay, generator)
                   if contract.max_delay else None)
        return squared_error(policy.model, actions, noise, time, cache, decided).mean()

    descend(trained, config, loss, 'step', 'check the demonstrations, or train with', progress)
    return policy
