"""One iteration of Flow Policy Optimization: roll out, estimate advantages, update the action expert."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fpo_ros.learning.advantages import explained_variance, gae, standardise
from fpo_ros.learning.critic import Critic, fit
from fpo_ros.learning.decisions import Decisions, flatten, joined, recorded_decisions
from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.objective import ObjectiveConfig, credit_weights, pair_losses, policy_objective
from fpo_ros.learning.rollout import Rollout, check_reward, privileged_dim
from fpo_ros.learning.scale import EpisodeOptions, Pool
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.finite import NotFiniteError, check_finite
from fpo_ros.policy.flow import squared_error
from fpo_ros.sim.randomisation import Randomisation
from fpo_ros.sim.scenes import Scenes, scene_seeds
from fpo_ros.sim.task import MAX_STEPS


@dataclass(frozen=True)
class FPOConfig:
    """Settings of fine-tuning.

    :param episodes: episodes per iteration.
    :param max_steps: cap of an episode [control steps].
    :param reward: what gives reward 1: success by gym-aloha's rule (``'gym'``) or by the stricter one (``'strict'``).
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
    :param bc_coefficient: weight of flow matching on successes: the policy's own recent ones and recorded ones.
    :param bc_history: iterations whose successes are kept.
    :param bc_batch: successful decisions per minibatch, half of them recorded where there are both kinds.
    :param bc_pairs: fresh pairs per successful decision.
    :param max_grad_norm: gradient clipping.
    :param objective: ratio and trust region.
    :param randomisation: what every episode draws; nothing if None.
    """

    episodes: int = 128
    max_steps: int = MAX_STEPS
    reward: str = 'strict'
    pairs: int = 4
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
    randomisation: Randomisation | None = None

    def __post_init__(self) -> None:
        check_reward(self.reward)


class FPO:
    """The learner: policy, critic, optimisers, buffers and random state.

    :param policy: start policy; its prefix stays frozen, its action expert is trained in place.
    :param config: settings.
    :param seed: of scenes, noise, minibatches and the value function.
    :param demonstrations: recorded pairs of successful episodes, imitated beside the policy's own successes.
    """

    def __init__(self, policy: FlowPolicy, config: FPOConfig, seed: int = 0,
                 demonstrations: Demonstrations | None = None) -> None:
        self.policy, self.config, self.seed = policy, config, seed
        self.parameters = policy.model.expert_parameters()
        trained = {id(parameter) for parameter in self.parameters}
        for parameter in policy.model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        #: The policy that made the newest rollout: the one whose success its metrics are.
        self.rolled_out = copy.deepcopy(policy)
        self.critic = Critic(privileged_dim(policy.contract), seed=seed)
        self.actor_optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=(0.9, 0.99))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.critic_learning_rate)
        self.generator = torch.Generator().manual_seed(seed)
        contract = policy.contract
        self.credit = credit_weights(config.objective, contract.horizon, contract.execute, contract.action_dim)
        self.iteration = 0
        self.control_steps = 0
        self.value_data: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.critic_history)
        self.successes: deque[Decisions] = deque(maxlen=config.bc_history)
        self.demonstrations = None if demonstrations is None else recorded_decisions(demonstrations, policy)

    def seeds(self) -> np.ndarray:
        """Return this iteration's scenes."""
        count = self.config.episodes
        return scene_seeds(Scenes.TRAINING, self.seed, count, first=self.iteration * count)

    def run_iteration(self, pool: Pool, on_phase: Callable[[str], None] | None = None) -> dict[str, float]:
        """Collect episodes and update once; return the metrics of the iteration.

        Where all episodes have the same return there is nothing to prefer: then successes alone are imitated.

        :param pool: runs the episodes, in this process or elsewhere.
        :raises NotFiniteError: for actions, losses, gradients or weights that are not finite.
        """
        phase = on_phase or (lambda _: None)
        started = time.monotonic()
        phase('rolling out')
        self.rolled_out.model.load_state_dict(self.policy.model.state_dict())
        options = EpisodeOptions(noise_seed=self.seed, max_steps=self.config.max_steps, reward=self.config.reward,
                                 randomisation=self.config.randomisation)
        collected = pool.collect(self.policy, self.seeds(), options)
        rollout = collected.rollout
        rolled = time.monotonic()
        advantage, metrics = self._advantages(rollout)
        self.successes.append(flatten(rollout, rollout.valid & rollout.rewarded[:, None]))
        returns = rollout.rewarded * self.config.gamma ** (rollout.valid.sum(1) - 1)
        if self.iteration >= self.config.warmup:
            phase('updating')
            metrics |= self._update(flatten(rollout, rollout.valid), advantage, prefer=bool(np.ptp(returns) > 0))
        for name, module in (('policy', self.policy.model), ('value function', self.critic)):
            check_finite(module.state_dict(), f'{name} after iteration {self.iteration + 1}', self._advice())
        self.iteration += 1
        self.control_steps += rollout.control_steps
        wall = time.monotonic() - started
        return {
            'iteration': self.iteration, 'control_steps': self.control_steps,
            'success_rate': float(rollout.success.mean()), 'strict_rate': float(rollout.strict.mean()),
            'rewarded_rate': float(rollout.rewarded.mean()),
            'touched_rate': float((rollout.max_stage > 0).mean()), 'diverged': int(rollout.diverged.sum()),
            'mean_return': float(returns.mean()),
            **metrics, 'lost_workers': collected.lost_workers,
            'recollected_episodes': collected.recollected_episodes, 'rollout_s': rolled - started,
            'update_s': wall - (rolled - started), 'steps_per_s': rollout.control_steps / wall,
        }

    def _advice(self) -> str:
        return f'begin another run from the best policy with a lower learning rate than {self.config.learning_rate:g}'

    def _advantages(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """Fit the critic and return standardised (M,) advantages of the valid decisions."""
        config, valid = self.config, rollout.valid
        privileged = torch.as_tensor(rollout.privileged)
        last = valid.sum(1) - 1
        reward = np.zeros(valid.shape)
        reward[np.arange(len(last)), last] = rollout.rewarded
        if self.iteration == 0:
            self.critic.begin(rollout.privileged[valid], float(rollout.rewarded.mean()))
        with torch.no_grad():
            value = self.critic(privileged).numpy().astype(np.float64)
        advantage, target = gae(reward, value, valid, config.gamma, config.lam)
        explained = explained_variance(target[valid], value[valid])
        self.value_data.append((privileged[torch.as_tensor(valid)],
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
        executed, objective = self.policy.contract.execute, self.config.objective
        return pair_losses(error, time_.flatten(), self.credit, executed, objective).view(len(rows), pairs)

    def _update(self, decisions: Decisions, advantage: Tensor, prefer: bool) -> dict[str, float]:
        """Run the epochs of one iteration; return ratio, clip fraction and drift.

        :param prefer: follow the advantages; otherwise imitate successes alone.
        """
        config, count = self.config, len(decisions)
        time_ = self._pairs(count, config.pairs, stratified=True)
        noise = torch.randn(count, config.pairs, *decisions.chunks.shape[1:], generator=self.generator)
        with torch.no_grad():
            old = torch.cat([self._losses(decisions, rows, time_[rows], noise[rows])
                             for rows in torch.arange(count).split(config.microbatch)])
        check_finite({'flow losses': old}, f'iteration {self.iteration + 1}', self._advice())
        metrics = {'flow_loss': float(old.mean()) / config.objective.kappa}
        good = self._success_sources() if config.bc_coefficient else []
        if not (prefer or good):
            return metrics
        seen: dict[str, list[float]] = {}
        total, done = config.epochs * -(-count // config.minibatch), 0
        for epoch in range(config.epochs):
            order = torch.randperm(count, generator=self.generator)
            for batch in order.split(config.minibatch):
                for group in self.actor_optimizer.param_groups:
                    group['lr'] = config.learning_rate * (1 - done / total)
                self.actor_optimizer.zero_grad(set_to_none=True)
                entry = {}
                if prefer:
                    log_ratio = self._prefer(decisions, batch, time_, noise, old, advantage)
                    if not done:
                        metrics['first_ratio_error'] = self._first_ratio_error(log_ratio)
                    if epoch + 1 == config.epochs:
                        entry |= self._ratio_metrics(log_ratio)
                if good:
                    entry['bc_loss'] = self._imitate(good)
                entry['grad_norm'] = self._step()
                done += 1
                for name, value in entry.items():
                    seen.setdefault(name, []).append(value)
        return metrics | {name: float(np.mean(values)) for name, values in seen.items()}

    def _prefer(self, decisions: Decisions, batch: Tensor, time_: Tensor, noise: Tensor, old: Tensor,
                advantage: Tensor) -> Tensor:
        """Add the gradient of the FPO objective on some decisions; return their log ratios."""
        objective, logs = self.config.objective, []
        # What is standardised is the whole minibatch.
        parts = len(batch) if objective.ratio == 'standardised' else self.config.microbatch
        for rows in batch.split(parts):
            new = self._losses(decisions, rows, time_[rows], noise[rows])
            value, log_ratio = policy_objective(old[rows], new, advantage[rows], objective)
            loss = -value.sum()
            (loss / (len(batch) * log_ratio.shape[1])).backward()
            logs.append(log_ratio)
        return torch.cat(logs)

    def _first_ratio_error(self, log_ratio: Tensor) -> float:
        """Return how far ratios are from 1 before the first step, where they must not be."""
        error = float((log_ratio.exp() - 1).abs().max())
        if not error <= 1e-4:  # not a number is an error too
            raise RuntimeError(f'the ratio before the first step is off by {error:.1e}: old and new losses are not '
                               'computed alike')
        return error

    def _ratio_metrics(self, log_ratio: Tensor) -> dict[str, float]:
        ratio = log_ratio.exp()
        outside = (ratio - 1).abs() > self.config.objective.clip
        return {'ratio': float(ratio.mean()), 'clip_fraction': float(outside.float().mean()),
                'log_ratio_std': float(log_ratio.std(correction=0))}

    def _success_sources(self) -> list[Decisions]:
        """Return what is imitated: the policy's own successes of the newest iterations, and recorded ones."""
        own = joined(list(self.successes), pictures=bool(self.policy.contract.cameras))
        return [source for source in (own, self.demonstrations) if source is not None and len(source)]

    def _imitate(self, sources: list[Decisions]) -> float:
        """Add the gradient of flow matching on successful decisions, as many of each source; return its loss."""
        config, total = self.config, 0.0
        for index, source in enumerate(sources):
            count = (config.bc_batch + index) // len(sources)
            rows = torch.randint(len(source), (count,), generator=self.generator)
            time_ = self._pairs(count, config.bc_pairs, stratified=False)
            noise = torch.randn(count, config.bc_pairs, *source.chunks.shape[1:], generator=self.generator)
            loss = self._losses(source, rows, time_, noise).sum() / (config.bc_batch * config.bc_pairs)
            (config.bc_coefficient * loss).backward()
            total += loss.item() / config.objective.kappa
        return total

    def _step(self) -> float:
        """Take an optimiser step; return the norm of the gradient before clipping."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not np.isfinite(norm):
            raise NotFiniteError(f'the gradient of iteration {self.iteration + 1} is not finite: {self._advice()}')
        self.actor_optimizer.step()
        return norm
