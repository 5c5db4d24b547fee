"""The FPO objective: a PPO-style ratio from per-sample changes of the flow-matching loss.

For a decision with executed chunk a and stored pairs (t_i, noise_i), x_i = t_i noise_i + (1 - t_i) a and

    l_i   = s t_i mean_hj w_hj (v(x_i, t_i) - (noise_i - a))_hj^2,  h executed, j a real dimension

with a scale s, clamped to l_max: kappa, or kappa / (mean loss before the update). The more alike the chunks of an
observation are, the less it takes to make one of them much less likely, as with the variance of a Gaussian.
The three ratios that are published, by their change g of the loss:

==============  =====================================  ==============================================
per_sample      rho_i = exp(clamp(l_i_old - l_i))      FPO++, arXiv 2602.02481: every pair is clipped alone
averaged        rho = exp(clamp(mean_i l_i_old - l_i))  FPO, arXiv 2507.21053: one ratio per decision
standardised    rho = exp(beta z)                      arXiv 2510.09976: z is mean_i l_i_old - l_i,
                                                       standardised over the minibatch
==============  =====================================  ==============================================

The weight t_i makes the loss |a_hat - a|^2 / t_i for the clean chunk a_hat that the velocity implies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATIOS = ('per_sample', 'averaged', 'standardised')
TRUST_REGIONS = ('aspo', 'ppo', 'none')
KAPPA_UNITS = ('flow_loss', 'absolute')
#: Added to the deviation of standardised changes: before the first step it is that of rounding errors, which must not
#: become ratios. Changes that are learned deviate by some hundredths.
_LEAST = 1e-3


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of the objective.

    :param ratio: one of :data:`RATIOS`.
    :param trust_region: ``'ppo'`` clips; ``'aspo'`` clips for positive advantages and uses the quadratic SPO penalty
        for negative ones; ``'none'`` does neither.
    :param kappa: scale of the loss before exp, in the unit of ``kappa_unit``.
    :param kappa_unit: ``'absolute'``; or ``'flow_loss'``, the inverse of the mean loss of the stored pairs before the
        update.
    :param clip: half width of the trust region of the ratio.
    :param log_ratio_clip: clamp of the log ratio.
    :param loss_clip: clamp l_max of a scaled loss; none if None.
    :param beta: scale of standardised changes. The share of decisions outside the trust region follows from it alone:
        18 % for 0.15 at a clip of 0.2, 5 % for 0.05 at 0.1.
    :param step_decay: weight of an executed step relative to the one before; 1 weighs all alike.
    :param dimension_weights: weights of the dimensions of an action, whose mean is made 1; all alike if empty.
    """

    ratio: str = 'per_sample'
    trust_region: str = 'aspo'
    kappa: float = 50.0
    kappa_unit: str = 'absolute'
    clip: float = 0.1
    log_ratio_clip: float = 1.0
    loss_clip: float | None = None
    beta: float = 0.075
    step_decay: float = 1.0
    dimension_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'dimension_weights', tuple(self.dimension_weights))
        for name, value, known in (('ratio', self.ratio, RATIOS), ('trust region', self.trust_region, TRUST_REGIONS),
                                   ('unit of kappa', self.kappa_unit, KAPPA_UNITS)):
            if value not in known:
                raise ValueError(f"unknown {name} '{value}': use {', '.join(known[:-1])} or {known[-1]}")
        for name in ('kappa', 'clip', 'log_ratio_clip', 'beta', 'step_decay', 'loss_clip'):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f'{name} must be positive, got {getattr(self, name)}')
        weights = self.dimension_weights
        if weights and not (min(weights) >= 0 < sum(weights)):
            raise ValueError(f'dimension_weights must not be negative, and one positive, got {weights}')


def credit_weights(config: ObjectiveConfig, horizon: int, executed: int, dimensions: int,
                   width: int | None = None) -> Tensor:
    """Return (horizon, width) weights of squared errors: 0 where nothing was executed, of mean 1 over executed rows.

    What was predicted and not executed had no part in the return, nor has a dimension that only pads.

    :param dimensions: of an action.
    :param width: of an action with what pads; nothing does if None.
    :raises ValueError: when the weights of dimensions are not one for each.
    """
    steps = config.step_decay ** torch.arange(executed, dtype=torch.float64)
    own = torch.tensor(config.dimension_weights or (1.0,) * dimensions, dtype=torch.float64)
    if len(own) != dimensions:
        raise ValueError(f'{len(own)} dimension_weights for {dimensions} dimensions of an action')
    width = width or dimensions
    weights = torch.zeros(horizon, width, dtype=torch.float64)
    weights[:executed, :dimensions] = torch.outer(steps / steps.mean(), own / own.mean()) * width / dimensions
    return weights.float()


def pair_losses(squared_error: Tensor, time: Tensor, weights: Tensor, executed: int) -> Tensor:
    """Return (B,) losses of (B, H, D) squared velocity errors at (B,) times, before they are scaled.

    :param weights: of :func:`credit_weights`.
    """
    return time * (squared_error[:, :executed] * weights[:executed]).mean((1, 2))


def scaled(losses: Tensor, scale: float, config: ObjectiveConfig) -> Tensor:
    """Return losses times their scale, clamped to l_max."""
    losses = scale * losses
    return losses if config.loss_clip is None else losses.clamp(max=config.loss_clip)


def log_ratios(old: Tensor, new: Tensor, config: ObjectiveConfig) -> Tensor:
    """Return the clamped log ratios of (B, pairs) losses; (B, 1) but for the per-sample variant."""
    change = old - new
    if config.ratio != 'per_sample':
        change = change.mean(1, keepdim=True)
    if config.ratio == 'standardised':
        change = config.beta * (change - change.mean()) / (change.std(correction=0) + _LEAST)
    return change.clamp(-config.log_ratio_clip, config.log_ratio_clip)


def policy_objective(old: Tensor, new: Tensor, advantage: Tensor, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Return what is maximised, a number per ratio, and the log ratios without gradient.

    The standardised ratio is constant in the paper, which leaves no gradient; and with one through the deviation, the
    first step would divide by almost nothing. It weighs the gradient of the loss instead, as the others do:
    d exp(l_old - l) = -rho dl.

    :param old: (B, pairs) losses before the update.
    :param new: (B, pairs) losses with gradient.
    :param advantage: (B,).
    """
    log_ratio = log_ratios(old, new, config)
    if config.ratio != 'standardised':
        return surrogate(log_ratio, advantage, config), log_ratio.detach()
    log_ratio = log_ratio.detach().requires_grad_()
    (slope,) = torch.autograd.grad(surrogate(log_ratio, advantage, config).sum(), log_ratio)
    return -slope * new.mean(1, keepdim=True), log_ratio.detach()


def surrogate(log_ratio: Tensor, advantage: Tensor, config: ObjectiveConfig) -> Tensor:
    """Return the (B, ratios) objective to maximise.

    PPO: min(rho A, clip(rho) A). SPO for A < 0: rho A - |A| / (2 eps) (rho - 1)^2.

    :param advantage: (B,).
    """
    ratio, advantage = log_ratio.exp(), advantage[:, None]
    if config.trust_region == 'none':
        return ratio * advantage
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    ppo = torch.minimum(ratio * advantage, clipped * advantage)
    if config.trust_region == 'ppo':
        return ppo
    spo = ratio * advantage - advantage.abs() / (2 * config.clip) * (ratio - 1).square()
    return torch.where(advantage >= 0, ppo, spo)
