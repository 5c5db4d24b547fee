"""Two controllers of the same arms: who of them ends, and to whom the others listen meanwhile."""

from __future__ import annotations

from collections import deque

#: Statuses of one's own that may still be on their way back [count].
_KEPT = 100
#: Two that were activated less than so many control periods apart cannot tell which one was first.
_TIE = 3
#: A controller that was not heard for so long has ended [ns].
_GONE_NS = 200_000_000


class Rivals:
    """Tells the statuses of another controller from one's own, by their stamps."""

    def __init__(self) -> None:
        self._own: deque[int] = deque(maxlen=_KEPT)

    def sent(self, stamp_ns: int) -> None:
        """Note the stamp of a status that is published now [ns]."""
        self._own.append(stamp_ns)

    def objection(self, stamp_ns: int, ticks: int, own_ticks: int) -> str:
        """Take a status from the topic; say why this controller must end, empty where it need not.

        The one that was activated later ends; where neither can tell, both do.

        :param stamp_ns: of the status [ns].
        :param ticks: control periods since its sender was activated [count].
        :param own_ticks: the same of this controller [count]; 0 while it only listens.
        """
        if stamp_ns in self._own or own_ticks > ticks + _TIE:
            return ''
        when = 'before' if not own_ticks or ticks > own_ticks + _TIE else 'at the same time'
        return f'another arm_controller is active in this namespace and was there {when}: only one may command the arms'


class Followed:
    """Tells the statuses of the controller that is followed from those of one that was activated later."""

    def __init__(self) -> None:
        self._ticks = self._heard_ns = 0

    def sent(self, ticks: int, now_ns: int) -> bool:
        """Take a status; return whether it is of the controller that is followed, while that is there.

        :param ticks: control periods since its sender was activated [count].
        :param now_ns: this instant, of a clock that nobody sets [ns].
        """
        if ticks < self._ticks and now_ns - self._heard_ns < _GONE_NS:
            return False
        self._ticks, self._heard_ns = ticks, now_ns
        return True
