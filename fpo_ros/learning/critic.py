"""The value function of the privileged state, which only simulation has; the policy never sees it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """V(s) of joints, object pose and elapsed share of the episode.

    :param size: length of the privileged state.
    :param width: hidden width of both layers.
    :param initial_value: output at initialisation: the discounted success of the start policy.
    """

    def __init__(self, size: int, width: int = 256, initial_value: float = 0.0) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('std', torch.ones(size))
        self.net = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                 nn.Linear(width, 1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.constant_(self.net[-1].bias, initial_value)

    def set_normalisation(self, states: np.ndarray) -> None:
        """Take mean and deviation of (M, size) states."""
        self.mean.copy_(torch.as_tensor(states.mean(0)))
        self.std.copy_(torch.as_tensor(np.maximum(states.std(0), 1e-2)))

    def forward(self, states: Tensor) -> Tensor:
        """Return (...,) values of (..., size) states."""
        return self.net((states - self.mean) / self.std)[..., 0]


def fit(critic: Critic, optimizer: torch.optim.Optimizer, states: Tensor, targets: Tensor, steps: int,
        batch: int, generator: torch.Generator) -> float:
    """Regress values onto (M,) targets; return the mean squared error of the last steps."""
    recent = []
    for _ in range(steps):
        pick = torch.randint(len(states), (batch,), generator=generator)
        loss = (critic(states[pick]) - targets[pick]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.item())
    return float(np.mean(recent[-50:]))
