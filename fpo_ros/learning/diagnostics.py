"""What a success rate does not show: start regions that are lost, and chunks that become all alike."""

from __future__ import annotations

import numpy as np
import torch

from fpo_ros.learning.rollout import Rollout
from fpo_ros.policy.checkpoint import DEFAULT_SAMPLING, FlowPolicy
from fpo_ros.policy.contract import ACTION_DIM
from fpo_ros.policy.flow import Sampling

#: Where the first object starts, x and y [m] (gym_aloha.utils: sample_box_pose, sample_insertion_pose).
START_AREA = {'transfer_cube': ((0.0, 0.2), (0.4, 0.6)), 'insertion': ((0.1, 0.2), (0.4, 0.6))}
#: Regions along each side of the area.
SIDE = 3
#: Decisions whose chunks are drawn again, and draws of each.
_DECISIONS, _DRAWS = 32, 16


def regions(rollout: Rollout, task: str) -> np.ndarray:
    """Return the (N,) region, 0 to SIDE² - 1, in which each episode's first object starts: rows of y, x within."""
    start = rollout.privileged[:, 0, ACTION_DIM:ACTION_DIM + 2]
    cells = []
    for axis, (low, high) in enumerate(START_AREA[task]):
        cell = np.floor((start[:, axis] - low) / (high - low) * SIDE).astype(int)
        cells.append(np.clip(cell, 0, SIDE - 1))
    return cells[1] * SIDE + cells[0]


def region_counts(rollout: Rollout, task: str, rows: slice = slice(None)) -> list[list[int]]:
    """Return ``[rewarded, episodes]`` of every region, of some of the episodes."""
    region, rewarded = regions(rollout, task)[rows], rollout.rewarded[rows]
    return [[int(rewarded[region == index].sum()), int((region == index).sum())]
            for index in range(SIDE * SIDE)]


def worst_region(counts: list[list[list[int]]], least: int = 5) -> float | None:
    """Return the lowest success of a region over several iterations' counts.

    :param least: episodes that a region must have; None where none has.
    """
    total = np.sum(counts, 0)
    rates = [won / episodes for won, episodes in total if episodes >= least]
    return float(min(rates)) if rates else None


def chunk_spread(policy: FlowPolicy, rollout: Rollout, seed: int, sampling: Sampling = DEFAULT_SAMPLING) -> float:
    """Return the mean deviation of executed actions, normalised, over chunks drawn from the same observations.

    :param policy: which made the rollout.
    :param seed: of the noise.
    :param sampling: how they are drawn, its largest factor of the start noise taken for all.
    """
    where = np.argwhere(rollout.valid)
    where = where[np.linspace(0, len(where) - 1, min(_DECISIONS, len(where))).astype(int)]
    rows, columns = torch.as_tensor(where[:, 0]), torch.as_tensor(where[:, 1])
    prefix = rollout.prefix_kv
    if prefix.shape[2] > 1:
        prefix = prefix[:, :, rows * rollout.valid.shape[1] + columns].repeat_interleave(_DRAWS, 2)
    states = rollout.states[rows, columns].repeat_interleave(_DRAWS, 0)
    contract = policy.contract
    generator = torch.Generator().manual_seed(seed)
    noise = sampling.noise_range[1] * torch.randn(len(states), contract.horizon, contract.action_dim,
                                                  generator=generator)
    drawn = policy.draw(states, prefix, noise, sampling.injected(noise.shape, generator), sampling)
    chunks = drawn.chunks.view(-1, _DRAWS, contract.horizon, contract.action_dim)
    return float(chunks[:, :, :contract.execute, :ACTION_DIM].std(1).mean())
