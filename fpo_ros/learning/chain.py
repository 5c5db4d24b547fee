"""Flows with noise between their steps: chains of Gaussian steps whose densities are known.

Two relatives of FPO take the ratio from those densities instead of flow-matching losses: ReinFlow (arXiv 2505.22094)
injects learned noise after every Euler step; plain PPO is the chain of one step from zero, a Gaussian about the chunk
that the network expects. Everything else of an update is FPO's.
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
from fpo_ros.policy.flow import Sampling
from fpo_ros.policy.pi0 import Pi0

#: Deviation of the injected noise: at the start, and its bounds, in normalised units (ReinFlow: 0.08 to 0.16).
START_STD, STD_BOUNDS = 0.1, (0.03, 0.2)
#: Scale of mean log densities before exp.
SCALE = 50.0


def gaussian_policy(policy: FlowPolicy) -> FlowPolicy:
    """Return the same policy with a flow of one step: from zero noise, it acts as its network expects at t = 1."""
    model = Pi0(policy.model.config, replace(policy.contract, flow_steps=1))
    model.load_state_dict(policy.model.state_dict())
    return FlowPolicy(model, policy.stats)


class ChainFlow(TrainedFlow):
    """A flow with injected noise of learned deviation, one per step and dimension.

    :param policy: trained in place.
    :param config: settings; ``'ppo'`` starts chains at zero.
    :param generator: see :class:`TrainedFlow`.
    """

    def __init__(self, policy: FlowPolicy, config: FPOConfig, generator: torch.Generator) -> None:
        super().__init__(policy, config, generator)
        self._range = (0.0, 0.0) if config.algorithm == 'ppo' else config.sampling.noise_range
        self.steps = config.sampling.count(policy.contract.flow_steps)
        self.log_std = nn.Parameter(torch.full((self.steps, policy.contract.action_dim), math.log(START_STD)))
        self.parameters = [*self.parameters, self.log_std]
        self.scale = SCALE

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

    def times(self, count: int, pairs: int, stratified: bool) -> Tensor:
        """Return the (count, steps) flow times of the chain."""
        return (1 - torch.arange(self.steps) / self.steps).expand(count, -1)

    def noise(self, count: int, pairs: int) -> Tensor:
        """Return (count, 0) numbers: the noise of a chain is in its states."""
        return torch.zeros(count, 0)

    def losses(self, decisions: Decisions, rows: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Return (rows, steps) negative log densities of the chain's steps.

        Each is the mean over executed steps and dimensions, as DPPO's code takes it: the sum over some hundred entries
        leaves no trust region.
        """
        steps = self.steps
        chain = torch.cat([decisions.paths[rows], decisions.chunks[rows, None]], 1)
        here, reached = chain[:, :-1].flatten(0, 1), chain[:, 1:].flatten(0, 1)
        cache = decisions.cache(self.expert, rows).repeat_interleave(steps, 2)
        mean = here - self.expert.denoise(here, time.flatten(), cache) / steps
        std = self.std().repeat(len(rows), 1)[:, None]
        density = -((reached - mean) / std).square() / 2 - std.log()
        weighted = (density * self.credit)[:, :self.executed]
        return -weighted.mean((1, 2)).view(len(rows), steps)
