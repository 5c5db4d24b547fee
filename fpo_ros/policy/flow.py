"""Conditional flow matching: paths, loss and the Euler sampler, with pi0's convention of time.

t = 1 is noise and t = 0 is data: x_t = t noise + (1 - t) actions, target velocity noise - actions
(openpi models_pytorch/pi0_pytorch.py; the pi0 paper counts the other way round).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fpo_ros.policy.pi0 import Pi0


def sample_time(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return flow times 0.999 Beta(1.5, 1) + 0.001, denser near noise, as pi0 is trained.

    Beta(1.5, 1) has the distribution function x^1.5, so x = u^(2/3).
    """
    return 0.999 * torch.rand(shape, generator=generator) ** (2 / 3) + 0.001


def squared_error(model: Pi0, actions: Tensor, noise: Tensor, time: Tensor, cache: Tensor) -> Tensor:
    """Return the squared velocity error (B, H, action_dim) of each entry.

    :param actions: (B, H, action_dim) normalised.
    :param noise: like ``actions``.
    :param time: (B,).
    :param cache: of ``Pi0.with_state``.
    """
    t = time[:, None, None]
    velocity = model.denoise(t * noise + (1 - t) * actions, time, cache)
    return (velocity - (noise - actions)).square()


@torch.no_grad()
def sample(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate from noise at t = 1 to actions at t = 0 with Euler steps.

    :param denoise: maps (x_t, time (B,)) to a velocity.
    :param noise: (B, H, action_dim).
    """
    x = noise
    for index in range(steps):
        time = torch.full((x.shape[0],), 1 - index / steps, device=x.device)
        x = x - denoise(x, time) / steps
    return x
