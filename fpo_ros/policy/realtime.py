"""Real-time chunking: a new chunk is drawn so that it goes on from the rows of the old one (numpy only).

Black et al. 2025, arXiv 2506.07339: while a chunk is being computed the old one is executed, so the first rows of the
new one are decided already, and later rows may leave the old ones the more freely the later they are. The flow is
guided there by the gradient of the distance between the chunk that it leads to and the old rows. The paper's flow time
tau is 1 - t here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM

#: Largest weight of the guidance (arXiv 2506.07339, section IV: beta).
GUIDANCE_CAP = 5.0


@dataclass(frozen=True)
class Leftover:
    """What remains of the chunk in execution when the next one is asked for.

    :param rows: (n, 14) targets from the observation's control period on [rad, grippers 0..1].
    :param delay: control periods until the new chunk will be there: as many rows are executed meanwhile.
    """

    rows: np.ndarray
    delay: int


def soft_mask(horizon: int, executed: int, delay: int) -> np.ndarray:
    """Return the (horizon,) weights of the old rows: 1 while they are executed, then falling, 0 from their end on.

    1 for i < d; c (e^c - 1) / (e - 1) with c = (H - s - i) / (H - s - d + 1) for d <= i < H - s; 0 after
    (arXiv 2506.07339, equation 5).

    :param horizon: H, rows of a chunk.
    :param executed: s, rows of the old chunk that were executed before the new one was asked for.
    :param delay: d, rows executed until it is there.
    :raises ValueError: where the old chunk ends before the new one is there.
    """
    if delay < 0 or executed < 0 or delay > horizon - executed:
        raise ValueError(f'after {executed} of {horizon} rows a delay of {delay} cannot be bridged: execute fewer rows '
                         'of a chunk, or use longer chunks')
    row = np.arange(horizon)
    ramp = np.clip((horizon - executed - row) / (horizon - executed - delay + 1), 0, 1)
    soft = ramp * np.expm1(ramp) / (math.e - 1)
    return np.where(row < delay, 1.0, np.where(row < horizon - executed, soft, 0.0)).astype(np.float32)


def guidance_weight(time: float, cap: float = GUIDANCE_CAP) -> float:
    """Return the weight of the guidance at a flow time t, 1 noise to 0 data.

    min(cap, (1 - tau) / (tau r^2)) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2) and tau = 1 - t
    (arXiv 2506.07339, equation 2).
    """
    tau = 1.0 - time
    if not 0 < tau < 1:  # at both ends the fraction has no bound
        return cap
    return min(cap, (tau ** 2 + time ** 2) / (tau * time))


def entry_mask(left: int, delay: int, horizon: int, width: int) -> np.ndarray:
    """Return the (horizon, width) weights of a leftover's entries: :func:`soft_mask`, and 0 for what pads an action.

    :param left: rows that are left.
    :param delay: see :class:`Leftover`; more than is left counts as what is left.
    """
    rows = soft_mask(horizon, horizon - left, min(delay, left))
    return rows[:, None] * (np.arange(width) < ACTION_DIM).astype(np.float32)


def decided_rows(left: int, delay: int, horizon: int, steps_per_token: int = 1) -> np.ndarray:
    """Return (horizon,) float32, 1 for the rows of a leftover that are executed until the new chunk is there.

    Where a token holds several rows it is decided as a whole, if the leftover has all of them; otherwise it is free:
    nothing is known of its other rows.

    :param left: rows that are left.
    :param delay: see :class:`Leftover`; more than is left counts as what is left.
    :param steps_per_token: rows that share a token, which divide the horizon.
    """
    tokens = min(-(-min(delay, left) // steps_per_token), left // steps_per_token)
    return (np.arange(horizon) < tokens * steps_per_token).astype(np.float32)


def padded(rows: np.ndarray, horizon: int) -> np.ndarray:
    """Return (..., horizon, width) rows, the last one repeated where there are fewer."""
    index = np.minimum(np.arange(horizon), rows.shape[-2] - 1)
    return rows[..., index, :]
