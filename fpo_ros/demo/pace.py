"""Pace of the command stream over all control periods of the episodes, not only over the controller's newest 500."""

from __future__ import annotations

import math


class ControlPeriods:
    """Collects the controller's status of each control period.

    :param nominal_s: wanted period [s].
    """

    def __init__(self, nominal_s: float) -> None:
        self._nominal_s = nominal_s
        self._first: tuple[int, int, int] | None = None
        self._last: tuple[int, int, int] | None = None
        self._deviations_s: list[float] = []

    def add(self, ticks: int, stamp_ns: int, missed_ticks: int) -> None:
        """Take the status of one control period.

        A period beside a lost status, or in which the clock was set back, has no known length and counts in no
        jitter.

        :param ticks: control periods since the controller's activation.
        :param stamp_ns: start of the period [ns].
        :param missed_ticks: periods that started more than half a period late, since activation.
        """
        now = (ticks, stamp_ns, missed_ticks)
        if self._last is not None and ticks == self._last[0] + 1 and stamp_ns > self._last[1]:
            self._deviations_s.append(abs((stamp_ns - self._last[1]) * 1e-9 - self._nominal_s))
        self._first = self._first or now
        self._last = now

    def summary(self) -> dict:
        """Return ``command_rate_hz``, ``command_jitter_p99_ms`` and ``_max_ms``, ``missed_ticks`` and ``ticks``.

        :raises ValueError: when no two control periods in a row were seen.
        """
        if not self._deviations_s:
            raise ValueError('the status of no two control periods in a row arrived: is the machine overloaded?')
        ticks, elapsed_ns, missed = (last - first for first, last in zip(self._first, self._last, strict=True))
        deviations = sorted(self._deviations_s)
        p99 = deviations[math.ceil(0.99 * len(deviations)) - 1]
        return {'command_rate_hz': ticks / (elapsed_ns * 1e-9), 'command_jitter_p99_ms': p99 * 1e3,
                'command_jitter_max_ms': deviations[-1] * 1e3, 'missed_ticks': missed, 'ticks': ticks}
