"""Conditional flow matching: loss and samplers, with pi0's convention of time.

t = 1 is noise and t = 0 is data: x_t = t noise + (1 - t) actions, target velocity noise - actions
(openpi models_pytorch/pi0_pytorch.py; the pi0 paper counts the other way round).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fpo_ros.policy.contract import ACTION_DIM
from fpo_ros.policy.expert import Expert

#: Flow time at which steps beyond the end of a flow ask for its velocity: the last one of a grid of ten.
BEYOND_TIME = 0.1


@dataclass(frozen=True)
class Sampling:
    """How chunks are drawn from the flow that is trained; by default as the contract of the policy says.

    :param steps: Euler steps from noise to data; those of the contract if None.
    :param beyond: further steps along the field once the data is reached (arXiv 2510.09976, eq. 7, read literally).
    :param beyond_size: length of such a step, in flow time.
    :param noise_range: the start noise of every decision is scaled by a factor drawn uniformly from here; (1, 1)
        leaves it as it is. Less noise than N(0, I) tries what the flow holds most likely.
    :param noise_std: deviation of the noise added after each Euler step, (steps, action_dim) or empty. Noise after
        the last step alone perturbs the chunk; after every step it makes the chain of states a Markov chain with
        known densities (arXiv 2505.22094).
    """

    steps: int | None = None
    beyond: int = 0
    beyond_size: float = 0.02
    noise_range: tuple[float, float] = (1.0, 1.0)
    noise_std: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'noise_std', tuple(tuple(row) for row in self.noise_std))
        object.__setattr__(self, 'noise_range', tuple(self.noise_range))
        if len(self.noise_range) != 2 or not 0 <= self.noise_range[0] <= self.noise_range[1]:
            raise ValueError(f'noise_range must be a lowest and a highest factor, got {self.noise_range}')
        if any(len(row) != ACTION_DIM or not min(row) >= 0 for row in self.noise_std):
            raise ValueError(f'noise_std must hold rows of {ACTION_DIM} deviations, one per Euler step and none '
                             f'negative, got {self.noise_std}')
        if self.steps is not None and self.steps < 1:
            raise ValueError(f'a flow of {self.steps} steps cannot be: use 1 or more')
        if self.beyond < 0 or not self.beyond_size > 0:
            raise ValueError(f'{self.beyond} steps of {self.beyond_size} beyond the end of a flow cannot be: use 0 or '
                             'more, longer than 0')

    def count(self, contract_steps: int) -> int:
        """Return the number of Euler steps.

        :raises ValueError: where the injected noise is not for as many.
        """
        steps = self.steps or contract_steps
        if self.noise_std and len(self.noise_std) != steps:
            raise ValueError(f'noise_std has {len(self.noise_std)} rows for a flow of {steps} steps')
        return steps

    def injected(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor | None:
        """Return (N, steps, H, D) standard normal numbers for (N, H, D) chunks; None where none are added."""
        if not self.noise_std:
            return None
        return torch.randn(shape[0], len(self.noise_std), *shape[1:], generator=generator)


def sample_time(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return flow times 0.999 Beta(1.5, 1) + 0.001, denser near noise, as pi0 is trained.

    Beta(1.5, 1) has the distribution function x^1.5, so x = u^(2/3).
    """
    return 0.999 * torch.rand(shape, generator=generator) ** (2 / 3) + 0.001


def squared_error(model: Expert, actions: Tensor, noise: Tensor, time: Tensor, cache: Tensor,
                  decided: Tensor | None = None) -> Tensor:
    """Return the squared velocity error (B, H, action_dim) of each entry.

    Rows that are decided stay data at all flow times, and have no error; that of the others weighs the more, so that
    the mean over a chunk is theirs (arXiv 2512.05964, training-time real-time chunking).

    :param actions: (B, H, action_dim) normalised actions, or latents where the model is a flow over those.
    :param noise: like ``actions``.
    :param time: (B,).
    :param cache: of ``Expert.with_state``.
    :param decided: (B, H) bool, rows that the chunk goes on from; none if None.
    """
    x_t, velocity = model.between(actions, noise, time)
    if decided is None:
        return (model.denoise(x_t, time, cache) - velocity).square()
    clean = model.clean_tokens(decided)
    kept = rows_of(clean, actions)
    found = model.denoise(torch.where(kept, actions, x_t), time, cache, clean)
    open_share = (~clean).float().mean(1).clamp(min=1 / clean.shape[1])
    return (found - velocity).square() * ~kept / open_share[:, None, None]


def rows_of(clean: Tensor, chunk: Tensor) -> Tensor:
    """Return (B, H, 1) of (B, tokens), for the rows of a chunk."""
    horizon = chunk.shape[1]
    return clean[..., None].repeat(1, 1, horizon // clean.shape[1]).reshape(-1, horizon, 1)


@torch.no_grad()
def sample(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate from noise at t = 1 to actions at t = 0 with Euler steps.

    :param denoise: maps (x_t, time (B,)) to a velocity.
    :param noise: (B, H, action_dim).
    """
    return trajectory(denoise, noise, steps)[-1]


@torch.no_grad()
def trajectory(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int,
               injected: Sequence[Tensor] = (), beyond: int = 0, beyond_size: float = 0.0) -> list[Tensor]:
    """Return all states of a flow, from the noise to the actions.

    :param denoise: maps (x_t, time (B,)) to a velocity.
    :param noise: (B, H, action_dim).
    :param injected: noise to add after each Euler step, as many as steps; none if empty.
    :param beyond: steps along the field behind the last one, each ``beyond_size`` long.
    """
    x, states = noise, [noise]
    for index in range(steps):
        time = torch.full((x.shape[0],), 1 - index / steps, device=x.device)
        x = x - denoise(x, time) / steps
        if len(injected):
            x = x + injected[index]
        states.append(x)
    for _ in range(beyond):
        x = x - beyond_size * denoise(x, torch.full((x.shape[0],), BEYOND_TIME, device=x.device))
        states.append(x)
    return states
