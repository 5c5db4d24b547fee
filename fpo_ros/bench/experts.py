"""How often the scripted experts succeed, with and without errors of a demonstrator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from fpo_ros.releases.wilson import wilson_interval
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.expert import expert_for
from fpo_ros.sim.task import MAX_STEPS, SUCCESS_STAGE

#: Task → standard deviations of the waypoints [m]. Insertion forgives less.
NOISE_M = {'transfer_cube': (0.0, 0.01, 0.02, 0.03), 'insertion': (0.0, 0.0025, 0.005, 0.01)}
#: Least share of successes without errors.
PROMISES = {'transfer_cube': 0.95, 'insertion': 0.9}
#: Scenes stepped at once.
_BATCH = 100


@dataclass(frozen=True)
class ExpertResult:
    """Episodes of one expert, each of at most MAX_STEPS control steps.

    :param noise_m: standard deviation of the error of every waypoint coordinate [m].
    :param wilson_low: lower end of the 95 % interval of the success rate.
    :param wilson_high: its upper end.
    :param successes_strict: episodes that fulfil the task's stricter rule at some step.
    """

    task: str
    noise_m: float
    episodes: int
    successes: int
    wilson_low: float
    wilson_high: float
    successes_strict: int


def success(task: str, noise_m: float, scenes: np.ndarray) -> ExpertResult:
    """Play an expert once in every scene; the errors of scene s are those of the seed s."""
    expert = expert_for(task, MAX_STEPS)
    found = strict = 0
    for start in range(0, len(scenes), _BATCH):
        some = scenes[start:start + _BATCH]
        with BatchedWorlds(task, len(some)) as worlds:
            worlds.reset(some)
            outcome = worlds.step(np.stack([expert.plan(pose, np.random.default_rng(int(scene)), noise_m)
                                            for pose, scene in zip(worlds.object_pose(), some, strict=True)]))
        found += int((outcome.stage == SUCCESS_STAGE).any(1).sum())
        strict += int(outcome.strict.any(1).sum())
    return ExpertResult(task, noise_m, len(scenes), found, *wilson_interval(found, len(scenes)), strict)


def measure(episodes: int, progress: Callable[[ExpertResult], None]) -> list[dict[str, str | float]]:
    """Return the results of both experts, with every error of :data:`NOISE_M`, in the scenes from 0 on."""
    results = []
    for task, levels in NOISE_M.items():
        for noise in levels:
            results.append(success(task, noise, np.arange(episodes)))
            progress(results[-1])
    return [asdict(result) for result in results]


def broken_promises(results: list[dict[str, str | float]]) -> list[str]:
    """Return which experts succeed too seldom without errors."""
    return [f'the expert of {one["task"]} succeeded in {one["successes"]} of {one["episodes"]} episodes, '
            f'promised {PROMISES[one["task"]]:.0%}' for one in results
            if not one['noise_m'] and one['successes'] < PROMISES[one['task']] * one['episodes']]
