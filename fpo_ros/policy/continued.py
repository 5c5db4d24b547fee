"""A chunk that goes on from rows that are decided already, drawn by a flow that was trained to do so.

Training-time real-time chunking (arXiv 2512.05964): in training as many rows as a chunk may come late are data at every
flow time, and tokens of theirs carry flow time 0. pi0 adds the time to each action token, so this takes no parameter.
Where a flow was not trained so, it is guided instead (:mod:`fpo_ros.policy.guided`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fpo_ros.policy.expert import Expert
from fpo_ros.policy.flow import rows_of, sample


def draw_decided(count: int, horizon: int, max_delay: int, generator: torch.Generator) -> Tensor:
    """Return (count, horizon) bool: the first 0 to ``max_delay`` rows, as many as are drawn uniformly."""
    delay = torch.randint(max_delay + 1, (count, 1), generator=generator)
    return torch.arange(horizon) < delay


def continued_velocity(model: Expert, x_t: Tensor, time: Tensor, cache: Tensor, chunk: Tensor,
                       decided: Tensor) -> Tensor:
    """Return the velocity of a step: that of decided rows leads to them, straight from where they are.

    A token that holds a decided row is decided as a whole.

    :param x_t: (B, H, action_dim).
    :param time: (B,), above 0.
    :param cache: of ``Expert.with_state``.
    :param chunk: (B, H, action_dim) normalised rows, of which those count that are decided.
    :param decided: (B, H), not 0 where a row is.
    """
    clean = model.clean_tokens(decided)
    kept = rows_of(clean, chunk)
    velocity = model.denoise(torch.where(kept, chunk, x_t), time, cache, clean)
    return torch.where(kept, (x_t - chunk) / time[:, None, None], velocity)


def sample_continued(model: Expert, noise: Tensor, steps: int, cache: Tensor, chunk: Tensor,
                     decided: Tensor) -> Tensor:
    """Integrate from noise to actions; arguments as of :func:`continued_velocity`."""
    return sample(lambda x, time: continued_velocity(model, x, time, cache, chunk, decided), noise, steps)
