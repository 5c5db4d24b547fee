"""The value function of the privileged state, which only simulation has; the policy never sees it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

#: Largest distance from the mean that the value function sees [deviations].
LIMIT = 5.0


class Critic(nn.Module):
    """V(s) of joints, object pose and elapsed share of the episode.

    :param size: length of the privileged state.
    :param width: hidden width of both layers.
    :param seed: of the initial weights; the global random state is left alone.
    """

    def __init__(self, size: int, width: int = 256, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('std', torch.ones(size))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                     nn.Linear(width, 1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def begin(self, states: np.ndarray, value: float) -> None:
        """Normalise states by mean and deviation of (M, size) ones, and predict one value for all of them."""
        self.mean.copy_(torch.as_tensor(states.mean(0)))
        self.std.copy_(torch.as_tensor(np.maximum(states.std(0), 1e-2)))
        nn.init.constant_(self.net[-1].bias, value)

    def forward(self, states: Tensor) -> Tensor:
        """Return (...,) values of (..., size) states.

        Entries count up to LIMIT deviations: a cube that was thrown away says no more than one that is out of reach.
        """
        return self.net(((states - self.mean) / self.std).clamp(-LIMIT, LIMIT))[..., 0]


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
