"""When the policy answers: once per exhausted chunk, with an observation newer than its last row."""

from __future__ import annotations

#: A controller status this long after a chunk was sent has seen the chunk [ns].
TRANSIT_NS = 30_000_000
#: A status so much older than the newest chunk tells that the clock was set back [ns].
JUMP_NS = 1_000_000_000


class ChunkGate:
    """Follows the controller's status and admits one observation per decision.

    An observation is admitted when the controller follows the policy, has no row left, and every part of
    the observation was measured after the last row was sent. Training looks at the end of the last row's period. The
    earliest observation that is admitted lies nearest to that: while the arms are held, they catch up with the
    last row, and a policy that sees them then leaves out what it takes for done.
    """

    def __init__(self) -> None:
        self._empty_since: int | None = None
        self._sent = 0

    def on_status(self, stamp_ns: int, following: bool, remaining: int) -> None:
        """Take a controller status.

        :param stamp_ns: its instant [ns].
        :param following: the controller is in POLICY.
        :param remaining: rows not sent yet.
        """
        if stamp_ns < self._sent - JUMP_NS:
            self._sent = 0
        if not following or remaining or stamp_ns < self._sent + TRANSIT_NS:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = stamp_ns

    def admits(self, oldest_part_ns: int) -> bool:
        """Return whether to answer an observation whose oldest part was measured then [ns]."""
        return self._empty_since is not None and oldest_part_ns >= self._empty_since

    def sent(self, now_ns: int) -> None:
        """Note that a chunk was sent, or that no chunk came out, now [ns]."""
        self._sent = now_ns
        self._empty_since = None
