"""When in the control period an observation is made, so that its chunk need not wait for the next one."""

from __future__ import annotations

from collections import deque

import numpy as np

#: Answers whose latency is remembered, and the share of them that must arrive in time.
_ANSWERS, _IN_TIME = 20, 0.9
#: A control period that began longer ago than this tells of no phase any more [ns].
_STALE_NS = 1_000_000_000


class PhaseLock:
    """Shifts the instants of observations until chunks arrive shortly before a control period begins.

    Both loops run on their own, and at a phase of chance a chunk waits for half a control period on average, during
    which the observation that it answers ages. The shift is slow, so that the rate stays what it is.

    :param period_ns: of the observations [ns]; the control period is a multiple of it.
    :param margin_ns: how long before a control period chunks shall arrive [ns].
    :param step_ns: largest change of one period [ns].
    """

    def __init__(self, period_ns: int, margin_ns: int = 2_000_000, step_ns: int = 500_000) -> None:
        self._period, self._margin, self._step = period_ns, margin_ns, step_ns
        self._control_ns: int | None = None
        self._latencies: deque[int] = deque(maxlen=_ANSWERS)

    def control_period(self, began_ns: int) -> None:
        """Take the instant at which a control period began [ns]."""
        self._control_ns = began_ns

    def answered(self, observed_ns: int, arrived_ns: int) -> None:
        """Take the stamp of an observation and when the chunk that answers it arrived [ns]."""
        if arrived_ns > observed_ns:
            self._latencies.append(arrived_ns - observed_ns)

    def change(self, now_ns: int) -> int:
        """Return by how much the period after an observation shall differ from the usual [ns].

        :param now_ns: the instant of the observation [ns].
        """
        if self._control_ns is None or not self._latencies or not 0 <= now_ns - self._control_ns <= _STALE_NS:
            return 0
        lead = round(float(np.quantile(self._latencies, _IN_TIME))) + self._margin
        late = (self._control_ns - lead - now_ns) % self._period
        if late > self._period // 2:
            late -= self._period  # the nearer way round
        return max(-self._step, min(self._step, late // 4))
