"""The update of the flow that is trained, from decisions and their advantages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.imitation import Imitation, Weighted
from fpo_ros.learning.objective import log_ratios, policy_objective
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.policy.finite import NotFiniteError, check_finite

#: Largest distance of a ratio from 1 before the first step.
RATIO_TOLERANCE = 1e-5
#: Decisions whose losses are taken again behind the last epoch.
_LOOKED_AT = 512


class RatioError(RuntimeError):
    """Old and new losses are not computed alike; the ratio is no ratio then."""


@dataclass
class Batch:
    """What an iteration gives an update.

    :param decisions: taken before the reward.
    :param advantage: (M,) standardised.
    :param rollout: that they are of.
    :param reward: (N, K) reward of each of its decisions.
    :param prefer: whether advantages tell good from bad; otherwise successes alone are imitated.
    :param where: the iteration, for messages.
    :param advice: what to do where numbers are not finite.
    :param rate: learning rate at the first step.
    :param narrow: whether successes alone are trained on, to narrow the flow.
    :param drawn: what the update drew for the decisions, for inspection where it fails.
    """

    decisions: Decisions
    advantage: Tensor
    rollout: Rollout
    reward: np.ndarray
    prefer: bool
    where: str
    advice: str
    rate: float
    narrow: bool = False
    drawn: dict[str, Tensor] = field(default_factory=dict)


class Epochs:
    """Optimiser steps whose rate decays within an iteration, and what they report.

    :param flow: trained.
    :param config: decay of the rate, gradient clipping.
    :param optimizer: of the flow's parameters.
    :param group: processes whose gradients are summed.
    """

    def __init__(self, flow: TrainedFlow, config: FPOConfig, optimizer: torch.optim.Optimizer, group: Group) -> None:
        self._flow, self._config, self._optimizer, self._group = flow, config, optimizer, group

    def begin(self, total: int, batch: Batch) -> None:
        """Begin an iteration of ``total`` steps."""
        self._total, self._done, self._batch = total, 0, batch
        self._seen: dict[str, list[float]] = {}

    def zero(self) -> None:
        """Prepare the gradients of a step."""
        left = 1 - self._done / self._total if self._config.decay == 'linear' else 1.0
        for group in self._optimizer.param_groups:
            group['lr'] = self._batch.rate * left
        self._optimizer.zero_grad(set_to_none=True)

    def step(self, shares: dict[str, float] | None = None, **entries: float) -> None:
        """Take a step along the gradients of all processes, and note what it reports.

        :param shares: what of a number this process computed; reported is the sum.
        :raises NotFiniteError: for a gradient that is not finite; no weight has changed then.
        """
        shares = shares or {}
        sums = self._group.sum_gradients(self._flow.parameters, list(shares.values()))
        norm = float(torch.nn.utils.clip_grad_norm_(self._flow.parameters, self._config.max_grad_norm))
        if not np.isfinite(norm):
            raise NotFiniteError(f'the gradient of {self._batch.where} is not finite: {self._batch.advice}')
        self._optimizer.step()
        self._done += 1
        for name, value in (entries | dict(zip(shares, sums, strict=True)) | {'grad_norm': norm}).items():
            self._seen.setdefault(name, []).append(value)

    def report(self) -> dict[str, float]:
        """Return means of what the steps reported, and the share of them that were taken."""
        return {'steps_taken': self._done / self._total,
                **{name: float(np.mean(values)) for name, values in self._seen.items()}}


class Update(ABC):
    """What an iteration does to what is trained."""

    @abstractmethod
    def run(self, batch: Batch) -> dict[str, float]:
        """Update once; return metrics."""

    def warm_up(self, batch: Batch) -> dict[str, float]:
        """Take what an iteration gives in which only the critic of the advantages is trained; return metrics."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return what outlasts an iteration, for a checkpoint."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned; ValueError where it does not fit."""
        if state:
            raise ValueError(f'an update that keeps nothing was given {", ".join(state)}')


class FlowPolicyOptimization(Update):
    """FPO: ratios of stored pairs, the advantages' sign, and flow matching on successes beside it.

    :param flow: trained.
    :param config: settings.
    :param imitation: successes.
    :param optimizer: of the flow's parameters.
    :param group: processes that share the work; this one alone if None.
    """

    def __init__(self, flow: TrainedFlow, config: FPOConfig, imitation: Imitation,
                 optimizer: torch.optim.Optimizer, group: Group | None = None) -> None:
        self._flow, self._config, self._imitation, self._group = flow, config, imitation, group or Group()
        self._epochs = Epochs(flow, config, optimizer, self._group)

    def run(self, batch: Batch) -> dict[str, float]:
        """Run the epochs of one iteration; return ratio, clip fraction, drift and changes of the loss.

        :raises RatioError: where a ratio is not 1 before the first step.
        :raises NotFiniteError: for losses or gradients that are not finite.
        """
        if batch.narrow:
            return self._narrow(batch)
        config, flow, decisions = self._config, self._flow, batch.decisions
        count = len(decisions)
        time, noise = flow.times(count, config.pairs, stratified=True), flow.noise(count, config.pairs)
        batch.drawn.update(time=time, noise=noise)
        old = flow.losses_of_all(decisions, time, noise, config.microbatch, group=self._group)
        check_finite({'flow losses': old}, batch.where, batch.advice)
        metrics = {'flow_loss': float(old.mean())}
        flow.rescale(old)
        old = flow.scaled(old)
        good = self._imitation.sources()
        if not (batch.prefer or good):
            return metrics
        self._epochs.begin(config.epochs * -(-count // config.minibatch), batch)
        order = torch.randperm(count, generator=flow.generator)
        if batch.prefer:
            first = order[:config.minibatch]
            metrics['first_ratio_error'] = self._first_ratio_error(decisions, first, time, noise, old)
        metrics |= self._all_epochs(batch, good, order, time, noise, old)
        if batch.prefer:
            metrics |= self._changes(batch, time, noise, old)
        return metrics

    def _all_epochs(self, batch: Batch, good: list[Weighted], order: Tensor, time: Tensor, noise: Tensor,
                    old: Tensor) -> dict[str, float]:
        """Take the steps, in the first epoch in a given order of the decisions."""
        config = self._config
        for epoch in range(config.epochs):
            if epoch:
                order = torch.randperm(len(batch.decisions), generator=self._flow.generator)
            for rows in order.split(config.minibatch):
                self._epochs.zero()
                entries, shares = {}, {}
                if batch.prefer:
                    log_ratio, raw = self._prefer(batch, rows, time, noise, old)
                    drift = float((raw.exp() - 1 - raw).mean())
                    if config.drift_stop is not None and drift > config.drift_stop:
                        return self._epochs.report() | self._ratio_metrics(log_ratio, drift)
                    if epoch + 1 == config.epochs:
                        entries |= self._ratio_metrics(log_ratio, drift)
                if good:
                    shares['bc_loss'] = self._imitation.add_gradient(good, self._flow.imitation_scale)
                self._epochs.step(shares=shares, **entries)
        return self._epochs.report()

    def _narrow(self, batch: Batch) -> dict[str, float]:
        """Train on the policy's own successes alone, by an optimiser that begins anew; return their loss."""
        config, good = self._config, self._imitation.sources(recorded=False)
        if not good:
            return {}
        optimizer = torch.optim.Adam(self._flow.parameters, lr=batch.rate, betas=(0.9, 0.95))
        steps = Epochs(self._flow, replace(config, decay='linear'), optimizer, self._group)
        steps.begin(config.narrow_steps, batch)
        for _ in range(config.narrow_steps):
            steps.zero()
            steps.step(shares={'bc_loss': self._imitation.add_gradient(good, 1 / config.bc_coefficient)})
        return steps.report()

    def _prefer(self, batch: Batch, rows: Tensor, time: Tensor, noise: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of the FPO objective on some decisions; return their log ratios, and those that tell drift.

        The two are the same, but for ratios that are standardised: those look alike whatever has changed, so that the
        averaged ones tell.

        Of several processes, each adds that of its microbatches; the gradients are yet to be summed.
        """
        objective, pairs = self._config.objective, time.shape[1]
        ratios = pairs if objective.ratio == 'per_sample' else 1
        standardised = objective.ratio == 'standardised'

        def add_gradient(part: Tensor) -> Tensor:
            new = self._flow.scaled(self._flow.losses(batch.decisions, part, time[part], noise[part]))
            value, log_ratio = policy_objective(old[part], new, batch.advantage[part], objective)
            (-value.sum() / (len(rows) * ratios)).backward()
            if standardised:
                averaged = replace(objective, ratio='averaged')
                log_ratio = torch.cat([log_ratio, log_ratios(old[part], new.detach(), averaged)], 1)
            return log_ratio

        # What is standardised is the whole minibatch.
        size = len(rows) if standardised else self._config.microbatch
        found = self._group.computed(rows.split(size), add_gradient, ratios + standardised, self._flow.dtype)
        return found[:, :ratios], found[:, -ratios:]

    def _first_ratio_error(self, decisions: Decisions, first: Tensor, time: Tensor, noise: Tensor,
                           old: Tensor) -> float:
        """Return how far ratios are from 1 before the first step, where they must not be.

        The old losses were taken by microbatch, and so are those that are compared: what a matrix product rounds
        depends on its rows. What is standardised is a whole minibatch, and differences by rounding alone are divided
        by next to nothing: the old losses of the first one are taken anew, as its step takes them.

        :param first: decisions of the first step.
        :param old: changed in place where ratios are standardised.
        """
        flow, config = self._flow, self._config
        error = self._ratio_error(decisions, torch.arange(len(decisions))[:config.microbatch], time, noise, old)
        if config.objective.ratio == 'standardised':
            old[first] = flow.scaled(flow.losses_of_all(decisions, time, noise, len(first), first, self._group))
            error = max(error, self._ratio_error(decisions, first, time, noise, old))
        return error

    def _ratio_error(self, decisions: Decisions, rows: Tensor, time: Tensor, noise: Tensor, old: Tensor) -> float:
        """Return how far ratios of some decisions are from 1, their losses taken as a step takes them, with gradients.

        Neither may the losses of a pair differ, nor the ratio that is made of them.
        """
        new = self._flow.scaled(self._flow.losses(decisions, rows, time[rows], noise[rows]).detach())
        change = torch.cat([old[rows] - new, log_ratios(old[rows], new, self._config.objective)], 1)
        error = float((change.exp() - 1).abs().max())
        if not error <= RATIO_TOLERANCE:  # not a number is an error too
            raise RatioError(f'the ratio before the first step is off by {error:.1e}: old and new losses are not '
                             'computed alike')
        return error

    def _ratio_metrics(self, log_ratio: Tensor, drift: float) -> dict[str, float]:
        """Return what a step of the last epoch, or the one whose drift ends the epochs, reports of its ratios."""
        ratio = log_ratio.exp()
        outside = (ratio - 1).abs() > self._config.objective.clip
        return {'ratio': float(ratio.mean()), 'ratio_max': float(ratio.max()), 'drift': drift,
                'clip_fraction': float(outside.float().mean()), 'log_ratio_std': float(log_ratio.std(correction=0))}

    def _changes(self, batch: Batch, time: Tensor, noise: Tensor, old: Tensor) -> dict[str, float]:
        """Return the mean change of the loss, by the sign of the advantage, after the epochs."""
        rows = torch.arange(len(batch.decisions))[:: max(1, len(batch.decisions) // _LOOKED_AT)][:_LOOKED_AT]
        new = self._flow.losses_of_all(batch.decisions, time, noise, self._config.microbatch, rows, self._group)
        change = (self._flow.scaled(new) - old[rows]).mean(1) / self._flow.scale
        good = batch.advantage[rows] > 0
        return {name: float(change[where].mean()) for name, where in (('loss_change_good', good),
                                                                      ('loss_change_bad', ~good)) if where.any()}
