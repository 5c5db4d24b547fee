"""Flows with noise between their steps: chains of Gaussian steps whose densities are known.

Two relatives of FPO take the ratio from those densities instead of flow-matching losses: ReinFlow (arXiv 2505.22094)
injects learned noise after every Euler step; plain PPO is the chain of one step from zero, a Gaussian about the chunk
that the network expects. Everything else of an update is FPO's.

The ratio is that of the likelihoods of a decision: its logarithm is the change of ln N, summed over steps, executed
rows and dimensions, as arXiv 2510.25889 takes it of pi0. The code of ReinFlow takes the mean over them instead.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ACTION_DIM
from fpo_ros.policy.flow import Sampling
from fpo_ros.policy.pi0 import Pi0

#: Deviation of the injected noise: at the start, and its bounds, in normalised units (ReinFlow: 0.08 to 0.16).
START_STD, STD_BOUNDS = 0.1, (0.03, 0.2)


def gaussian_policy(policy: FlowPolicy) -> FlowPolicy:
    """Return the same policy with a flow of one step: from zero noise, it acts as its network expects at t = 1."""
    model = Pi0(policy.model.config, replace(policy.contract, flow_steps=1))
    model.load_state_dict(policy.model.state_dict())
    return FlowPolicy(model, policy.stats)


class ChainFlow(TrainedFlow):
    """A flow with injected noise of learned deviation, one per step and dimension.

    Losses are float64: of some thousand float32 numbers the sum would round too much for a ratio.

    :param policy: trained in place.
    :param config: settings; ``'ppo'`` starts chains at zero.
    :param generator: see :class:`TrainedFlow`.
    """

    dtype = torch.float64

    def __init__(self, policy: FlowPolicy, config: FPOConfig, generator: torch.Generator) -> None:
        super().__init__(policy, config, generator)
        self._range = (0.0, 0.0) if config.algorithm == 'ppo' else config.sampling.noise_range
        self.steps = config.sampling.count(policy.contract.flow_steps)
        self.log_std = nn.Parameter(torch.full((self.steps, policy.contract.action_dim), math.log(START_STD)))
        self.parameters = [*self.parameters, self.log_std]
        self.scale = 1.0

    @property
    def imitation_scale(self) -> float:
        """See :attr:`TrainedFlow.imitation_scale`: as in the log likelihood of a chunk, at the first deviation."""
        return self.executed * ACTION_DIM / (2 * START_STD**2)

    def rescale(self, losses: Tensor) -> None:
        """Leave the scale as it is: densities know their deviation."""

    def std(self) -> Tensor:
        """Return the (steps, action_dim) deviations."""
        low, high = STD_BOUNDS
        return self.log_std.clamp(math.log(low), math.log(high)).exp()

    def sampling(self) -> Sampling:
        """See :meth:`TrainedFlow.sampling`."""
        return Sampling(self.steps, noise_range=self._range,
                        noise_std=tuple(map(tuple, self.std().detach().tolist())))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`TrainedFlow.state`."""
        return {'log_std': self.log_std.detach()}

    def load(self, state: dict[str, Tensor]) -> None:
        """See :meth:`TrainedFlow.load`."""
        with torch.no_grad():
            self.log_std.copy_(state['log_std'])

    def restart(self) -> None:
        """See :meth:`TrainedFlow.restart`: noise begins at its first deviation again."""
        with torch.no_grad():
            self.log_std.fill_(math.log(START_STD))

    def times(self, count: int, pairs: int, stratified: bool) -> Tensor:
        """Return (count, 1) ends of chains: each is judged as a whole, whatever the pairs."""
        return torch.zeros(count, 1)

    def noise(self, count: int, pairs: int) -> Tensor:
        """Return (count, 0) numbers: the noise of a chain is in its states."""
        return torch.zeros(count, 0)

    def losses(self, decisions: Decisions, rows: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Return (rows, 1) negative log likelihoods of chains, but for a constant."""
        steps = self.steps
        time = (1 - torch.arange(steps) / steps).repeat(len(rows))
        chain = torch.cat([decisions.paths[rows], decisions.chunks[rows, None]], 1)
        here, reached = chain[:, :-1].flatten(0, 1), chain[:, 1:].flatten(0, 1)
        cache = decisions.cache(self.expert, rows).repeat_interleave(steps, 2)
        mean = here - self.expert.denoise(here, time, cache) / steps
        std = self.std().repeat(len(rows), 1)[:, None]
        density = -((reached - mean) / std).square() / 2 - std.log()
        return -density[:, :self.executed].double().view(len(rows), -1).sum(1, keepdim=True)


class MeanFlow(TrainedFlow):
    """What ``'ppo'`` imitates with: its policy acts from zero noise, so the chunk it expects there is what is imitated.

    With the noise of a pair at zero and t = 1, flow matching is the squared error of that chunk.
    """

    def noise(self, count: int, pairs: int) -> Tensor:
        """Return (count, pairs, H, action_dim) zeros."""
        contract = self.policy.contract
        return torch.zeros(count, pairs, contract.horizon, contract.action_dim)
