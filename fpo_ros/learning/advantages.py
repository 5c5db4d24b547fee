"""Generalised advantage estimation over decisions (chunks) of padded episodes."""

from __future__ import annotations

import numpy as np


def gae(reward: np.ndarray, value: np.ndarray, valid: np.ndarray, gamma: float,
        lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, K) advantages and value targets.

    delta_k = R_k + gamma V_{k+1} - V_k, A_k = delta_k + gamma lam A_{k+1}; behind the last decision both are 0.
    An episode ends for good at success and at the cap: the value function sees the elapsed time, so the cap is
    part of what it predicts (Pardo et al. 2018, arXiv 1712.00378).

    :param reward: (N, K) reward of each decision.
    :param value: (N, K) values of the states in which the decisions were taken.
    :param valid: (N, K) bool, decisions taken; a prefix of each row.
    """
    advantage = np.zeros(reward.shape)
    following, carried = np.zeros(len(reward)), np.zeros(len(reward))
    for k in reversed(range(reward.shape[1])):
        delta = reward[:, k] + gamma * following - value[:, k]
        carried = np.where(valid[:, k], delta + gamma * lam * carried, 0.0)
        following = np.where(valid[:, k], value[:, k], 0.0)
        advantage[:, k] = carried
    return advantage, np.where(valid, advantage + value, 0.0)


def standardise(advantage: np.ndarray, limit: float = 4.0, floor: float = 0.0) -> np.ndarray:
    """Return (M,) advantages with zero mean and unit deviation, clamped to ``limit``; zeros if all are equal.

    :param floor: least deviation to divide by. Where nearly all episodes succeed, what deviates is how soon they did
        and what the critic does not know; both would be made as large as success and failure.
    """
    if advantage.std() < 1e-8:
        return np.zeros_like(advantage)
    deviation = max(advantage.std(), floor)
    return np.clip((advantage - advantage.mean()) / deviation, -limit, limit)


def explained_variance(target: np.ndarray, value: np.ndarray) -> float:
    """Return 1 - Var(target - value) / Var(target), 0 where the targets do not vary."""
    variance = target.var()
    return float(1 - (target - value).var() / variance) if variance > 1e-12 else 0.0
