"""Settings of fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fpo_ros.learning.objective import ObjectiveConfig
from fpo_ros.learning.rollout import check_reward
from fpo_ros.learning.unused_settings import check_used
from fpo_ros.policy.contract import ACTION_DIM
from fpo_ros.policy.flow import Sampling
from fpo_ros.sim.randomisation import Randomisation
from fpo_ros.sim.task import MAX_STEPS

#: What makes a policy of episodes: FPO and what it is compared with.
ALGORITHMS = ('fpo', 'awr', 'filtered_bc', 'reinflow', 'ppo', 'dsrl')
#: What is trained: the action expert; adapters of it and its projections; or an actor over its start noise while the
#: expert stays as it is.
PLACEMENTS = ('expert', 'lora', 'latent')
#: How much the policy's own successes are imitated: alike, or as they exceed what was expected.
WEIGHTINGS = ('equal', 'surplus')
#: How the learning rate goes within an iteration.
DECAYS = ('linear', 'none')
CRITICS = ('value', 'ensemble')
CRITIC_INPUTS = ('privileged', 'observation')
BASELINES = ('fresh', 'stored')
#: Algorithms whose ratio is that of the likelihoods of chains of Gaussian steps.
CHAINS = ('reinflow', 'ppo')


@dataclass(frozen=True)
class CriticConfig:
    """Settings of what predicts returns.

    :param kind: ``'value'``, V of a state; or ``'ensemble'``, several Q of a state and a chunk (or a latent), of which
        the least counts (arXiv 2510.09976, eq. 5 and 6).
    :param inputs: ``'privileged'``, joints and object poses, which only simulation has; or ``'observation'``, what the
        policy sees.
    :param members: critics of an ensemble.
    :param baseline: the chunk at which an ensemble values a state: one drawn anew (``'fresh'``), or the one that was
        executed (``'stored'``, as arXiv 2510.09976 has it), which takes the executed chunk's own merit out of its
        advantage.
    :param polyak: share of the way that the ensemble's target copies go towards it in every step.
    :param learning_rate: of Adam.
    :param steps: optimiser steps per iteration.
    :param history: iterations whose decisions are trained on.
    """

    kind: str = 'value'
    inputs: str = 'privileged'
    members: int = 5
    baseline: str = 'fresh'
    polyak: float = 0.005
    learning_rate: float = 1e-3
    steps: int = 200
    history: int = 3

    def __post_init__(self) -> None:
        _check('critic', self.kind, CRITICS)
        _check('input of a critic', self.inputs, CRITIC_INPUTS)
        _check('baseline of a critic', self.baseline, BASELINES)
        for name in ('members', 'steps', 'history'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} of the critic must be at least 1, got {getattr(self, name)}')
        if not 0 < self.polyak <= 1:
            raise ValueError(f'polyak of the critic must lie in (0, 1], got {self.polyak}')
        if not self.learning_rate > 0:
            raise ValueError(f'learning_rate of the critic must be positive, got {self.learning_rate}')


@dataclass(frozen=True)
class FPOConfig:
    """Settings of fine-tuning.

    :param algorithm: one of :data:`ALGORITHMS`.
    :param placement: one of :data:`PLACEMENTS`.
    :param lora_rank: of adapters, with placement ``'lora'``; openpi's if None.
    :param episodes: episodes per iteration.
    :param replay: largest share of an iteration's episodes that try scenes again which were new, and failed, in one
        of the five iterations before.
    :param max_steps: cap of an episode [control steps].
    :param reward: what gives reward 1: success by gym-aloha's rule (``'gym'``) or by the stricter one (``'strict'``).
    :param pairs: stored (t, noise) pairs per decision.
    :param epochs: passes over the decisions of an iteration.
    :param minibatch: decisions per optimiser step.
    :param microbatch: decisions per forward pass; gradients accumulate over a minibatch.
    :param learning_rate: of what is trained.
    :param decay: of the learning rate within an iteration, one of :data:`DECAYS`: to zero, or not at all.
    :param smoothing: iterations over whose mean success a policy is judged: for the best one, ``settling``,
        ``patience`` and ``restore_drop``. Where one iteration has episodes enough to tell, 1.
    :param settling: share of failing episodes below which the learning rate falls in proportion to it; 0 for never.
    :param patience: iterations after which the learning rate is halved unless fewer episodes fail than ever; never if
        None.
    :param narrow_steps: optimiser steps per iteration of the narrowing that begins where ``patience`` has run out, or
        success has fallen by ``restore_drop``, for the first time: from then on rollouts are of the best policy so far
        and what it becomes, and nothing but their successes is trained on, which makes chunks as narrow as those; 0
        for no such end.
    :param narrow_learning_rate: of those, at the first of them; it falls to zero within an iteration, and is halved by
        ``patience`` from the beginning of the narrowing on.
    :param gamma: discount per decision.
    :param advantage_floor: least deviation that advantages are divided by.
    :param lam: lambda of GAE.
    :param critic: of returns.
    :param warmup: iterations that train the critic alone. Chains of Gaussian steps need one: the first iteration's
        chunks are the start policy's, without the noise whose densities they are trained by.
    :param bc_coefficient: weight of flow matching on successes: the policy's own recent ones and recorded ones.
    :param bc_weighting: how the policy's own successes weigh in it, one of :data:`WEIGHTINGS`: alike (``'equal'``) or
        by what their returns exceed the expected ones by (``'surplus'``).
    :param bc_history: iterations whose successes are kept.
    :param bc_batch: successful decisions per minibatch, half of them recorded where there are both kinds: 2 or more
        with recorded ones.
    :param bc_pairs: fresh pairs per successful decision.
    :param max_grad_norm: gradient clipping.
    :param drift_stop: end the epochs of an iteration where the mean of rho - 1 - log rho over a minibatch exceeds
        this; never if None.
    :param average: weight of the past in the moving average of weights, per iteration; none is kept at 0.
    :param restore_drop: go back to the best policy with half the learning rate where success has fallen so far below
        the best, and farther than chance explains; never if None.
    :param temperature: of advantage-weighted regression: decisions weigh exp(A / temperature).
    :param perturbation: deviation of the noise added to executed chunks, in normalised units.
    :param sampling: how chunks are drawn in training; by default with less start noise than the policy will have,
        which takes its rollouts to what it already does best.
    :param spread_floor: share of the start policy's chunk spread below which rollouts start from more noise, twice as
        much at half of it: what only repeats itself finds nothing new; 0 for never.
    :param objective: ratio and trust region.
    :param randomisation: what every episode draws; nothing if None.
    """

    algorithm: str = 'fpo'
    placement: str = 'expert'
    lora_rank: int | None = None
    episodes: int = 128
    replay: float = 0.25
    max_steps: int = MAX_STEPS
    reward: str = 'strict'
    pairs: int = 4
    epochs: int = 4
    minibatch: int = 256
    microbatch: int = 64
    learning_rate: float = 2e-4
    decay: str = 'linear'
    smoothing: int = 3
    settling: float = 0.08
    patience: int | None = 12
    narrow_steps: int = 0
    narrow_learning_rate: float = 5e-4
    gamma: float = 0.99
    lam: float = 0.95
    advantage_floor: float = 0.1
    critic: CriticConfig = field(default_factory=CriticConfig)
    warmup: int = 1
    bc_coefficient: float = 0.3
    bc_weighting: str = 'equal'
    bc_history: int = 5
    bc_batch: int = 128
    bc_pairs: int = 4
    max_grad_norm: float = 1.0
    drift_stop: float | None = 0.03
    average: float = 0.0
    restore_drop: float | None = 0.05
    temperature: float = 0.5
    perturbation: float = 0.0
    sampling: Sampling = field(default_factory=lambda: Sampling(noise_range=(0.0, 1.0)))
    spread_floor: float = 0.35
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    randomisation: Randomisation | None = None

    def __post_init__(self) -> None:
        check_reward(self.reward)
        _check('algorithm', self.algorithm, ALGORITHMS)
        _check('placement', self.placement, PLACEMENTS)
        _check('weighting of imitation', self.bc_weighting, WEIGHTINGS)
        _check('decay', self.decay, DECAYS)
        self._check_bounds()
        if self.algorithm in ('reinflow', 'ppo', 'dsrl') and (self.placement == 'latent' or self.perturbation
                                                              or self.sampling.noise_std or self.sampling.beyond):
            raise ValueError(f'{self.algorithm} chooses its own placement and noise: leave placement, perturbation, '
                             'noise_std and beyond out')
        if self.algorithm == 'dsrl' and self.placement != 'expert':
            raise ValueError('dsrl trains an actor over latents: leave placement out')
        if self.lora_rank is not None and (self.placement != 'lora' or self.lora_rank < 1):
            raise ValueError(f'lora_rank {self.lora_rank} needs placement lora, and must be at least 1')
        if self.algorithm == 'ppo' and self.sampling.steps not in (None, 1):
            raise ValueError('ppo has a flow of one step: leave sampling.steps out')
        if self.algorithm in CHAINS and not self.warmup:
            raise ValueError(f'{self.algorithm} cannot learn from the first iteration, whose chunks are the start '
                             "policy's, without noise: warmup must be at least 1")
        check_used(self)
        if self.placement == 'latent' and (self.perturbation or self.sampling.noise_std):
            raise ValueError('a latent is not perturbed: leave perturbation and noise_std out, or train the expert')

    def _check_bounds(self) -> None:
        for names, fits, bounds in (
                (('pairs', 'epochs', 'minibatch', 'microbatch', 'smoothing', 'bc_history', 'bc_batch', 'bc_pairs'),
                 lambda value: value >= 1, 'be at least 1'),
                (('warmup', 'learning_rate', 'settling', 'advantage_floor', 'bc_coefficient', 'narrow_steps',
                  'perturbation', 'spread_floor'),
                 lambda value: value >= 0, 'not be negative'),
                (('temperature', 'max_grad_norm', 'narrow_learning_rate'), lambda value: value > 0, 'be positive'),
                (('gamma', 'lam'), lambda value: 0 <= value <= 1, 'lie in [0, 1]'),
                (('replay',), lambda value: 0 <= value <= 0.5, 'lie in [0, 0.5]'),
                (('drift_stop', 'restore_drop', 'patience'), lambda value: value is None or value > 0,
                 'be positive or null'),
                (('average',), lambda value: 0 <= value < 1, 'lie in [0, 1)')):
            for name in names:
                if not fits(getattr(self, name)):
                    raise ValueError(f'{name} must {bounds}, got {getattr(self, name)}')
        if self.algorithm == 'filtered_bc' and not self.bc_coefficient:
            raise ValueError('filtered_bc only imitates: bc_coefficient must be positive')
        if self.narrow_steps and not (self.bc_coefficient and self.patience):
            raise ValueError('narrow_steps begin where patience runs out, and imitate what bc_coefficient weighs: one '
                             'of the two is off, so leave narrow_steps out')

    @property
    def imitates_recorded(self) -> bool:
        """Whether recorded decisions are imitated: where anything is, and not over latents, which they do not have."""
        return self.algorithm not in ('awr', 'dsrl') and self.placement != 'latent' and self.bc_coefficient > 0

    def training_sampling(self, flow_steps: int) -> Sampling:
        """Return how chunks are drawn in training, the perturbation in it.

        :param flow_steps: Euler steps by the contract.
        :raises ValueError: where noise is injected already.
        """
        if not self.perturbation:
            return self.sampling
        if self.sampling.noise_std:
            raise ValueError('perturbation and noise_std both add noise: use one')
        steps = self.sampling.count(flow_steps)
        quiet, loud = (0.0,) * ACTION_DIM, (self.perturbation,) * ACTION_DIM
        return replace(self.sampling, noise_std=(quiet,) * (steps - 1) + (loud,))


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} '{value}': use {', '.join(known[:-1])} or {known[-1]}")


def config_from_dict(data: dict) -> FPOConfig:
    """Read what ``dataclasses.asdict`` made of settings; KeyError, TypeError or ValueError where it does not fit."""
    drawn = data.get('randomisation')
    return FPOConfig(**data | {
        'critic': CriticConfig(**data['critic']), 'objective': ObjectiveConfig(**data['objective']),
        'sampling': Sampling(**data['sampling']),
        'randomisation': None if drawn is None else Randomisation.from_dict(drawn)})
