"""The flow that fine-tuning trains, over chunks or over latents, and its losses on decisions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.objective import credit_weights, pair_losses, scaled
from fpo_ros.learning.parallel import Group
from fpo_ros.policy.adapted import trainable_parameters
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.continued import draw_decided
from fpo_ros.policy.contract import ACTION_DIM
from fpo_ros.policy.flow import Sampling, squared_error
from fpo_ros.policy.latent import FlowLatent

#: Mean losses below this one are scaled like it.
LEAST_LOSS = 1e-6


class TrainedFlow:
    """What is trained of a policy; everything else of it is frozen.

    :param policy: trained in place: its latent actor where it has one, else its action expert, or with placement
        ``'lora'`` the adapters of that and its projections.
    :param config: scale and weights of losses, and how chunks are drawn in training.
    :param generator: of flow times and noise.
    """

    #: Of losses.
    dtype = torch.float32

    def __init__(self, policy: FlowPolicy, config: FPOConfig, generator: torch.Generator) -> None:
        self.policy, self.config, self.objective, self.generator = policy, config, config.objective, generator
        actor = policy.model.latent_actor
        #: The network whose losses are taken; a Gaussian actor over latents has none.
        self.expert = policy.model if actor is None else actor
        self.parameters: list[nn.Parameter] = trainable_parameters(
            policy.model, 'latent' if actor is not None else 'lora_expert' if config.placement == 'lora' else 'expert')
        contract = policy.contract
        # A latent starts the whole chunk: what is not executed of it shaped what was.
        self.executed = contract.horizon if self.over_latents else contract.execute
        self.credit = credit_weights(config.objective, contract.horizon, self.executed, ACTION_DIM,
                                     contract.action_dim)

        #: What losses are multiplied by; an update sets it where it follows from the losses.
        self.scale = config.objective.kappa

    def rescale(self, losses: Tensor) -> None:
        """Let the scale follow from (M, pairs) losses before an update that are not scaled."""
        if self.objective.kappa_unit == 'flow_loss':
            self.scale = self.objective.kappa / max(float(losses.mean()), LEAST_LOSS)

    def scaled(self, losses: Tensor) -> Tensor:
        """Return losses times their scale, clamped."""
        return scaled(losses, self.scale, self.objective)

    @property
    def imitation_scale(self) -> float:
        """What losses of imitation are multiplied by beside those of the objective."""
        return self.scale

    @property
    def over_latents(self) -> bool:
        """Whether the flow leads to latents instead of chunks."""
        return isinstance(self.expert, FlowLatent)

    def sampling(self) -> Sampling:
        """Return how chunks are drawn in training."""
        return self.config.training_sampling(self.policy.contract.flow_steps)

    def state(self) -> dict[str, Tensor]:
        """Return what is trained beside the weights of the policy, for a checkpoint."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""

    def restart(self) -> None:
        """Let what :meth:`state` returns begin anew."""

    def data(self, decisions: Decisions) -> Tensor:
        """Return the (M, H, action_dim) chunks or latents of decisions."""
        return decisions.paths[:, 0] if self.over_latents else decisions.chunks

    def times(self, count: int, pairs: int, stratified: bool) -> Tensor:
        """Return (count, pairs) flow times on the grid of the sampler."""
        steps = self.policy.contract.flow_steps
        u = torch.rand(count, pairs, generator=self.generator)
        if stratified:
            u = (torch.arange(pairs) + u) / pairs
        return (torch.floor(u * steps) + 1).clamp(max=steps) / steps

    def noise(self, count: int, pairs: int) -> Tensor:
        """Return (count, pairs, H, action_dim) noise."""
        contract = self.policy.contract
        return torch.randn(count, pairs, contract.horizon, contract.action_dim, generator=self.generator)

    def decided(self, count: int, pairs: int) -> Tensor | None:
        """Return (count, pairs, H) rows that chunks go on from; None where the flow is not trained to do so."""
        contract = self.policy.contract
        if not contract.max_delay or self.over_latents:
            return None
        return draw_decided(count * pairs, contract.horizon, contract.max_delay, self.generator).view(count, pairs, -1)

    def losses(self, decisions: Decisions, rows: Tensor, time: Tensor, noise: Tensor,
               decided: Tensor | None = None) -> Tensor:
        """Return (rows, pairs) losses of some decisions, before they are scaled.

        :param rows: of the decisions.
        :param time: (rows, pairs).
        :param noise: (rows, pairs, H, action_dim).
        :param decided: (rows, pairs, H) bool, rows that a chunk goes on from; none if None.
        """
        pairs = time.shape[1]
        cache = decisions.cache(self.expert, rows).repeat_interleave(pairs, 2)
        data = self.data(decisions)[rows].repeat_interleave(pairs, 0)
        error = squared_error(self.expert, data, noise.flatten(0, 1), time.flatten(), cache,
                              None if decided is None else decided.flatten(0, 1))
        return pair_losses(error, time.flatten(), self.credit, self.executed).view(len(rows), pairs)

    @torch.no_grad()
    def losses_of_all(self, decisions: Decisions, time: Tensor, noise: Tensor, microbatch: int,
                      rows: Tensor | None = None, group: Group | None = None) -> Tensor:
        """Return (M, pairs) losses of decisions, without gradient, computed as :meth:`losses` of microbatches.

        :param rows: (M,) which; all if None.
        :param group: shares the microbatches; this process alone if None.
        """
        rows = torch.arange(len(decisions)) if rows is None else rows
        return (group or Group()).computed(
            rows.split(microbatch), lambda part: self.losses(decisions, part, time[part], noise[part]), time.shape[1],
            self.dtype)
