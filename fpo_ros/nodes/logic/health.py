"""Health of a stream: rate, age and drops, and the level they amount to. Time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Levels of diagnostic_msgs/DiagnosticStatus (REP-107).
OK, WARN, ERROR = 0, 1, 2
#: A stamp so much older than the newest one tells that the clock was set back [s].
BACKWARDS_S = 1.0


@dataclass(frozen=True)
class Health:
    """One line of /diagnostics.

    :param part: what of the node is described.
    :param level: OK, WARN or ERROR.
    :param message: one sentence.
    :param values: numbers with the unit in the key, such as ``rate_hz``.
    :param hardware_id: the device, where there is one.
    """

    part: str
    level: int
    message: str
    values: dict[str, float | int | str] = field(default_factory=dict)
    hardware_id: str = ''


class StreamMonitor:
    """Watches one stream of messages.

    :param name: name of the stream in diagnostics.
    :param expected_hz: slower than 80 % of this is a warning [Hz].
    :param max_age_s: nothing for longer than this is an error [s].
    """

    def __init__(self, name: str, expected_hz: float, max_age_s: float, window: int = 200) -> None:
        self.name, self.expected_hz, self.max_age_s = name, expected_hz, max_age_s
        self._arrivals: deque[int] = deque(maxlen=window)
        self.received = 0
        self.rejected = 0
        self.last_rejection = ''
        #: Messages that did not come between two that did, by their stamps [count].
        self.missing = 0
        self._newest_ns: int | None = None

    def arrived(self, now_ns: int, stamp_ns: int | None = None) -> None:
        """Count a message received now [ns].

        :param stamp_ns: its own instant, by which those are counted that did not come before it [ns].
        """
        self.received += 1
        self._arrivals.append(now_ns)
        if stamp_ns is None:
            return
        since_s = 0.0 if self._newest_ns is None else (stamp_ns - self._newest_ns) * 1e-9
        self.missing += max(int(since_s * self.expected_hz + 0.25) - 1, 0)  # stamps are not on the dot
        if since_s > 0 or since_s < -BACKWARDS_S or self._newest_ns is None:
            self._newest_ns = stamp_ns

    def reject(self, reason: str) -> None:
        """Count a message that could not be used."""
        self.rejected += 1
        self.last_rejection = reason

    def rate_hz(self, now_ns: int, window_s: float = 2.0) -> float:
        """Return messages per second over the last ``window_s`` [Hz]."""
        oldest = now_ns - int(window_s * 1e9)
        recent = [stamp for stamp in self._arrivals if stamp >= oldest]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max((now_ns if len(recent) < 5 else recent[-1]) - recent[0], 1) * 1e9

    def health(self, now_ns: int) -> Health:
        """Return the state of the stream now [ns]."""
        age = (now_ns - self._arrivals[-1]) * 1e-9 if self._arrivals else float('inf')
        rate = self.rate_hz(now_ns)
        values = {'rate_hz': round(rate, 2), 'received': self.received, 'rejected': self.rejected}
        if self._newest_ns is not None:
            values['missing'] = self.missing
        if self._arrivals:
            values['age_ms'] = round(age * 1e3, 1)
        if not self._arrivals:
            return Health(self.name, ERROR, 'nothing received', values)
        if age > self.max_age_s:
            return Health(self.name, ERROR, f'nothing for {age:.2f} s', values)
        if rate < 0.8 * self.expected_hz:
            return Health(self.name, WARN, f'{rate:.1f} Hz, expected {self.expected_hz:g} Hz', values)
        if self.last_rejection:
            return Health(self.name, WARN, f'{self.rejected} rejected; newest: {self.last_rejection}', values)
        return Health(self.name, OK, 'flowing', values)
