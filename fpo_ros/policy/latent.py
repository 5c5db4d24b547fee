"""Actors over the start noise of a policy's flow: they steer the policy while its own weights stay as they are.

arXiv 2510.09976 trains such an actor in the latent space of a frozen policy; arXiv 2506.15799 (DSRL) with soft
actor-critic in place of flow matching.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.expert import Expert


class FlowLatent(Expert):
    """A flow from noise to latents w, each the start noise of a whole chunk.

    Its paths turn, x_t = cos(pi t / 2) w + sin(pi t / 2) noise: where latents are as random as the noise, no velocity
    is expected. The last projection starts at zero, so at first a latent is the noise itself, and the policy the one
    without an actor, exactly.
    """

    def __init__(self, config: Pi0Config, contract: PolicyContract) -> None:
        super().__init__(config, contract)
        self._make_layers()
        nn.init.zeros_(self.action_out_proj.weight)
        nn.init.zeros_(self.action_out_proj.bias)

    def denoise(self, x_t: Tensor, time: Tensor, cache: Tensor) -> Tensor:
        """Return the velocity (B, H, action_dim) of one step from noise to a latent."""
        return self.project(x_t, time, cache)

    @staticmethod
    def between(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point of a turning path and its velocity (pi / 2) (cos(pi t / 2) noise - sin(pi t / 2) w)."""
        angle = (math.pi / 2) * time[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        return cos * data + sin * noise, (math.pi / 2) * (cos * noise - sin * data)


class GaussianLatent(nn.Module):
    """A squashed Gaussian over one latent of action_dim, the start noise of every step of a chunk (DSRL).

    w = bound tanh(mean + std noise), as in DSRL's code, which takes the bound of each task (2 for pi0 in ALOHA). One
    latent for all steps is noise that pi0_tiny was never trained with: far from zero it fails. At first the mean is
    zero, and w nearly even over its range.

    :param config: sizes; the prefix enters as the mean over its tokens of the last layer's keys and values.
    :param contract: shapes of states and chunks.
    """

    #: Largest latent of a new actor, in deviations of the start noise; one that is loaded brings its own.
    BOUND = 0.5
    #: Range of the logarithm of a deviation before it is squashed, and where it begins.
    LOG_STD, FIRST_LOG_STD = (-5.0, 1.0), -0.3

    def __init__(self, config: Pi0Config, contract: PolicyContract, hidden: int = 256) -> None:
        super().__init__()
        self.contract = contract
        self.register_buffer('bound', torch.tensor(self.BOUND))
        seen = contract.state_dim + 2 * config.num_kv_heads * config.head_dim
        self.net = nn.Sequential(nn.Linear(seen, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
                                 nn.Linear(hidden, 2 * contract.action_dim))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias[:contract.action_dim])
        nn.init.constant_(self.net[-1].bias[contract.action_dim:], self.FIRST_LOG_STD)

    @staticmethod
    def see(states: Tensor, prefix_kv: Tensor) -> Tensor:
        """Return the (B, size) vectors that the actor decides on."""
        return torch.cat([states, pooled_prefix(prefix_kv, states.shape[0])], -1)

    def distribution(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the deviation, (B, action_dim) each, before they are squashed."""
        mean, log_std = self.net(seen).chunk(2, -1)
        return mean, log_std.clamp(*self.LOG_STD)

    def latent(self, noise: Tensor, states: Tensor, prefix_kv: Tensor) -> Tensor:
        """Return the (B, H, action_dim) start noise that (B, H, action_dim) noise of step 0 leads to."""
        return self.sample(self.see(states, prefix_kv), noise[:, 0])[:, None].expand_as(noise)

    def sample(self, seen: Tensor, noise: Tensor) -> Tensor:
        """Return the (B, action_dim) latents that standard normal noise of the same shape leads to."""
        mean, log_std = self.distribution(seen)
        return self.bound * torch.tanh(mean + log_std.exp() * noise)


def pooled_prefix(prefix_kv: Tensor, batch: int) -> Tensor:
    """Return (batch, 2 * kv_heads * head_dim) means over the tokens of the last layer's keys and values."""
    pooled = prefix_kv[-1].mean(3)  # (2, B or 1, kv_heads, head_dim)
    return pooled.permute(1, 0, 2, 3).flatten(1).expand(batch, -1)
