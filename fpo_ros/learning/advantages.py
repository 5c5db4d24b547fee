"""Generalised advantage estimation over decisions (chunks) of padded episodes."""

from __future__ import annotations

import numpy as np


def gae(reward: np.ndarray, value: np.ndarray, valid: np.ndarray, terminated: np.ndarray, gamma: float,
        lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, K) advantages and value targets.

    delta_k = R_k + gamma (1 - term_k) V_{k+1} - V_k, A_k = delta_k + gamma lam (1 - last_k) A_{k+1}.
    Success ends an episode without bootstrap; at the cap the last value is bootstrapped.

    :param reward: (N, K) reward of each decision.
    :param value: (N, K + 1) values, the last used only for bootstrapping.
    :param valid: (N, K) bool, decisions taken; a prefix of each row.
    :param terminated: (N, K) bool, the task succeeded during the decision.
    """
    advantage = np.zeros(reward.shape)
    carried = np.zeros(len(reward))
    for k in reversed(range(reward.shape[1])):
        follows = valid[:, k + 1] if k + 1 < reward.shape[1] else np.zeros(len(reward), bool)
        delta = reward[:, k] + gamma * ~terminated[:, k] * value[:, k + 1] - value[:, k]
        carried = np.where(valid[:, k], delta + gamma * lam * follows * carried, 0.0)
        advantage[:, k] = carried
    return advantage, np.where(valid, advantage + value[:, :-1], 0.0)


def standardise(advantage: np.ndarray, limit: float = 4.0) -> np.ndarray:
    """Return (M,) advantages with zero mean and unit deviation, clamped to ``limit``; zeros if all are equal."""
    deviation = advantage.std()
    if deviation < 1e-8:
        return np.zeros_like(advantage)
    return np.clip((advantage - advantage.mean()) / deviation, -limit, limit)


def explained_variance(target: np.ndarray, value: np.ndarray) -> float:
    """Return 1 - Var(target - value) / Var(target), 0 where the targets do not vary."""
    variance = target.var()
    return float(1 - (target - value).var() / variance) if variance > 1e-12 else 0.0
