"""Soft actor-critic over the start noise of a frozen policy (DSRL, arXiv 2506.15799), and FPO without its ratio.

The actor is a squashed Gaussian over one latent per chunk, repeated over its steps
(:class:`fpo_ros.policy.latent.GaussianLatent`); critics see the same vector as FPO's. Settings follow DSRL's code for
pi0 where fine-tuning has none of its own: ten critics whose mean counts, an entropy of -1/2 per entry as target (its
default in simulation), copies that follow at 0.005. What is rewarded is one success, so the temperature begins low, and
no return exceeds 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.critic import Ensemble
from fpo_ros.learning.optimizers import load_optimizer, named, optimizer_tensors
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import Batch, Update
from fpo_ros.learning.values import seen_by_critic, seen_size
from fpo_ros.policy.latent import GaussianLatent

#: Critics and their width, decisions that are kept, and gradient steps for each new decision (DSRL: 20).
MEMBERS, WIDTH, CAPACITY, STEPS_PER_DECISION = 10, 128, 100_000, 1
#: Entropy of each entry of the latent that the temperature is steered towards, and where the temperature begins.
TARGET_ENTROPY, FIRST_TEMPERATURE = -0.5, 0.01
_BATCH = 256


def log_density(actor: GaussianLatent, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, action_dim) latents and their (B,) log densities, for (B, action_dim) standard normal noise.

    w = b tanh(u): log p(w) = log N(u) - sum log(b (1 - tanh² u)).
    """
    mean, log_std = actor.distribution(seen)
    u = mean + log_std.exp() * noise
    normal = -noise.square() / 2 - log_std - math.log(2 * math.pi) / 2
    squashed = 2 * (math.log(2) - u - nn.functional.softplus(-2 * u)) + actor.bound.log()
    return actor.bound * torch.tanh(u), (normal - squashed).sum(-1)


class LatentSoftActorCritic(Update):
    """Updates of actor, critics and temperature from a replay of decisions.

    :param flow: of a policy with a Gaussian actor over latents.
    :param config: settings.
    :param optimizer: of the actor.
    :param seed: of the critics' initial weights.
    """

    def __init__(self, flow: TrainedFlow, config: FPOConfig, optimizer: torch.optim.Optimizer, seed: int) -> None:
        self._flow, self._config, self._optimizer = flow, config, optimizer
        size = seen_size(flow.policy, config.critic.inputs) + flow.policy.contract.action_dim
        self.critics = Ensemble(size, MEMBERS, seed, WIDTH)
        self.critic_optimizer = torch.optim.Adam(self.critics.members.parameters(), lr=3e-4)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(FIRST_TEMPERATURE)))
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], lr=3e-4)
        #: Decisions, oldest first, a tensor per entry; part of a checkpoint.
        self.replay: dict[str, Tensor] = {}

    def warm_up(self, batch: Batch) -> dict[str, float]:
        """See :meth:`Update.warm_up`: what was decided is learned from later."""
        self.remember(batch)
        return {}

    def remember(self, batch: Batch) -> None:
        """Add an iteration's decisions to the replay; the first ones fit the critics' normalisation."""
        rollout, valid = batch.rollout, torch.as_tensor(batch.rollout.valid)
        seen = seen_by_critic(rollout, self._config.critic.inputs)
        acted = self._flow.expert.see(rollout.states.flatten(0, 1), rollout.prefix_kv).view(*valid.shape, -1)
        follows = torch.zeros(valid.shape)
        follows[:, :-1] = valid[:, 1:].float()
        new = {'seen': seen[valid], 'acted': acted[valid], 'latent': rollout.paths[:, :, 0, 0][valid],
               'reward': torch.as_tensor(batch.reward, dtype=torch.float32)[valid], 'follows': follows[valid],
               'next_seen': torch.roll(seen, -1, 1)[valid], 'next_acted': torch.roll(acted, -1, 1)[valid]}
        if not self.replay:
            vectors = torch.cat([new['seen'], new['latent']], -1).numpy()
            self.critics.begin(vectors, float(np.mean(rollout.rewarded)))
            self.replay = {name: value[:0] for name, value in new.items()}
        self.replay = {name: torch.cat([self.replay[name], value])[-CAPACITY:] for name, value in new.items()}

    def run(self, batch: Batch) -> dict[str, float]:
        """Take the steps of one iteration; return errors, temperature and entropy."""
        self.remember(batch)
        for group in self._optimizer.param_groups:
            group['lr'] = batch.rate
        noted: dict[str, list[float]] = {}
        for _ in range(STEPS_PER_DECISION * len(batch.decisions)):
            rows = torch.randint(len(self.replay['seen']), (_BATCH,), generator=self._flow.generator)
            for name, value in self._step({name: value[rows] for name, value in self.replay.items()}).items():
                noted.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in noted.items()}

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Update.state`."""
        return {'log_temperature': self.log_temperature.detach(),
                **{f'critics/{name}': value for name, value in self.critics.state_dict().items()},
                **{f'replay/{name}': value for name, value in self.replay.items()},
                **optimizer_tensors('critic_optimizer', self.critic_optimizer),
                **optimizer_tensors('temperature_optimizer', self.temperature_optimizer)}

    def load(self, state: dict[str, Tensor]) -> None:
        """See :meth:`Update.load`."""
        with torch.no_grad():
            self.log_temperature.copy_(state['log_temperature'])
        self.critics.load_state_dict(named('critics/', state))
        self.replay = named('replay/', state)
        load_optimizer('critic_optimizer', self.critic_optimizer, state)
        load_optimizer('temperature_optimizer', self.temperature_optimizer, state)

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self._flow.policy.contract.action_dim, generator=self._flow.generator)

    @torch.no_grad()
    def targets(self, part: dict[str, Tensor]) -> Tensor:
        """Return what critics are to predict: y = R + gamma (1 - end) mean_i Q'_i(s', w') within 0 and 1.

        As in DSRL's code, entropy is sought by the actor alone: beside returns of at most 1, that of a latent would be
        all there is. No return lies outside 0 and 1; critics that believe it does drive one another on.
        """
        latent = self._flow.expert.sample(part['next_acted'], self._noise(len(part['reward'])))
        vectors = torch.cat([part['next_seen'], latent], -1)
        following = torch.stack([critic(vectors) for critic in self.critics.targets]).mean(0)
        return (part['reward'] + self._config.gamma * part['follows'] * following).clamp(0, 1)

    def _step(self, part: dict[str, Tensor]) -> dict[str, float]:
        actor, config, temperature = self._flow.expert, self._config, self.log_temperature.detach().exp()
        wanted = self.targets(part)
        error = (self.critics(torch.cat([part['seen'], part['latent']], -1)) - wanted).square().mean()
        self.critic_optimizer.zero_grad(set_to_none=True)
        error.backward()
        self.critic_optimizer.step()
        self.critics.follow(config.critic.polyak)
        latent, density = log_density(actor, part['acted'], self._noise(len(part['acted'])))
        value = self.critics(torch.cat([part['seen'], latent], -1)).mean(0)
        parameters = self._flow.parameters  # of the actor alone: gradients of ten critics would be a sixth of a step
        gradients = torch.autograd.grad((temperature * density - value).mean(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norm = float(nn.utils.clip_grad_norm_(self._flow.parameters, config.max_grad_norm))
        self._optimizer.step()
        self.temperature_optimizer.zero_grad(set_to_none=True)
        (self.log_temperature.exp() * (-density.detach().mean() - TARGET_ENTROPY * latent.shape[-1])).backward()
        self.temperature_optimizer.step()
        return {'soft_q_loss': error.item(), 'entropy': -float(density.detach().mean()),
                'temperature': float(temperature), 'grad_norm': norm}
