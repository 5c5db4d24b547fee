"""Rate, jitter and missed periods of a periodic loop. Instants are passed in; no clock is read here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: A period counts as missed when it starts later than this many nominal periods after the one before.
MISSED_AFTER_PERIODS = 1.5


@dataclass(frozen=True)
class TimingSummary:
    """Statistics of the newest periods.

    :param ticks: ticks since the start [count].
    :param missed: periods that started more than half a period late since the start [count].
    :param clock_jumps: ticks whose instant was not after the one before, since the start [count].
    :param rate_hz: reciprocal of the mean period in the window [Hz]; 0 before the second tick.
    :param jitter_p50_s: median of \\|period - nominal\\| in the window [s].
    :param jitter_p99_s: 99th percentile of the same [s].
    :param jitter_max_s: largest of the same [s].
    """

    ticks: int
    missed: int
    clock_jumps: int
    rate_hz: float
    jitter_p50_s: float
    jitter_p99_s: float
    jitter_max_s: float


class PeriodStatistics:
    """Collects the instants of a loop that should run every ``nominal_s`` seconds.

    :param nominal_s: wanted period [s].
    :param window: newest periods kept for rate and jitter [count].
    :raises ValueError: when either is not positive.
    """

    def __init__(self, nominal_s: float, window: int = 500) -> None:
        if not nominal_s > 0 or window < 1:
            raise ValueError(f'nominal_s and window must be positive, got {nominal_s} s and {window}')
        self.nominal_s = float(nominal_s)
        self._late_ns = nominal_s * MISSED_AFTER_PERIODS * 1e9
        self._periods = np.zeros(window)
        self._last_ns: int | None = None
        self._filled = 0
        self.ticks = 0
        self.missed = 0
        self.clock_jumps = 0

    def tick(self, now_ns: int) -> int | None:
        """Record a tick.

        :param now_ns: instant of the tick [ns].
        :returns: time since the tick before [ns], not positive when the clock jumped back; None at the first.
        """
        self.ticks += 1
        last, self._last_ns = self._last_ns, now_ns
        if last is None:
            return None
        elapsed = now_ns - last
        if elapsed <= 0:
            self.clock_jumps += 1
            return elapsed
        self._periods[self._filled % len(self._periods)] = elapsed * 1e-9
        self._filled += 1
        self.missed += elapsed > self._late_ns
        return elapsed

    def summary(self) -> TimingSummary:
        """Return the statistics so far."""
        periods = self._periods[:min(self._filled, len(self._periods))]
        if not len(periods):
            return TimingSummary(self.ticks, self.missed, self.clock_jumps, 0.0, 0.0, 0.0, 0.0)
        deviations = np.sort(np.abs(periods - self.nominal_s))
        p50, p99 = (float(deviations[int(np.ceil(share * len(deviations))) - 1]) for share in (0.5, 0.99))
        return TimingSummary(self.ticks, self.missed, self.clock_jumps, float(1 / periods.mean()),
                             p50, p99, float(deviations[-1]))
