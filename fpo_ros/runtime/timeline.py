"""Which row of which chunk is due in a control period: one definition for the controller and for studies of delay.

Control periods are counted; a chunk that answers the observation of period k has its row i for period k + i.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

#: Rules by which chunks are joined.
RULES = ('synchronous', 'ensemble', 'realtime')
#: Temporal ensembling: the weight of the prediction made i-th, the oldest being 0, is exp(-0.01 i)
#: (Zhao et al. 2023, arXiv 2304.13705, algorithm 2).
ENSEMBLE_DECAY = 0.01


@dataclass
class _Entry:
    rows: np.ndarray
    first: int


class Timeline:
    """The targets of control periods to come.

    :param rule: ``'synchronous'``: a chunk's rows count from the period in which it arrives, and the next is asked for
        at their end; ``'realtime'``: they count from the observation's period, and the newest chunk has its way;
        ``'ensemble'``: as that, and all chunks that have a row for a period are averaged.
    :param execute: rows of a chunk that are executed at most; the rest is a plan that nothing follows.
    :raises ValueError: for an unknown rule.
    """

    def __init__(self, rule: str, execute: int) -> None:
        if rule not in RULES:
            raise ValueError(f"unknown rule '{rule}': use {', '.join(RULES)}")
        self.rule, self.execute = rule, execute
        self._entries: list[_Entry] = []

    def offer(self, rows: np.ndarray, observed: int, now: int) -> int:
        """Take a chunk.

        :param rows: (..., H, 14) targets.
        :param observed: period of the observation it answers.
        :param now: period in which it is here.
        :returns: rows of it that are due still; none of a chunk that came too late, which is dropped.
        """
        first = now if self.rule == 'synchronous' else observed
        entry = _Entry(np.array(rows[..., :self.execute, :]), first)
        due = first + entry.rows.shape[-2] - now
        if due <= 0:
            return 0
        if self.rule != 'ensemble':
            self._entries.clear()
        self._entries.append(entry)
        return due

    def remaining(self, now: int) -> int:
        """Return how many periods from ``now`` on have a target."""
        return max((entry.first + entry.rows.shape[-2] - now for entry in self._entries), default=0)

    def target(self, now: int) -> np.ndarray | None:
        """Return the (..., 14) target of a period, or None where there is none: the arms hold."""
        self._entries = [entry for entry in self._entries if entry.first + entry.rows.shape[-2] > now]
        due = [entry.rows[..., now - entry.first, :] for entry in self._entries if entry.first <= now]
        if len(due) < 2:
            return due[0] if due else None
        weights = np.exp(-ENSEMBLE_DECAY * np.arange(len(due)))
        return np.tensordot(weights / weights.sum(), np.stack(due), 1)

    def leftover(self, now: int) -> np.ndarray | None:
        """Return the newest chunk's (..., n, 14) rows from period ``now`` on, or None where there are none."""
        if not self._entries:
            return None
        newest = self._entries[-1]
        rows = newest.rows[..., max(0, now - newest.first):, :]
        return rows if rows.shape[-2] else None

    def clear(self) -> None:
        """Forget all chunks."""
        self._entries.clear()


class DelayEstimate:
    """How many control periods the next chunk will take: the longest of the newest ones (arXiv 2506.07339, section IV).

    :param period_s: of control [s].
    :param first: assumed before the first was measured [control periods].
    :param window: newest delays that count.
    """

    def __init__(self, period_s: float, first: int = 1, window: int = 10) -> None:
        self._period_s, self._first = period_s, first
        self._delays: deque[int] = deque(maxlen=window)

    def measured(self, seconds: float) -> None:
        """Note how long a chunk took from its observation to the controller [s]."""
        self._delays.append(max(0, math.ceil(seconds / self._period_s - 1e-6)))

    @property
    def periods(self) -> int:
        """The delay to plan for [control periods]."""
        return max(self._delays, default=self._first)
