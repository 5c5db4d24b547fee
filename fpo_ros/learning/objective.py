"""The FPO objective: a PPO-style ratio from per-sample changes of the flow-matching loss.

For a decision with executed chunk a and stored pairs (t_i, noise_i), x_i = t_i noise_i + (1 - t_i) a and

    l_i   = kappa mean over executed steps and real dimensions of t_i |v(x_i, t_i) - (noise_i - a)|^2
    rho_i = exp(clamp(l_i_old - l_i, -c, c))

Per-sample ratios are FPO++ (arXiv 2602.02481), the average before exp is FPO (arXiv 2507.21053). The
weight t_i makes the loss |a_hat - a|^2 / t_i for the clean chunk a_hat that the velocity implies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATIOS = ('per_sample', 'averaged')
TRUST_REGIONS = ('aspo', 'ppo')


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the objective.

    :param ratio: ``'per_sample'`` clips every pair alone, ``'averaged'`` averages pairs before exp.
    :param trust_region: ``'ppo'`` clips; ``'aspo'`` clips for positive advantages and uses the quadratic
        SPO penalty for negative ones.
    :param kappa: scale of the loss before exp.
    :param clip: half width of the trust region of the ratio.
    :param log_ratio_clip: clamp c of the log ratio.
    """

    ratio: str = 'per_sample'
    trust_region: str = 'aspo'
    kappa: float = 50.0
    clip: float = 0.1
    log_ratio_clip: float = 1.0

    def __post_init__(self) -> None:
        if self.ratio not in RATIOS:
            raise ValueError(f"unknown ratio '{self.ratio}': use {' or '.join(RATIOS)}")
        if self.trust_region not in TRUST_REGIONS:
            raise ValueError(f"unknown trust region '{self.trust_region}': use {' or '.join(TRUST_REGIONS)}")
        for name in ('kappa', 'clip', 'log_ratio_clip'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} must be positive, got {getattr(self, name)}')


def pair_losses(squared_error: Tensor, time: Tensor, executed: int) -> Tensor:
    """Return (B,) weighted flow losses of (B, H, D) squared velocity errors, executed rows only."""
    return time * squared_error[:, :executed].mean((1, 2))


def log_ratios(old: Tensor, new: Tensor, config: ObjectiveConfig) -> Tensor:
    """Return clamped log ratios of (B, pairs) losses; (B, 1) for the averaged variant."""
    change = config.kappa * (old - new)
    if config.ratio == 'averaged':
        change = change.mean(1, keepdim=True)
    return change.clamp(-config.log_ratio_clip, config.log_ratio_clip)


def surrogate(log_ratio: Tensor, advantage: Tensor, config: ObjectiveConfig) -> Tensor:
    """Return the (B, pairs) objective to maximise.

    PPO: min(rho A, clip(rho) A). SPO for A < 0: rho A - |A| / (2 eps) (rho - 1)^2.

    :param advantage: (B,).
    """
    ratio, advantage = log_ratio.exp(), advantage[:, None]
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    ppo = torch.minimum(ratio * advantage, clipped * advantage)
    if config.trust_region == 'ppo':
        return ppo
    spo = ratio * advantage - advantage.abs() / (2 * config.clip) * (ratio - 1).square()
    return torch.where(advantage >= 0, ppo, spo)
