"""What decisions are worth: values of states for the advantages, learned from the newest rollouts."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fpo_ros.learning.config import CriticConfig
from fpo_ros.learning.critic import Critic, Ensemble
from fpo_ros.learning.rollout import Rollout, privileged_dim
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.flow import Sampling
from fpo_ros.policy.latent import pooled_prefix

#: Decisions per optimiser step.
_BATCH = 256


class Values(Protocol):
    """Values of states, whatever predicts them.

    :attr module: the networks, for checkpoints and checks.
    :attr optimizer: of the networks.
    :attr data: what the newest iterations left to train on, a dict of (M, ...) tensors each; part of a checkpoint.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    data: deque[dict[str, Tensor]]

    def begin(self, rollout: Rollout, value: float) -> None:
        """Fit normalisation to the first rollout, and predict one value everywhere."""

    def estimate(self, rollout: Rollout, sampling: Sampling) -> np.ndarray:
        """Return (N, K) float64 values of the states in which decisions were taken.

        :param sampling: how the rollout's chunks were drawn.
        """

    def learn(self, rollout: Rollout, reward: np.ndarray, target: np.ndarray) -> float:
        """Train on a rollout and those before it; return the mean squared error of the last steps.

        :param reward: (N, K) reward of each decision.
        :param target: (N, K) returns that follow from the estimate and the rewards.
        """


def values_of(config: CriticConfig, policy: FlowPolicy, gamma: float, seed: int,
              generator: torch.Generator) -> Values:
    """Return the critic that the settings name."""
    kind = StateValues if config.kind == 'value' else EnsembleValues
    return kind(config, policy, gamma, seed, generator)


def seen_by_critic(rollout: Rollout, inputs: str) -> Tensor:
    """Return (N, K, size) vectors: the privileged state, or the observation, each with the elapsed share.

    An observation is the normalised state of the policy and, of one with cameras, its pooled prefix.
    """
    if inputs == 'privileged':
        return torch.as_tensor(rollout.privileged)
    parts = [rollout.states, torch.as_tensor(rollout.privileged[..., -1:])]
    if rollout.prefix_kv.shape[2] > 1:
        count = rollout.states.shape[:2]
        parts.insert(1, pooled_prefix(rollout.prefix_kv, count[0] * count[1]).view(*count, -1))
    return torch.cat(parts, -1)


def seen_size(policy: FlowPolicy, inputs: str) -> int:
    """Return the length of the vectors of :func:`seen_by_critic`."""
    contract, model = policy.contract, policy.model.config
    if inputs == 'privileged':
        return privileged_dim(contract)
    return contract.state_dim + 1 + (2 * model.num_kv_heads * model.head_dim if contract.cameras else 0)


class StateValues:
    """V of a state, regressed onto the returns that GAE estimates.

    :param config: settings.
    :param policy: whose decisions.
    :param seed: of the initial weights.
    :param generator: of minibatches.
    """

    def __init__(self, config: CriticConfig, policy: FlowPolicy, gamma: float, seed: int,
                 generator: torch.Generator) -> None:
        self._config, self._generator = config, generator
        self.module = Critic(seen_size(policy, config.inputs), seed=seed)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=config.learning_rate)
        self.data: deque[dict[str, Tensor]] = deque(maxlen=config.history)

    def begin(self, rollout: Rollout, value: float) -> None:
        """See :meth:`Values.begin`."""
        self.module.begin(seen_by_critic(rollout, self._config.inputs)[torch.as_tensor(rollout.valid)].numpy(), value)

    def estimate(self, rollout: Rollout, sampling: Sampling) -> np.ndarray:
        """See :meth:`Values.estimate`."""
        with torch.no_grad():
            return self.module(seen_by_critic(rollout, self._config.inputs)).numpy().astype(np.float64)

    def learn(self, rollout: Rollout, reward: np.ndarray, target: np.ndarray) -> float:
        """See :meth:`Values.learn`."""
        valid = rollout.valid
        self.data.append({'seen': seen_by_critic(rollout, self._config.inputs)[torch.as_tensor(valid)],
                          'targets': torch.as_tensor(target[valid], dtype=torch.float32)})
        return self.fit(self._config.steps)

    def fit(self, steps: int) -> float:
        """Regress on what is kept; return the mean squared error of the last steps."""
        seen, targets = (torch.cat([part[name] for part in self.data]) for name in ('seen', 'targets'))
        errors = []
        for _ in range(steps):
            rows = torch.randint(len(seen), (_BATCH,), generator=self._generator)
            errors.append(_descend((self.module(seen[rows]) - targets[rows]).square().mean(), self.optimizer))
        return float(np.mean(errors[-50:]))


class EnsembleValues:
    """Several Q of a state and a chunk or latent, learned by temporal differences (arXiv 2510.09976, eq. 5 and 6).

    y = R + gamma (1 - end) min_i Q'_i(s', x'), with slow copies Q' and the x' that was drawn in s'. A state is worth
    the least Q at a chunk of the baseline: one drawn anew, or the one that was executed.

    :param config: settings.
    :param policy: draws the baseline's chunks.
    :param gamma: discount per decision.
    :param seed: of the initial weights.
    :param generator: of minibatches and of the baseline's noise.
    """

    def __init__(self, config: CriticConfig, policy: FlowPolicy, gamma: float, seed: int,
                 generator: torch.Generator) -> None:
        self._config, self._policy, self._gamma, self._generator = config, policy, gamma, generator
        contract = policy.contract
        rows = contract.horizon if policy.model.latent_actor is not None else contract.execute
        self.module = Ensemble(seen_size(policy, config.inputs) + rows * contract.action_dim, config.members, seed)
        self.optimizer = torch.optim.Adam(self.module.members.parameters(), lr=config.learning_rate)
        self.data: deque[dict[str, Tensor]] = deque(maxlen=config.history)

    def _vectors(self, rollout: Rollout, chunks: Tensor, paths: Tensor) -> Tensor:
        """Return (N, K, size) vectors of states and (N, K, H, D) chunks, or latents where the policy has them."""
        acts = chunks[:, :, :self._policy.contract.execute] if self._policy.model.latent_actor is None \
            else paths[:, :, 0]
        return torch.cat([seen_by_critic(rollout, self._config.inputs), acts.flatten(2)], -1)

    def begin(self, rollout: Rollout, value: float) -> None:
        """See :meth:`Values.begin`."""
        vectors = self._vectors(rollout, rollout.chunks, rollout.paths)
        self.module.begin(vectors[torch.as_tensor(rollout.valid)].numpy(), value)

    def estimate(self, rollout: Rollout, sampling: Sampling) -> np.ndarray:
        """See :meth:`Values.estimate`; a baseline's chunks are drawn as the rollout's were."""
        chunks, paths = rollout.chunks, rollout.paths
        if self._config.baseline == 'fresh':
            low, high = sampling.noise_range
            noise = torch.randn(chunks.shape, generator=self._generator).flatten(0, 1)
            noise *= low + (high - low) * torch.rand(len(noise), 1, 1, generator=self._generator)
            drawn = self._policy.draw(rollout.states.flatten(0, 1), rollout.prefix_kv, noise,
                                      sampling.injected(noise.shape, self._generator), sampling)
            chunks = drawn.chunks.view(chunks.shape)
            paths = drawn.path.view(*chunks.shape[:2], *drawn.path.shape[1:])
        with torch.no_grad():
            return self.module.least(self._vectors(rollout, chunks, paths)).numpy().astype(np.float64)

    def learn(self, rollout: Rollout, reward: np.ndarray, target: np.ndarray) -> float:
        """See :meth:`Values.learn`; the targets are the ensemble's own."""
        vectors, valid = self._vectors(rollout, rollout.chunks, rollout.paths), torch.as_tensor(rollout.valid)
        follows = torch.zeros_like(valid)
        follows[:, :-1] = valid[:, 1:]
        self.data.append({'now': vectors[valid], 'next': torch.roll(vectors, -1, 1)[valid],
                          'reward': torch.as_tensor(reward, dtype=torch.float32)[valid],
                          'follows': follows[valid].float()})
        return self.fit(self._config.steps)

    def fit(self, steps: int) -> float:
        """Learn from what is kept; return the mean squared error of the last steps."""
        now, following, reward, follows = (torch.cat([part[name] for part in self.data])
                                           for name in ('now', 'next', 'reward', 'follows'))
        errors = []
        for _ in range(steps):
            rows = torch.randint(len(now), (_BATCH,), generator=self._generator)
            least = self.module.least_of_targets(following[rows])
            wanted = reward[rows] + self._gamma * follows[rows] * least
            errors.append(_descend((self.module(now[rows]) - wanted).square().mean(), self.optimizer))
            self.module.follow(self._config.polyak)
        return float(np.mean(errors[-50:]))


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Take an optimiser step; return the loss before it."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group['params']], 1.0)
    optimizer.step()
    return loss.item()
