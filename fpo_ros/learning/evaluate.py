"""Success of a policy on fixed held-out scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fpo_ros.learning.rollout import STRICT_STEPS, cap_of
from fpo_ros.learning.scale import Cluster, EpisodeOptions, Local, collect_episodes
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.releases.wilson import wilson_interval
from fpo_ros.sim.randomisation import Randomisation
from fpo_ros.sim.scenes import Scenes, scene_seeds

#: What each task's success means: gym-aloha's rule, and the stricter one.
RULES = {
    'transfer_cube': ('the left finger touches the cube off the table',
                      'the left gripper alone holds the cube off the table'),
    'insertion': ('the peg touches the pin inside the socket',
                  'the peg touches the pin inside the socket and each gripper holds its part off the table'),
}
#: How long the stricter rule must hold [s].
STRICT_S = STRICT_STEPS / CONTROL_RATE_HZ


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    :param policy: :meth:`FlowPolicy.digest` of what was evaluated.
    :param seeds: (N,) scene seeds.
    :param success: (N,) bool per seed.
    :param strict: (N,) bool per seed, by the stricter rule.
    :param diverged: (N,) bool per seed, the physics failed.
    :param gym_return: (N,) per seed, sum of gym-aloha's rewards, 0 to 4 per control step, until its success.
    :param max_steps: cap of an episode [control steps].
    :param lost_workers: workers of a cluster that were lost while they had episodes.
    :param recollected_episodes: episodes lost with them and run again.
    :param processors: kinds of processor that episodes ran on.
    :param randomisation: what the episodes drew from.
    """

    task: str
    policy: str
    episodes: int
    control_steps: int
    sampling: str
    seed: int
    wall_s: float
    seeds: np.ndarray
    success: np.ndarray
    strict: np.ndarray
    diverged: np.ndarray
    gym_return: np.ndarray
    max_steps: int
    lost_workers: int = 0
    recollected_episodes: int = 0
    processors: tuple[str, ...] = ()
    randomisation: Randomisation | None = None

    @property
    def successes(self) -> int:
        """Episodes that met gym-aloha's rule before the cap."""
        return int(self.success.sum())

    def to_dict(self) -> dict:
        """Return JSON types, with the 95 % Wilson interval of the success rate.

        Every episode is a success, a time-out or one whose physics diverged before it succeeded.
        """
        low, high = wilson_interval(self.successes, self.episodes)
        diverged = int((self.diverged & ~self.success).sum())
        rule, strict_rule = RULES[self.task]
        strict = int(self.strict.sum())
        return {
            'task': self.task, 'policy_sha256': self.policy, 'max_steps': self.max_steps, 'success_rule': rule,
            'strict_rule': f'{strict_rule} for {STRICT_S:g} s', 'episodes': self.episodes, 'successes': self.successes,
            'timeouts': self.episodes - self.successes - diverged, 'diverged': diverged,
            'strict_successes': strict,
            'success_rate': self.successes / self.episodes, 'wilson_low': low, 'wilson_high': high,
            'success_strict_rate': strict / self.episodes, 'mean_return': float(self.gym_return.mean()),
            'control_steps': self.control_steps,
            'sampling': self.sampling, 'seed': self.seed, 'wall_s': self.wall_s, 'lost_workers': self.lost_workers,
            'recollected_episodes': self.recollected_episodes, 'processors': list(self.processors),
            'randomisation': None if self.randomisation is None else self.randomisation.to_dict(),
        }


def evaluate(policy: FlowPolicy, episodes: int, seed: int = 0, sampling: str = 'random', batch: int = 100,
             progress: Callable[[int], None] | None = None, threads: int | None = None,
             cluster: Cluster | None = None, max_steps: int | None = None,
             randomisation: Randomisation | None = None) -> Evaluation:
    """Run a policy on held-out scenes, here or on a cluster: the result is the same, whatever the batch.

    :param seed: which scenes, and the noise.
    :param sampling: ``'random'`` starts flows from N(0, I), ``'zero'`` from zero.
    :param batch: episodes side by side on this machine.
    :param progress: called with the number of episodes done.
    :param threads: of the physics on this machine; by default one per core that this process may use.
    :param cluster: run the episodes there.
    :param max_steps: cap of an episode [control steps]; that of gym-aloha if None.
    :param randomisation: what every episode draws; nothing if None.
    :raises SeedError: for a seed or a number of episodes out of bounds.
    :raises ValueError: for a cap below one control step.
    :raises ClusterError: when the cluster cannot do it.
    """
    if sampling not in ('random', 'zero'):
        raise ValueError(f"unknown sampling '{sampling}': use random or zero")
    started = time.monotonic()
    seeds = scene_seeds(Scenes.EVALUATION, seed, episodes)
    options = EpisodeOptions(noise_seed=seed, noise_scale=1.0 if sampling == 'random' else 0.0,
                             continue_to_strict=True, max_steps=cap_of(max_steps), prefixes=False,
                             randomisation=randomisation)
    collected = collect_episodes(policy, seeds, cluster or Local(threads, batch), options, progress)
    rollout = collected.rollout
    return Evaluation(policy.contract.task, policy.digest(), episodes, rollout.control_steps, sampling, seed,
                      time.monotonic() - started, seeds, rollout.success, rollout.strict, rollout.diverged,
                      rollout.gym_return, options.max_steps, collected.lost_workers, collected.recollected_episodes,
                      collected.processors, randomisation)
