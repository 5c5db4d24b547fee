"""One iteration of Flow Policy Optimization: roll out, estimate advantages, update the action expert."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fpo_ros.learning.advantages import explained_variance, gae, standardise
from fpo_ros.learning.critic import Critic, fit
from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.objective import ObjectiveConfig, log_ratios, pair_losses, surrogate
from fpo_ros.learning.rollout import Rollout, collect
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.flow import squared_error
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.task import HELD_OUT_SEED


@dataclass(frozen=True)
class FPOConfig:
    """Settings of fine-tuning.

    :param episodes: episodes per iteration.
    :param pairs: stored (t, noise) pairs per decision.
    :param epochs: passes over the decisions of an iteration.
    :param minibatch: decisions per optimiser step.
    :param microbatch: decisions per forward pass; gradients accumulate over a minibatch.
    :param learning_rate: of the action expert, decayed linearly to zero within every iteration.
    :param gamma: discount per decision.
    :param lam: lambda of GAE.
    :param critic_learning_rate: of the value function.
    :param critic_steps: optimiser steps of the value function per iteration.
    :param critic_history: iterations whose returns train the value function.
    :param warmup: iterations that train the value function alone.
    :param bc_coefficient: weight of flow matching on the policy's own recent successes.
    :param bc_history: iterations whose successes are kept.
    :param bc_batch: successful decisions per minibatch.
    :param bc_pairs: fresh pairs per successful decision.
    :param max_grad_norm: gradient clipping.
    :param objective: ratio and trust region.
    """

    episodes: int = 128
    pairs: int = 8
    epochs: int = 4
    minibatch: int = 256
    microbatch: int = 64
    learning_rate: float = 1e-4
    gamma: float = 0.99
    lam: float = 0.95
    critic_learning_rate: float = 1e-3
    critic_steps: int = 200
    critic_history: int = 3
    warmup: int = 1
    bc_coefficient: float = 0.3
    bc_history: int = 5
    bc_batch: int = 128
    bc_pairs: int = 4
    max_grad_norm: float = 1.0
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)


@dataclass
class Decisions:
    """Flattened decisions: what an update needs.

    :param states: (M, state_dim). :param prefix_kv: batch axis M or 1. :param chunks: (M, H, action_dim).
    """

    states: Tensor
    prefix_kv: Tensor
    chunks: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def cache(self, policy: FlowPolicy, rows: Tensor) -> Tensor:
        """Return the attention cache of some decisions."""
        prefix = self.prefix_kv if self.prefix_kv.shape[2] == 1 else self.prefix_kv[:, :, rows]
        return policy.model.with_state(self.states[rows], prefix)


def flatten(rollout: Rollout, where: np.ndarray) -> Decisions:
    """Return the decisions at (N, K) bool ``where``."""
    mask = torch.as_tensor(where)
    prefix = rollout.prefix_kv
    if prefix.shape[2] > 1:
        prefix = prefix[:, :, mask.flatten()]
    return Decisions(rollout.states[:, :-1][mask], prefix, rollout.chunks[mask])


def decisions_of(demonstrations: Demonstrations, policy: FlowPolicy) -> Decisions:
    """Return recorded pairs as decisions, their prefix computed once."""
    stats, images = policy.stats, demonstrations.images
    with torch.no_grad():
        prefix = policy.prefix(None if images is None else images[demonstrations.frame])
    return Decisions(torch.as_tensor(stats.normalise_state(demonstrations.states), dtype=torch.float32), prefix,
                     torch.as_tensor(stats.normalise_action(demonstrations.chunks), dtype=torch.float32))


class FPO:
    """The learner: policy, critic, optimisers, buffers and random state.

    :param policy: start policy; its prefix stays frozen, its action expert is trained in place.
    :param config: settings.
    :param seed: of scenes, noise and minibatches.
    :param demonstrations: recorded pairs of successful episodes, imitated beside the policy's own successes.
    """

    def __init__(self, policy: FlowPolicy, config: FPOConfig, seed: int = 0,
                 demonstrations: Demonstrations | None = None) -> None:
        self.policy, self.config, self.seed = policy, config, seed
        self.parameters = policy.model.expert_parameters()
        trained = {id(parameter) for parameter in self.parameters}
        for parameter in policy.model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self.critic = Critic(22)
        self.actor_optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=(0.9, 0.99))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.critic_learning_rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.iteration = 0
        self.control_steps = 0
        self.value_data: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.critic_history)
        self.successes: deque[Decisions] = deque(maxlen=config.bc_history)
        self.demonstrations = None if demonstrations is None else decisions_of(demonstrations, policy)

    def seeds(self) -> np.ndarray:
        """Return this iteration's scene seeds, all below the held-out range."""
        count = self.config.episodes
        first = (self.seed * 100_003 + self.iteration * count) % (HELD_OUT_SEED - count)
        return first + np.arange(count)

    def run_iteration(self, worlds: BatchedWorlds, renderer: object | None = None,
                      on_phase: Callable[[str], None] | None = None) -> dict[str, float]:
        """Collect episodes and update once; return the metrics of the iteration."""
        phase = on_phase or (lambda _: None)
        started = time.monotonic()
        phase('rolling out')
        rollout = collect(self.policy, worlds, self.seeds(), self.generator, renderer=renderer)
        rolled = time.monotonic()
        advantage, metrics = self._advantages(rollout)
        self.successes.append(flatten(rollout, rollout.valid & rollout.success[:, None]))
        if self.iteration >= self.config.warmup:
            phase('updating')
            metrics |= self._update(flatten(rollout, rollout.valid), advantage)
        self.iteration += 1
        self.control_steps += rollout.control_steps
        wall = time.monotonic() - started
        return {
            'iteration': self.iteration, 'control_steps': self.control_steps,
            'success_rate': float(rollout.success.mean()), 'strict_rate': float(rollout.strict.mean()),
            'touched_rate': float((rollout.max_stage > 0).mean()),
            'mean_return': float((rollout.success * self.config.gamma ** (rollout.valid.sum(1) - 1)).mean()),
            **metrics, 'rollout_s': rolled - started, 'update_s': wall - (rolled - started),
            'steps_per_s': rollout.control_steps / wall,
        }

    def _advantages(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """Fit the critic and return standardised (M,) advantages of the valid decisions."""
        config, valid = self.config, rollout.valid
        privileged = torch.as_tensor(rollout.privileged)
        last = valid.sum(1) - 1
        reward = np.zeros(valid.shape)
        reward[np.arange(len(last)), last] = rollout.success
        terminated = reward > 0
        if self.iteration == 0:
            self.critic.set_normalisation(rollout.privileged[:, :-1][valid])
            torch.nn.init.constant_(self.critic.net[-1].bias, float(rollout.success.mean()))
        with torch.no_grad():
            value = self.critic(privileged).numpy().astype(np.float64)
        advantage, target = gae(reward, value, valid, terminated, config.gamma, config.lam)
        explained = explained_variance(target[valid], value[:, :-1][valid])
        self.value_data.append((privileged[:, :-1][torch.as_tensor(valid)],
                                torch.as_tensor(target[valid], dtype=torch.float32)))
        states, targets = (torch.cat(parts) for parts in zip(*self.value_data, strict=True))
        error = fit(self.critic, self.critic_optimizer, states, targets, config.critic_steps, 256, self.generator)
        flat = advantage[valid]
        return (torch.as_tensor(standardise(flat), dtype=torch.float32),
                {'explained_variance': explained, 'value_loss': error, 'advantage_std': float(flat.std())})

    def _pairs(self, count: int, pairs: int, stratified: bool) -> Tensor:
        """Return (count, pairs) flow times on the grid of the sampler."""
        steps = self.policy.contract.flow_steps
        u = torch.rand(count, pairs, generator=self.generator)
        if stratified:
            u = (torch.arange(pairs) + u) / pairs
        return (torch.floor(u * steps) + 1).clamp(max=steps) / steps

    def _losses(self, decisions: Decisions, rows: Tensor, time_: Tensor, noise: Tensor) -> Tensor:
        """Return (rows, pairs) losses of some decisions; time (rows, pairs), noise (rows, pairs, H, D)."""
        pairs = time_.shape[1]
        cache = decisions.cache(self.policy, rows).repeat_interleave(pairs, 2)
        actions = decisions.chunks[rows].repeat_interleave(pairs, 0)
        error = squared_error(self.policy.model, actions, noise.flatten(0, 1), time_.flatten(), cache)
        return pair_losses(error, time_.flatten(), self.policy.contract.execute).view(len(rows), pairs)

    def _update(self, decisions: Decisions, advantage: Tensor) -> dict[str, float]:
        """Run the epochs of one iteration; return ratio, clip fraction and drift."""
        config, objective, count = self.config, self.config.objective, len(decisions)
        time_ = self._pairs(count, config.pairs, stratified=True)
        noise = torch.randn(count, config.pairs, *decisions.chunks.shape[1:], generator=self.generator)
        with torch.no_grad():
            old = torch.cat([self._losses(decisions, rows, time_[rows], noise[rows])
                             for rows in torch.arange(count).split(config.microbatch)])
        good = self._success_pool()
        minibatches = -(-count // config.minibatch)
        total, done = config.epochs * minibatches, 0
        seen: dict[str, list[float]] = {'ratio': [], 'clip_fraction': [], 'log_ratio_std': [], 'bc_loss': [],
                                        'grad_norm': []}
        first_ratio_error = None
        for epoch in range(config.epochs):
            order = torch.randperm(count, generator=self.generator)
            for batch in order.split(config.minibatch):
                for group in self.actor_optimizer.param_groups:
                    group['lr'] = config.learning_rate * (1 - done / total)
                self.actor_optimizer.zero_grad(set_to_none=True)
                logs = []
                for rows in batch.split(config.microbatch):
                    new = self._losses(decisions, rows, time_[rows], noise[rows])
                    log_ratio = log_ratios(old[rows], new, objective)
                    loss = -surrogate(log_ratio, advantage[rows], objective).sum()
                    (loss / (len(batch) * log_ratio.shape[1])).backward()
                    logs.append(log_ratio.detach())
                log_ratio = torch.cat(logs)
                if first_ratio_error is None:
                    first_ratio_error = float((log_ratio.exp() - 1).abs().max())
                    if first_ratio_error > 1e-4:
                        raise RuntimeError(
                            f'the ratio before the first step is off by {first_ratio_error:.1e}: old and new '
                            'losses are not computed alike')
                if good is not None and config.bc_coefficient:
                    seen['bc_loss'].append(self._imitate(good))
                seen['grad_norm'].append(float(torch.nn.utils.clip_grad_norm_(self.parameters,
                                                                              config.max_grad_norm)))
                self.actor_optimizer.step()
                done += 1
                if epoch + 1 == config.epochs:
                    ratio = log_ratio.exp()
                    seen['ratio'].append(float(ratio.mean()))
                    seen['clip_fraction'].append(float(((ratio - 1).abs() > objective.clip).float().mean()))
                    seen['log_ratio_std'].append(float(log_ratio.std()))
        metrics = {name: float(np.mean(values)) for name, values in seen.items() if values}
        return metrics | {'flow_loss': float(old.mean()), 'first_ratio_error': first_ratio_error or 0.0}

    def _success_pool(self) -> Decisions | None:
        """Return the successful decisions of the newest iterations, or None if there are none."""
        parts = [part for part in (*self.successes, self.demonstrations) if part is not None and len(part)]
        if not parts:
            return None
        prefix = parts[0].prefix_kv  # of the prompt alone, the same for all
        if self.policy.contract.cameras:
            prefix = torch.cat([part.prefix_kv for part in parts], 2)
        return Decisions(torch.cat([part.states for part in parts]), prefix,
                         torch.cat([part.chunks for part in parts]))

    def _imitate(self, good: Decisions) -> float:
        """Add the gradient of flow matching on successful decisions; return its loss."""
        config = self.config
        rows = torch.randint(len(good), (config.bc_batch,), generator=self.generator)
        time_ = self._pairs(config.bc_batch, config.bc_pairs, stratified=False)
        noise = torch.randn(config.bc_batch, config.bc_pairs, *good.chunks.shape[1:], generator=self.generator)
        loss = self._losses(good, rows, time_, noise).mean()
        (config.bc_coefficient * config.objective.kappa * loss).backward()
        return loss.item()
