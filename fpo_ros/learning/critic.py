"""Networks that predict returns: one of states, or an ensemble of states and chunks."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

#: Largest distance from the mean that a critic sees [deviations].
LIMIT = 5.0


class Critic(nn.Module):
    """A return predicted from a vector.

    :param size: length of the vector.
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

    def begin(self, vectors: np.ndarray, value: float) -> None:
        """Normalise by mean and deviation of (M, size) vectors, and predict one value for all of them."""
        self.mean.copy_(torch.as_tensor(vectors.mean(0)))
        self.std.copy_(torch.as_tensor(np.maximum(vectors.std(0), 1e-2)))
        nn.init.constant_(self.net[-1].bias, value)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return (...,) values of (..., size) vectors.

        Entries count up to LIMIT deviations: a cube that was thrown away says no more than one that is out of reach.
        """
        return self.net(((vectors - self.mean) / self.std).clamp(-LIMIT, LIMIT))[..., 0]


class Ensemble(nn.Module):
    """Several Q of a vector that holds a state and a chunk, and slow copies of them for targets.

    :param size: length of the vector.
    :param members: critics.
    :param seed: of the initial weights, which differ between members.
    :param width: hidden width of both layers of each.
    """

    def __init__(self, size: int, members: int, seed: int = 0, width: int = 256) -> None:
        super().__init__()
        self.members = nn.ModuleList(Critic(size, width, seed + 1000 * index) for index in range(members))
        self.targets = copy.deepcopy(self.members).requires_grad_(False)

    def begin(self, vectors: np.ndarray, value: float) -> None:
        """Normalise and initialise every member and copy; see :meth:`Critic.begin`."""
        for critic in (*self.members, *self.targets):
            critic.begin(vectors, value)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return (members, ...) values of (..., size) vectors."""
        return torch.stack([critic(vectors) for critic in self.members])

    def least(self, vectors: Tensor) -> Tensor:
        """Return the least value of the members."""
        return self(vectors).amin(0)

    @torch.no_grad()
    def least_of_targets(self, vectors: Tensor) -> Tensor:
        """Return the least value of the slow copies."""
        return torch.stack([critic(vectors) for critic in self.targets]).amin(0)

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the slow copies a share of the way to the members (Polyak averaging)."""
        for slow, fast in zip(self.targets.parameters(), self.members.parameters(), strict=True):
            slow.lerp_(fast, share)
