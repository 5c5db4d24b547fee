"""How long somebody has been silent, by one who may have been paused."""

from __future__ import annotations

#: Looks farther apart tell that this process was paused, not those it listens to [ns].
PAUSE_NS = 200_000_000


class Silence:
    """Measures a silence by looking at it again and again. Instants are of a clock that nobody sets [ns].

    While this process was paused, what others sent waited to be read: that time is left out.
    """

    def __init__(self, now_ns: int) -> None:
        self._heard_ns = self._looked_ns = now_ns

    def heard(self, now_ns: int) -> None:
        """Note a sign of life."""
        self._heard_ns = now_ns

    def lasts_s(self, now_ns: int) -> float:
        """Return for how long there was none [s]. Call it once per control period."""
        paused, self._looked_ns = now_ns - self._looked_ns, now_ns
        if paused > PAUSE_NS:
            self._heard_ns += paused
        return max(0, now_ns - self._heard_ns) * 1e-9
