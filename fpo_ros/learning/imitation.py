"""Flow matching on successes: the force that holds a policy near what has worked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions, joined
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.trained_flow import TrainedFlow


@dataclass
class Weighted:
    """Decisions, and how much each is imitated.

    :param decisions: M decisions.
    :param weight: (M,), not negative.
    """

    decisions: Decisions
    weight: Tensor

    def __len__(self) -> int:
        return len(self.decisions)


def check_imitated(config: FPOConfig) -> None:
    """Refuse recorded pairs that nothing would come of, or that would leave no place for the policy's own successes.

    :raises ValueError: saying why, and what to do.
    """
    if config.imitates_recorded:
        if config.bc_batch < 2:
            raise ValueError(f'bc_batch is {config.bc_batch}, and recorded demonstrations and own successes have half '
                             'of a batch each: set it to 2 or more, or leave --demonstrations out')
        return
    why = (f'{config.algorithm} imitates nothing' if config.algorithm in ('awr', 'dsrl') else
           'nobody knows the latents of recorded chunks' if config.placement == 'latent' else 'bc_coefficient is 0')
    raise ValueError(f'recorded demonstrations would not be used, for {why}: leave --demonstrations out')


class Imitation:
    """The policy's own newest successes, and recorded ones.

    A decision of the policy's own weighs what its return exceeds the expected one by, (R - V)+ (self-imitation
    learning, Oh et al. 2018, arXiv 1806.05635), or 1, as the settings say; a recorded one weighs 1.

    :param flow: trained on them.
    :param config: weight, batch and history.
    :param recorded: successful recorded decisions, if any. Nobody knows latents of theirs: a flow over latents
        imitates the policy's own successes alone.
    :param group: processes that share each batch; this one alone if None.
    """

    def __init__(self, flow: TrainedFlow, config: FPOConfig, recorded: Decisions | None,
                 group: Group | None = None) -> None:
        self._flow, self._config, self._group = flow, config, group or Group()
        self.recorded = recorded if config.imitates_recorded else None
        self.own: deque[Weighted] = deque(maxlen=config.bc_history)

    def keep(self, successes: Decisions, surplus: Tensor) -> None:
        """Keep an iteration's successful decisions, without the states of flows that do not lead to latents.

        :param surplus: (M,) what the return of each exceeds the expected one by.
        """
        paths = successes.paths if self._flow.over_latents else successes.paths[:, :0].clone()
        equal = self._config.bc_weighting == 'equal'
        self.own.append(Weighted(replace(successes, paths=paths),
                                 torch.ones(len(successes)) if equal else surplus.clamp(min=0)))

    def sources(self, recorded: bool = True) -> list[Weighted]:
        """Return what is imitated now; nothing without a coefficient.

        :param recorded: with what was recorded; otherwise the policy's own successes alone.
        """
        if not self._config.bc_coefficient:
            return []
        found = []
        own = joined([part.decisions for part in self.own], pictures=bool(self._flow.policy.contract.cameras))
        if own is not None:
            found.append(Weighted(own, torch.cat([part.weight for part in self.own])))
        if recorded and self.recorded is not None and len(self.recorded):
            found.append(Weighted(self.recorded, torch.ones(len(self.recorded))))
        return [source for source in found if source.weight.any()]

    def add_gradient(self, sources: list[Weighted], scale: float) -> float:
        """Add the gradient of weighted flow matching on successful decisions; return its loss.

        Decisions are drawn by their weights, as many of each source, and the mean weight multiplies their loss. Of
        several processes, each does so for its share of the batch; gradients and losses are yet to be summed.

        :param scale: of losses in the update.
        """
        config, flow, total = self._config, self._flow, 0.0
        for index, source in enumerate(sources):
            count = (config.bc_batch + index) // len(sources)
            rows = torch.multinomial(source.weight, count, replacement=True, generator=flow.generator)
            time = flow.times(count, config.bc_pairs, stratified=False)
            noise, decided = flow.noise(count, config.bc_pairs), flow.decided(count, config.bc_pairs)
            rows, time, noise = (self._group.share(drawn) for drawn in (rows, time, noise))
            decided = None if decided is None else self._group.share(decided)
            if not len(rows):
                continue
            loss = flow.losses(source.decisions, rows, time, noise, decided).sum() / (config.bc_batch * config.bc_pairs)
            loss = float(source.weight.mean()) * loss
            (config.bc_coefficient * scale * loss).backward()
            total += loss.item()
        return total
