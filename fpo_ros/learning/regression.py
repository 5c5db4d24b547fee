"""Updates without a ratio: flow matching on what was done, weighted by advantage or on successes alone."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch
from torch import Tensor

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions, joined
from fpo_ros.learning.imitation import Imitation
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import Batch, Epochs, Update

#: Largest exponent of the weights of advantage-weighted regression.
_LARGEST_EXPONENT = 3.0


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
        self._epochs = Epochs(flow, config, optimizer, self._group)
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
        kept = batch.decisions
        if not flow.over_latents:  # what a chunk was drawn through says nothing here
            kept = replace(kept, paths=kept.paths[:, :0].clone())
        self.kept.append((kept, weight))
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
        self._epochs = Epochs(flow, config, optimizer, group or Group())

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
