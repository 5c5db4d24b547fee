"""Which row of which chunk is due in a control period: one definition for the controller and for studies of delay.

Control periods are counted; a chunk that answers the observation of period k has its row i for period k + i.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM

#: Temporal ensembling: the weight of the prediction made i-th, the oldest being 0, is exp(-0.01 i)
#: (Zhao et al. 2023, arXiv 2304.13705, algorithm 2).
ENSEMBLE_DECAY = 0.01


class Joining(enum.IntEnum):
    """How a chunk is joined to those before, numbered as ActionChunk.JOIN_*."""

    #: Its rows count from the period in which it arrives, once the chunk before has ended.
    AFTER = 0
    #: They count from the observation's period, and replace those of the chunks before.
    REALTIME = 1
    #: They count from the observation's period, and are averaged with those of the chunks before.
    ENSEMBLE = 2


@dataclass
class _Entry:
    rows: np.ndarray
    first: int

    @property
    def end(self) -> int:
        return self.first + self.rows.shape[-2]


class Timeline:
    """The targets of control periods to come."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []

    def offer(self, rows: np.ndarray, first: int, now: int, joining: Joining) -> int:
        """Take a chunk.

        :param rows: (..., n, 14) targets.
        :param first: period of the first row.
        :param now: period in which it is here.
        :param joining: whether the chunks before stay and are averaged with it, or are forgotten.
        :returns: rows of it that are due still; none of a chunk that came too late, which is dropped.
        """
        entry = _Entry(np.array(rows), first)
        due = entry.end - now
        if due <= 0:
            return 0
        if joining is not Joining.ENSEMBLE:
            self._entries.clear()
        self._entries.append(entry)
        return due

    def postpone(self) -> None:
        """Let all rows be due a period later."""
        for entry in self._entries:
            entry.first += 1

    def remaining(self, now: int) -> int:
        """Return how many periods from ``now`` on have a target."""
        return max(0, max((entry.end - now for entry in self._entries), default=0))

    def target(self, now: int) -> np.ndarray | None:
        """Return the (..., 14) target of a period, or None where there is none: the arms hold."""
        self._entries = [entry for entry in self._entries if entry.end > now]
        return self._due(now)

    def upcoming(self, now: int, count: int) -> np.ndarray:
        """Return the (n, 14) targets from period ``now`` on, at most ``count``, up to the first period without one."""
        rows: list[np.ndarray] = []
        while len(rows) < count and (row := self._due(now + len(rows))) is not None:
            rows.append(row)
        return np.array(rows).reshape(len(rows), -1) if rows else np.empty((0, ACTION_DIM))

    def _due(self, now: int) -> np.ndarray | None:
        due = [entry.rows[..., now - entry.first, :] for entry in self._entries if entry.first <= now < entry.end]
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

    :param first: assumed before the first was measured [control periods].
    :param window: newest delays that count.
    """

    def __init__(self, first: int = 1, window: int = 10) -> None:
        self._first = first
        self._delays: deque[int] = deque(maxlen=window)

    def measured(self, periods: int) -> None:
        """Note how long a chunk took from its observation to its first executed row [control periods]."""
        self._delays.append(max(0, periods))

    @property
    def periods(self) -> int:
        """The delay to plan for [control periods]."""
        return max(self._delays, default=self._first)
