"""A denoising step that is guided towards rows that are decided already; see :mod:`fpo_ros.policy.realtime`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fpo_ros.policy.realtime import GUIDANCE_CAP, guidance_weight


def guided_velocity(denoise: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, time: Tensor, decided: Tensor,
                    mask: Tensor, weight: Tensor) -> Tensor:
    """Return the velocity of a step, moved towards what is decided.

    The chunk that x_t leads to is x_0 = x_t - t v. The guidance g is the gradient with respect to x_t of
    -1/2 |sqrt(mask) (decided - x_0)|^2, decided held fixed, and the velocity becomes v - weight g, for time runs from
    noise at 1 to data at 0 (arXiv 2506.07339, equations 2 to 4).

    :param denoise: maps (x_t, time) to a velocity.
    :param x_t: (B, H, action_dim).
    :param time: (B,).
    :param decided: (B, H, action_dim) normalised rows.
    :param mask: (B, H, action_dim) weights of the entries, 0 where nothing is decided.
    :param weight: (B,) of the guidance.
    """
    velocity, pull = torch.func.vjp(lambda x: denoise(x, time), x_t)
    t = time[:, None, None]
    error = mask * (decided - (x_t - t * velocity))
    back, = pull(error)
    return velocity - weight[:, None, None] * (error - t * back)


def sample_guided(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, decided: Tensor,
                  mask: Tensor, cap: float = GUIDANCE_CAP) -> Tensor:
    """Integrate from noise to actions, every step guided; arguments as of :func:`guided_velocity`."""
    x = noise
    for index in range(steps):
        now = 1 - index / steps
        time, weight = (torch.full((len(x),), value) for value in (now, guidance_weight(now, cap)))
        x = (x - guided_velocity(denoise, x, time, decided, mask, weight) / steps).detach()
    return x
