"""Flow matching on successes: the force that holds a policy near what has worked."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions, joined
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.trained_flow import TrainedFlow


class Imitation:
    """The policy's own newest successes, and recorded ones.

    :param flow: trained on them.
    :param config: weight, batch and history.
    :param recorded: successful recorded decisions, if any. Nobody knows latents of theirs: a flow over latents
        imitates the policy's own successes alone.
    :param group: processes that share each batch; this one alone if None.
    """

    def __init__(self, flow: TrainedFlow, config: FPOConfig, recorded: Decisions | None,
                 group: Group | None = None) -> None:
        self._flow, self._config, self._group = flow, config, group or Group()
        self.recorded = None if flow.over_latents else recorded
        self.own: deque[Decisions] = deque(maxlen=config.bc_history)

    def keep(self, successes: Decisions) -> None:
        """Keep an iteration's successful decisions, without the states of flows that do not lead to latents."""
        paths = successes.paths if self._flow.over_latents else successes.paths[:, :0].clone()
        self.own.append(replace(successes, paths=paths))

    def sources(self) -> list[Decisions]:
        """Return what is imitated now; nothing without a weight."""
        if not self._config.bc_coefficient:
            return []
        own = joined(list(self.own), pictures=bool(self._flow.policy.contract.cameras))
        return [source for source in (own, self.recorded) if source is not None and len(source)]

    def add_gradient(self, sources: list[Decisions], scale: float) -> float:
        """Add the gradient of flow matching on successful decisions, as many of each source; return its loss.

        Of several processes, each does so for its share of the batch; gradients and losses are yet to be summed.

        :param scale: of losses in the update.
        """
        config, flow, total = self._config, self._flow, 0.0
        for index, source in enumerate(sources):
            count = (config.bc_batch + index) // len(sources)
            rows = torch.randint(len(source), (count,), generator=flow.generator)
            time = flow.times(count, config.bc_pairs, stratified=False)
            noise = flow.noise(count, config.bc_pairs)
            rows, time, noise = (self._group.share(drawn) for drawn in (rows, time, noise))
            if not len(rows):
                continue
            loss = flow.losses(source, rows, time, noise).sum() / (config.bc_batch * config.bc_pairs)
            (config.bc_coefficient * scale * loss).backward()
            total += loss.item()
        return total
