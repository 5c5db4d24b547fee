"""A learning problem of a second: a small network, a few control steps, success for turning the waist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

from fpo_ros.learning import rollout
from fpo_ros.learning.config import CriticConfig, FPOConfig
from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.learning.unused_settings import default_of, unused
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import Pi0Config, VisionConfig
from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.flow import Sampling
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.task import REST_STEPS, SUCCESS_STAGE

TINY = Pi0Config(
    width=16,
    mlp_dim=16,
    expert_width=16,
    expert_mlp_dim=32,
    depth=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    vocabulary_size=259,
    vision=VisionConfig(patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=16),
)
CONTRACT = PolicyContract(horizon=4, execute=3, flow_steps=4)
#: Control steps of an episode: rest, then four decisions, the last of which executes a single row.
STEPS = REST_STEPS + 10
#: The left waist beyond this angle counts as success [rad].
GOAL = 0.004
CONFIG = FPOConfig(
    episodes=4,
    max_steps=STEPS,
    reward='gym',
    pairs=2,
    epochs=2,
    minibatch=6,
    microbatch=4,
    critic=CriticConfig(steps=3),
    warmup=0,
    bc_batch=4,
    bc_pairs=2,
    learning_rate=3e-3,
    sampling=Sampling(),
    settling=0.0,
    patience=None,
    advantage_floor=0.0,
    restore_drop=0.15,
    bc_coefficient=0.3,
)


def policy(seed: int = 0, contract: PolicyContract = CONTRACT) -> FlowPolicy:
    """Return an untrained policy that wanders about the start pose; the global random state is left alone."""
    size = contract.state_dim
    objects = np.tile([0.1, 0.5, 0.05, 1, 0, 0, 0], contract.object_dim // 7)
    mean = np.concatenate([START_JOINTS, objects])[:size]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return FlowPolicy(
            Pi0(TINY, contract), NormStats(mean, np.full(size, 0.1), START_JOINTS, np.full(14, 0.02))
        )


def pairs(count: int = 6) -> Demonstrations:
    """Return recorded pairs that turn the waist."""
    rng = np.random.default_rng(0)
    states = policy().stats.state_mean + rng.normal(0, 0.05, (count, 21)).astype(np.float32)
    chunks = np.tile(START_JOINTS, (count, CONTRACT.horizon, 1)).astype(np.float32)
    chunks[..., 0] += 0.05
    return Demonstrations(states, chunks, None, np.arange(count), 1)


def start_noise(count: int, seed: int = 0, contract: PolicyContract = CONTRACT) -> Callable[[int], torch.Tensor]:
    """Return what draws the start noise of ``count`` episodes, one decision after the other."""
    generator = torch.Generator().manual_seed(seed)
    return lambda _: torch.randn(count, contract.horizon, contract.action_dim, generator=generator)


def config(**changes: object) -> FPOConfig:
    """Return tiny settings with changes; what nothing would come of then has its default, unless it is changed."""
    return _used(vars(CONFIG), changes)


def _used(settings: dict, changes: dict) -> FPOConfig:
    given = {**settings, **changes}
    for name in unused(SimpleNamespace(**given)):
        group, _, own = name.rpartition('.')
        if (group or own) not in changes:
            default = default_of(FPOConfig, name)
            given[group or own] = replace(given[group], **{own: default}) if group else default
    return FPOConfig(**given)


def short_episodes() -> mock._patch:
    """Cap episodes at ``STEPS``."""
    return mock.patch.object(rollout, 'MAX_STEPS', STEPS)


def waist_reward(goal: float = GOAL) -> mock._patch:
    """Let success depend on the left waist instead of the cube."""
    plain = BatchedWorlds.step

    def step(worlds: BatchedWorlds, targets: np.ndarray, where: np.ndarray | None = None):
        outcome = plain(worlds, targets, where)
        hit = outcome.joints[..., 0] > goal
        return replace(outcome, stage=np.where(hit, SUCCESS_STAGE, 0).astype(np.int8), strict=hit)

    return mock.patch.object(BatchedWorlds, 'step', step)


def weights(trained: FlowPolicy) -> dict[str, torch.Tensor]:
    """Return a copy of all weights."""
    return {name: value.clone() for name, value in trained.model.state_dict().items()}


def rates_of_training(iterations: int, start: FlowPolicy | None = None, goal: float = 0.006,
                      **changes: object) -> list[float]:
    """Train by success alone, nothing imitated unless changes say so; return the success of each iteration."""
    settings = _used(vars(CONFIG) | {'episodes': 32, 'pairs': 4, 'epochs': 4, 'minibatch': 64, 'microbatch': 64,
                                     'critic': CriticConfig(steps=20), 'warmup': 1, 'bc_coefficient': 0.0}, changes)
    learner = FPO(start or policy(), settings)
    with short_episodes(), waist_reward(goal), open_pool(Local(unit=32)) as pool:
        return [learner.run_iteration(pool)['success_rate'] for _ in range(iterations)]
