"""The update of the flow that is trained, from decisions and their advantages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions, joined
from fpo_ros.learning.imitation import Imitation, Weighted
from fpo_ros.learning.objective import policy_objective
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.policy.finite import NotFiniteError, check_finite

#: Largest distance of a ratio from 1 before the first step.
RATIO_TOLERANCE = 1e-5
#: Decisions whose losses are taken again behind the last epoch.
_LOOKED_AT = 512
#: Largest exponent of the weights of advantage-weighted regression.
_LARGEST_EXPONENT = 3.0


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
    :param rate: learning rate at the first step; it decays linearly to zero.
    """

    decisions: Decisions
    advantage: Tensor
    rollout: Rollout
    reward: np.ndarray
    prefer: bool
    where: str
    advice: str
    rate: float


class Epochs:
    """Optimiser steps whose rate decays to zero within an iteration, and what they report.

    :param flow: trained.
    :param optimizer: of its parameters.
    :param max_grad_norm: gradient clipping.
    :param group: processes whose gradients are summed.
    """

    def __init__(self, flow: TrainedFlow, optimizer: torch.optim.Optimizer, max_grad_norm: float,
                 group: Group) -> None:
        self._flow, self._optimizer, self._max_grad_norm, self._group = flow, optimizer, max_grad_norm, group

    def begin(self, total: int, batch: Batch) -> None:
        """Begin an iteration of ``total`` steps."""
        self._total, self._done, self._batch = total, 0, batch
        self._seen: dict[str, list[float]] = {}

    def zero(self) -> None:
        """Prepare the gradients of a step."""
        for group in self._optimizer.param_groups:
            group['lr'] = self._batch.rate * (1 - self._done / self._total)
        self._optimizer.zero_grad(set_to_none=True)

    def step(self, shares: dict[str, float] | None = None, **entries: float) -> None:
        """Take a step along the gradients of all processes, and note what it reports.

        :param shares: what of a number this process computed; reported is the sum.
        :raises NotFiniteError: for a gradient that is not finite; no weight has changed then.
        """
        shares = shares or {}
        sums = self._group.sum_gradients(self._flow.parameters, list(shares.values()))
        norm = float(torch.nn.utils.clip_grad_norm_(self._flow.parameters, self._max_grad_norm))
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
        self._epochs = Epochs(flow, optimizer, config.max_grad_norm, self._group)

    def run(self, batch: Batch) -> dict[str, float]:
        """Run the epochs of one iteration; return ratio, clip fraction, drift and changes of the loss.

        :raises RatioError: where a ratio is not 1 before the first step.
        :raises NotFiniteError: for losses or gradients that are not finite.
        """
        config, flow, decisions = self._config, self._flow, batch.decisions
        count = len(decisions)
        time, noise = flow.times(count, config.pairs, stratified=True), flow.noise(count, config.pairs)
        old = flow.losses_of_all(decisions, time, noise, config.microbatch, group=self._group)
        check_finite({'flow losses': old}, batch.where, batch.advice)
        metrics = {'flow_loss': float(old.mean())}
        flow.rescale(old)
        old = flow.scaled(old)
        good = self._imitation.sources()
        if not (batch.prefer or good):
            return metrics
        self._epochs.begin(config.epochs * -(-count // config.minibatch), batch)
        if batch.prefer:
            metrics['first_ratio_error'] = self._first_ratio_error(decisions, time, noise, old)
        metrics |= self._all_epochs(batch, good, time, noise, old)
        if batch.prefer:
            metrics |= self._changes(batch, time, noise, old)
        return metrics

    def _all_epochs(self, batch: Batch, good: list[Weighted], time: Tensor, noise: Tensor,
                    old: Tensor) -> dict[str, float]:
        config = self._config
        for epoch in range(config.epochs):
            order = torch.randperm(len(batch.decisions), generator=self._flow.generator)
            for rows in order.split(config.minibatch):
                self._epochs.zero()
                entries, shares = {}, {}
                if batch.prefer:
                    log_ratio = self._prefer(batch, rows, time, noise, old)
                    drift = float((log_ratio.exp() - 1 - log_ratio).mean())
                    if config.drift_stop is not None and drift > config.drift_stop:
                        return self._epochs.report() | {'drift': drift}
                    if epoch + 1 == config.epochs:
                        entries |= self._ratio_metrics(log_ratio, drift)
                if good:
                    shares['bc_loss'] = self._imitation.add_gradient(good, self._flow.scale)
                self._epochs.step(shares=shares, **entries)
        return self._epochs.report()

    def _prefer(self, batch: Batch, rows: Tensor, time: Tensor, noise: Tensor, old: Tensor) -> Tensor:
        """Add the gradient of the FPO objective on some decisions; return their log ratios.

        Of several processes, each adds that of its microbatches; the gradients are yet to be summed.
        """
        objective, pairs = self._config.objective, time.shape[1]
        ratios = pairs if objective.ratio == 'per_sample' else 1

        def add_gradient(part: Tensor) -> Tensor:
            new = self._flow.scaled(self._flow.losses(batch.decisions, part, time[part], noise[part]))
            value, log_ratio = policy_objective(old[part], new, batch.advantage[part], objective)
            (-value.sum() / (len(rows) * ratios)).backward()
            return log_ratio

        # What is standardised is the whole minibatch.
        size = len(rows) if objective.ratio == 'standardised' else self._config.microbatch
        return self._group.computed(rows.split(size), add_gradient, ratios)

    def _first_ratio_error(self, decisions: Decisions, time: Tensor, noise: Tensor, old: Tensor) -> float:
        """Return how far ratios are from 1 before the first step, where they must not be.

        Losses are taken as a step takes them, with gradients, of the same microbatch as the old ones: what a matrix
        product rounds depends on its rows.
        """
        rows = torch.arange(len(decisions))[:self._config.microbatch]
        new = self._flow.scaled(self._flow.losses(decisions, rows, time[rows], noise[rows]).detach())
        error = float(((old[rows] - new).exp() - 1).abs().max())
        if not error <= RATIO_TOLERANCE:  # not a number is an error too
            raise RatioError(f'the ratio before the first step is off by {error:.1e}: old and new losses are not '
                             'computed alike')
        return error

    def _ratio_metrics(self, log_ratio: Tensor, drift: float) -> dict[str, float]:
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


class AdvantageWeightedRegression(Update):
    """Flow matching on the newest iterations' decisions, weighted by exp(A / temperature) (arXiv 1910.00177).

    The exponent is capped at 3; each step draws fresh pairs. Where all episodes of an iteration end alike there is
    nothing to prefer: its decisions weigh 1 if they succeeded, and nothing if they failed.

    :param flow: trained.
    :param config: settings; ``bc_history`` iterations are kept.
    :param optimizer: of the flow's parameters.
    :param group: processes that share the work; this one alone if None.
    """

    def __init__(self, flow: TrainedFlow, config: FPOConfig, optimizer: torch.optim.Optimizer,
                 group: Group | None = None) -> None:
        self._flow, self._config, self._group = flow, config, group or Group()
        self._epochs = Epochs(flow, optimizer, config.max_grad_norm, self._group)
        #: Decisions of the newest iterations with their weights; part of a checkpoint.
        self.kept: deque[tuple[Decisions, Tensor]] = deque(maxlen=config.bc_history)

    def run(self, batch: Batch) -> dict[str, float]:
        """Run the epochs of one iteration; return the weighted loss. Nothing happens before the first success.

        :raises NotFiniteError: for gradients that are not finite.
        """
        config, flow = self._config, self._flow
        weight = (batch.advantage / config.temperature).clamp(max=_LARGEST_EXPONENT).exp()
        if not batch.prefer:
            weight = torch.full_like(weight, float(batch.rollout.rewarded.any()))
        self.kept.append((batch.decisions, weight))
        decisions = joined([part for part, _ in self.kept], pictures=bool(flow.policy.contract.cameras))
        weights = torch.cat([weight for _, weight in self.kept])
        if not weights.any():
            return {}
        self._epochs.begin(config.epochs * -(-len(decisions) // config.minibatch), batch)
        for _ in range(config.epochs):
            for rows in torch.randperm(len(decisions), generator=flow.generator).split(config.minibatch):
                self._epochs.zero()
                total = 0.0
                for index, part in enumerate(rows.split(config.microbatch)):
                    time, noise = flow.times(len(part), config.pairs, stratified=False), \
                        flow.noise(len(part), config.pairs)
                    if not self._group.computes(index):
                        continue
                    loss = (weights[part, None] * flow.losses(decisions, part, time, noise)).sum()
                    (loss / (len(rows) * config.pairs)).backward()
                    total += loss.item() / (len(rows) * config.pairs)
                self._epochs.step(shares={'weighted_loss': total})
        return self._epochs.report()


class FilteredCloning(Update):
    """Flow matching on successes alone, as many steps as FPO takes.

    :param flow: trained.
    :param config: settings; the weight of imitation scales the gradient.
    :param imitation: successes.
    :param optimizer: of the flow's parameters.
    :param group: processes that share the work; this one alone if None.
    """

    def __init__(self, flow: TrainedFlow, config: FPOConfig, imitation: Imitation,
                 optimizer: torch.optim.Optimizer, group: Group | None = None) -> None:
        self._config, self._imitation = config, imitation
        self._epochs = Epochs(flow, optimizer, config.max_grad_norm, group or Group())

    def run(self, batch: Batch) -> dict[str, float]:
        """Run the epochs of one iteration; nothing happens before the first success.

        :raises NotFiniteError: for gradients that are not finite.
        """
        good = self._imitation.sources()
        if not good:
            return {}
        total = self._config.epochs * -(-len(batch.decisions) // self._config.minibatch)
        self._epochs.begin(total, batch)
        for _ in range(total):
            self._epochs.zero()
            self._epochs.step(shares={'bc_loss': self._imitation.add_gradient(good, 1.0)})
        return self._epochs.report()
