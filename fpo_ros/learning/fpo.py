"""One iteration of fine-tuning: roll out, estimate advantages, update what is trained."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fpo_ros.learning.advantages import explained_variance, gae, standardise
from fpo_ros.learning.algorithms import flow_of, imitating_flow_of, start_sampling, update_of
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import flatten, recorded_decisions
from fpo_ros.learning.demonstrations import Demonstrations
from fpo_ros.learning.diagnostics import chunk_spread, region_counts
from fpo_ros.learning.imitation import Imitation
from fpo_ros.learning.parallel import Group
from fpo_ros.learning.replay import FailedScenes
from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.scale import EpisodeOptions, Pool
from fpo_ros.learning.update import Batch
from fpo_ros.learning.values import values_of
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.finite import check_finite
from fpo_ros.policy.flow import Sampling
from fpo_ros.sim.scenes import Scenes, scene_seeds

#: Least share of failures that counts for the learning rate.
LEAST_FAILING = 0.005


class FPO:
    """The learner: policy, critic, optimisers, buffers and random state.

    :param policy: start policy as :func:`fpo_ros.learning.algorithms.prepared` returns it, trained in place; its
        prefix stays frozen.
    :param config: settings.
    :param seed: of scenes, noise, minibatches and the critic.
    :param demonstrations: recorded pairs of successful episodes, imitated beside the policy's own successes.
    :param group: processes that train together, each with a learner of the same state; this one alone if None.
    """

    def __init__(self, policy: FlowPolicy, config: FPOConfig, seed: int = 0,
                 demonstrations: Demonstrations | None = None, group: Group | None = None) -> None:
        self.policy, self.config, self.seed, self._group = policy, config, seed, group or Group()
        self.generator = torch.Generator().manual_seed(seed)
        self.flow = flow_of(policy, config, self.generator)
        #: The policy that made the newest rollout: the one whose success its metrics are.
        self.rolled_out = copy.deepcopy(policy)
        #: Moving average of the weights, where one is kept.
        self.average = copy.deepcopy(policy) if config.average else None
        self.values = values_of(config.critic, self.rolled_out, config.gamma, seed, self.generator)
        self.actor_optimizer = torch.optim.Adam(self.flow.parameters, lr=config.learning_rate, betas=(0.9, 0.99))
        recorded = None if demonstrations is None else recorded_decisions(demonstrations, policy)
        self.imitation = Imitation(imitating_flow_of(policy, config, self.generator), config, recorded, self._group)
        self.update = update_of(self.flow, config, self.imitation, self.actor_optimizer, seed, self._group)
        #: Factor of the learning rate; halved whenever the best policy is restored, or success no longer grows.
        self.rate_factor = 1.0
        #: Rewarded share of the newest iterations' new scenes.
        self.recent: deque[float] = deque(maxlen=config.smoothing)
        #: Least share of failures among them so far.
        self.least_failing = 1.0
        #: Iterations since it last fell, or the rate was halved.
        self.waiting = 0
        #: Iterations before the narrowing; None until it begins.
        self.explored: int | None = None
        self.failed = FailedScenes()
        #: Spread of the chunks of the first policy, and of the newest one that made a rollout.
        self.spreads: list[float] = []
        self.iteration = 0
        self.control_steps = 0
        self._decisions: dict[str, Tensor] = {}

    def newest_decisions(self) -> dict[str, Tensor]:
        """Return what the newest iteration learned from, as far as it got, by name; nothing before its rollout.

        Its decisions with their rewards and what the critic sees, their advantages, and the pairs of the update:
        what the losses that failed are made of.
        """
        return dict(self._decisions)

    def scenes(self) -> tuple[np.ndarray, int]:
        """Return this iteration's scenes, the new ones first, and how many are new."""
        count = self.config.episodes
        again = self.failed.newest(int(self.config.replay * count))
        new = scene_seeds(Scenes.TRAINING, self.seed, count, first=self.iteration * count)[:count - len(again)]
        return np.concatenate([new, again]), len(new)

    def run_iteration(self, pool: Pool, on_phase: Callable[[str], None] | None = None) -> dict:
        """Collect episodes and update once; return the metrics of the iteration, rates and returns of its new scenes.

        Where all episodes have the same return there is nothing to prefer: then successes alone are imitated.

        :param pool: runs the episodes, in this process or elsewhere.
        :raises NotFiniteError: for actions, losses, gradients or weights that are not finite.
        :raises RatioError: where old and new losses are not computed alike.
        :raises ParallelError: where another process is lost or has trained something else.
        """
        phase, config = on_phase or (lambda _: None), self.config
        started = time.monotonic()
        self._decisions = {}
        phase('rolling out')
        self.rolled_out.model.load_state_dict(self.policy.model.state_dict())
        scenes, count = self.scenes()
        # Other noise in every iteration: a scene that is tried again is tried in another way.
        options = EpisodeOptions(noise_seed=self.seed + (self.iteration << 32), max_steps=config.max_steps,
                                 reward=config.reward, randomisation=config.randomisation, sampling=self._sampling())
        collected = pool.collect(self.policy, scenes, options)
        rollout, new = collected.rollout, slice(0, count)
        rolled = time.monotonic()
        reward, decisions = rewards(rollout), flatten(rollout, rollout.valid)
        self._decisions = vars(decisions) | {name: torch.as_tensor(array[rollout.valid]) for name, array in (
            ('reward', reward), ('privileged', rollout.privileged))}
        advantage, surplus, metrics = self._advantages(rollout, reward, options.sampling)
        self._decisions['advantage'] = advantage
        acting = self.flow.sampling() if config.algorithm == 'ppo' else Sampling()
        metrics['chunk_spread'] = chunk_spread(self.rolled_out, rollout, self.iteration, acting)
        metrics['noise_high'] = options.sampling.noise_range[1]
        self.spreads = [*self.spreads[:1], metrics['chunk_spread']]
        metrics['regions'] = region_counts(rollout, self.policy.contract.task, new)
        narrowing = self.explored is not None
        good = rollout.valid & rollout.rewarded[:, None]
        self.imitation.keep(flatten(rollout, good), torch.as_tensor(surplus[good], dtype=torch.float32))
        self.recent.append(float(rollout.rewarded[new].mean()))
        self.failed.keep(scenes[new], rollout.rewarded[new])
        rate = self._rate()
        returns = rollout.rewarded * config.gamma ** (rollout.valid.sum(1) - 1)
        batch = Batch(decisions, advantage, rollout, reward, bool(np.ptp(returns) > 0),
                      f'iteration {self.iteration + 1}', self._advice(), rate, narrowing, self._decisions)
        if self.iteration >= config.warmup:
            phase('updating')
            metrics |= self.update.run(batch)
        else:
            metrics |= self.update.warm_up(batch)
        for name, module in (('policy', self.policy.model), ('critic', self.values.module)):
            check_finite(module.state_dict(), f'{name} after iteration {self.iteration + 1}', self._advice())
        self._group.check_alike(self._trained(), f'after iteration {self.iteration + 1}')
        self._average()
        self.iteration += 1
        self.control_steps += rollout.control_steps
        wall = time.monotonic() - started
        return {
            'iteration': self.iteration, 'control_steps': self.control_steps,
            'success_rate': float(rollout.success[new].mean()), 'strict_rate': float(rollout.strict[new].mean()),
            'rewarded_rate': float(rollout.rewarded[new].mean()), 'replayed': len(scenes) - count,
            'replayed_rate': float(rollout.rewarded[count:].mean()) if count < len(scenes) else None,
            'touched_rate': float((rollout.max_stage[new] > 0).mean()), 'diverged': int(rollout.diverged.sum()),
            'mean_return': float(returns[new].mean()), 'learning_rate': rate,
            'narrowed': narrowing and self.iteration - 1 > self.explored,
            **metrics, 'lost_workers': collected.lost_workers,
            'recollected_episodes': collected.recollected_episodes, 'rollout_s': rolled - started,
            'update_s': wall - (rolled - started), 'steps_per_s': rollout.control_steps / wall,
        }

    def _sampling(self) -> Sampling:
        """Return how chunks are drawn now: in the first iteration, which measures the start, as it will be evaluated.

        Later, the narrower chunks have become, the more noise they start from: twice as much where their spread is
        half of its floor. When they are to become narrow they start from no more.
        """
        if not self.iteration:
            return start_sampling(self.config)
        sampling = self.flow.sampling()
        floor = self.config.spread_floor * self.spreads[0] if self.spreads and self.explored is None else 0.0
        scale = float(np.clip(3 - 2 * self.spreads[-1] / floor, 1, 2)) if floor else 1.0
        return replace(sampling, noise_range=tuple(scale * factor for factor in sampling.noise_range))

    def _rate(self) -> float:
        """Return the learning rate at the start of an update: the fewer episodes fail, the less there is to learn.

        Adam takes steps of one size however small the gradient is; where little is left to gain, they would wander.
        What once was learned is not unlearned by larger steps: the rate does not rise again when success falls. On a
        plateau it is halved again and again, so that the policy moves by a bounded way in however long a run.
        """
        config, narrowing = self.config, self.explored is not None
        if len(self.recent) == config.smoothing:
            failing = 1 - float(np.mean(self.recent))
            self.waiting = 0 if failing < self.least_failing else self.waiting + 1
            self.least_failing = min(self.least_failing, failing)
            if config.patience and self.waiting >= config.patience:
                self.rate_factor, self.waiting = self.rate_factor / 2, 0
                if config.narrow_steps and self.explored is None:
                    self.explored = self.iteration + 1
        if narrowing:
            return config.narrow_learning_rate * self.rate_factor
        settled = min(1.0, max(self.least_failing, LEAST_FAILING) / config.settling) if config.settling else 1.0
        return config.learning_rate * self.rate_factor * settled

    def restore(self, policy: FlowPolicy, spread: float | None = None) -> None:
        """Go on from another policy of the same kind, with half the learning rate and a new optimiser state.

        With narrow steps the first time is where the narrowing begins: its rate is whole, and success is judged anew.

        An average of the weights begins anew there, and so does injected noise.

        :param spread: of its chunks, where it is known.
        """
        self.flow.restart()
        if spread is not None:
            self.spreads[1:] = [spread]
        self.policy.model.load_state_dict(policy.model.state_dict())
        if self.average is not None:
            self.average.model.load_state_dict(policy.model.state_dict())
        self.actor_optimizer.state.clear()
        self.rate_factor, self.waiting = self.rate_factor / 2, 0
        if self.config.narrow_steps and self.explored is None:
            self.explored = self.iteration
        if self.explored == self.iteration:
            self.rate_factor, self.least_failing = 1.0, 1.0
            self.recent.clear()
            self.imitation.own.clear()

    def _trained(self) -> list[Tensor]:
        """Return all that must be equal in processes that train together."""
        return [*self.flow.parameters, *self.values.module.state_dict().values(), *self.update.state().values(),
                self.generator.get_state()]

    def _advice(self) -> str:
        return f'begin another run from the best policy with a lower learning rate than {self.config.learning_rate:g}'

    def _average(self) -> None:
        """Move the average of the weights towards the newest ones."""
        if self.average is None:
            return
        share = 1 - self.config.average
        with torch.no_grad():
            for slow, fast in zip(self.average.model.parameters(), self.policy.model.parameters(), strict=True):
                slow.lerp_(fast, share)

    def _advantages(self, rollout: Rollout, reward: np.ndarray,
                    sampling: Sampling) -> tuple[Tensor, np.ndarray, dict]:
        """Train the critic; return standardised (M,) advantages of valid decisions, and (N, K) returns less values."""
        config, valid = self.config, rollout.valid
        if self.iteration == 0:
            self.values.begin(rollout, float(rollout.rewarded.mean()))
        value = self.values.estimate(rollout, sampling)
        advantage, target = gae(reward, value, valid, config.gamma, config.lam)
        explained = explained_variance(target[valid], value[valid])
        error = self.values.learn(rollout, reward, target)
        flat = advantage[valid]
        surplus = gae(reward, value, valid, config.gamma, 1.0)[0]
        return (torch.as_tensor(standardise(flat, floor=config.advantage_floor), dtype=torch.float32), surplus,
                {'explained_variance': explained, 'value_loss': error, 'advantage_std': float(flat.std())})


def rewards(rollout: Rollout) -> np.ndarray:
    """Return the (N, K) reward of each decision: 1 for the one in which its episode was rewarded, else 0."""
    reward, last = np.zeros(rollout.valid.shape), rollout.valid.sum(1) - 1
    reward[np.arange(len(last)), last] = rollout.rewarded
    return reward
