"""Success of a policy on fixed held-out scenes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from fpo_ros.learning.rollout import collect
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.releases.wilson import wilson_interval
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.render import BatchRenderer
from fpo_ros.sim.scenes import Scenes, scene_seeds


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    :param successes: episodes that met gym-aloha's rule before the cap.
    :param strict_successes: episodes that met the stricter rule before the cap.
    :param seeds: (N,) scene seeds.
    :param success: (N,) bool per seed.
    """

    task: str
    episodes: int
    successes: int
    strict_successes: int
    control_steps: int
    sampling: str
    seed: int
    wall_s: float
    seeds: np.ndarray
    success: np.ndarray

    def to_dict(self) -> dict:
        """Return JSON types, with the 95 % Wilson interval of the success rate."""
        low, high = wilson_interval(self.successes, self.episodes)
        return {
            'task': self.task, 'episodes': self.episodes, 'successes': self.successes,
            'success_rate': self.successes / self.episodes, 'wilson_low': low, 'wilson_high': high,
            'success_strict_rate': self.strict_successes / self.episodes, 'control_steps': self.control_steps,
            'sampling': self.sampling, 'seed': self.seed, 'wall_s': self.wall_s,
        }


def evaluate(policy: FlowPolicy, episodes: int, seed: int = 0, sampling: str = 'random', batch: int = 100,
             progress: Callable[[int], None] | None = None, threads: int | None = None) -> Evaluation:
    """Run a policy on held-out scenes.

    :param seed: which scenes, and the noise.
    :param sampling: ``'random'`` starts flows from N(0, I), ``'zero'`` from zero.
    :param batch: episodes side by side.
    :param progress: called with the number of episodes done.
    :param threads: of the physics; by default one per core that this process may use.
    :raises SeedError: for a seed or a number of episodes out of bounds.
    """
    if sampling not in ('random', 'zero'):
        raise ValueError(f"unknown sampling '{sampling}': use random or zero")
    started = time.monotonic()
    seeds = scene_seeds(Scenes.EVALUATION, seed, episodes)
    generator = torch.Generator().manual_seed(seed)
    success, strict, steps = [], [], 0
    batch = min(batch, episodes)
    with BatchedWorlds(policy.contract.task, batch, threads) as worlds, renderer_of(policy.contract) as renderer:
        for start in range(0, episodes, batch):
            rollout = collect(policy, worlds, seeds[start:start + batch], generator, renderer=renderer,
                              noise_scale=1.0 if sampling == 'random' else 0.0, continue_to_strict=True)
            success.append(rollout.success)
            strict.append(rollout.strict)
            steps += rollout.control_steps
            if progress:
                progress(min(episodes, start + batch))
    hits = np.concatenate(success)
    return Evaluation(policy.contract.task, episodes, int(hits.sum()), int(np.concatenate(strict).sum()), steps,
                      sampling, seed, time.monotonic() - started, seeds, hits)


def renderer_of(contract: PolicyContract) -> AbstractContextManager:
    """Return a renderer of a contract's cameras, or an empty context where it has none."""
    if not contract.cameras:
        return nullcontext()
    return BatchRenderer(contract.task, contract.cameras, contract.image_height, contract.image_width)
