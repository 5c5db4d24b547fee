"""When the policy answers, and what its next chunk goes on from."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.realtime import Leftover
from fpo_ros.runtime.timeline import DelayEstimate, Joining

#: A controller status this long after a chunk was sent has seen the chunk [ns].
TRANSIT_NS = 30_000_000
#: A status so much older than the newest chunk tells that the clock was set back [ns].
JUMP_NS = 1_000_000_000
#: Chunks that were sent are kept until the controller says which one it follows [count].
_KEPT = 4


@dataclass(frozen=True)
class Question:
    """What a chunk is asked for.

    :param joining: how it will be joined to the one before.
    :param leftover: rows that are executed meanwhile, where it shall go on from them.
    """

    joining: Joining
    leftover: Leftover | None = None


@dataclass(frozen=True)
class _Status:
    stamp_ns: int
    sequence: int
    remaining: int


class ChunkGate:
    """Follows the controller's status and says which observation to answer, and how.

    Where the controller follows the policy and has no row left, every part of the observation must have been measured
    after the last row was sent. Training looks at the end of the last row's period, and the earliest such observation
    lies nearest to that: while the arms are held, they catch up with the last row, and a policy that sees them then
    leaves out what it takes for done.

    Joined in real time, the next chunk is asked for while rows are left: once max(d, execute / 2) of them are over,
    d being the delay to plan for (arXiv 2506.07339, section IV), when the observation is put together, or sooner where
    the next chunk would come behind the last row: of short chunks, and of observations with an old part. Ensembles ask
    whenever the policy is free. What a chunk goes on from counts from when the observation's oldest part was measured,
    for its joints are of that instant: rows counted from a later one begin behind where the arms are.
    """

    def __init__(self, contract: PolicyContract) -> None:
        self._contract = contract
        self._empty_since: int | None = None
        self._status: _Status | None = None
        self._sent_ns = 0
        self._answered_ns = 0
        #: Sequence, rows, and how many of these had passed when the chunk was asked for.
        self._chunks: deque[tuple[int, np.ndarray, int]] = deque(maxlen=_KEPT)
        #: How long chunks take from their observation to the controller.
        self.delay = DelayEstimate()
        self._measured = 0

    def on_status(self, stamp_ns: int, following: bool, remaining: int, sequence: int = 0, delay: int = 0) -> None:
        """Take a controller status.

        :param stamp_ns: its instant [ns].
        :param following: the controller is in POLICY.
        :param remaining: rows not sent yet.
        :param sequence: of the chunk it follows; 0 for none.
        :param delay: from that chunk's observation to the period it arrived for [control periods].
        """
        if stamp_ns < self._sent_ns - JUMP_NS:
            self._sent_ns = self._answered_ns = 0
        if not following:  # what made chunks late before the arms were taken over is over
            self.delay = DelayEstimate()
        elif sequence != self._measured and sequence:
            self._measured = sequence
            self.delay.measured(delay)
        newest = self._chunks[-1][0] if self._chunks else None
        seen = stamp_ns >= self._sent_ns + TRANSIT_NS
        self._status = None
        if following and remaining and (seen or sequence == newest):
            self._status = _Status(stamp_ns, sequence, remaining)
        if not following or remaining or not seen:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = stamp_ns

    def question(self, stamp_ns: int, measured_ns: int, joining: Joining) -> Question | None:
        """Return what to answer an observation with, or None: it is not to be answered, or not yet.

        :param stamp_ns: of the observation: when it was put together [ns].
        :param measured_ns: when its oldest part was measured [ns].
        :param joining: how the policy wants its chunks joined.
        """
        if self._empty_since is not None:
            return Question(Joining.AFTER) if measured_ns >= self._empty_since else None
        if self._status is None or joining is Joining.AFTER or measured_ns <= self._answered_ns:
            return None
        if joining is Joining.ENSEMBLE:
            return Question(joining)
        rows, passed = {number: kept for number, *kept in self._chunks}.get(self._status.sequence, (None, 0))
        if rows is None:  # of a policy that ran before this one: its chunk is played to its end
            return None
        over, first = (self._row(len(rows), instant) for instant in (stamp_ns, measured_ns))
        # What of the delay is not the observation's age is still to come; the next chunk is due before the last row.
        due = max(len(rows) - 1 - max(self.delay.periods - passed, 1), self.delay.periods)
        soonest = passed + max(self.delay.periods, self._contract.execute // 2, 1)
        if over < min(soonest, due) or not 0 <= first < len(rows):
            return None
        return Question(joining, Leftover(rows[first:], self.delay.periods))

    def _row(self, rows: int, instant_ns: int) -> int:
        """Return which row of the chunk that is followed is executed at an instant [ns]."""
        since = math.floor((instant_ns - self._status.stamp_ns) * self._contract.control_rate_hz * 1e-9)
        return rows - self._status.remaining - 1 + since

    def sent(self, now_ns: int, observed_ns: int, sequence: int = 0, chunk: np.ndarray | None = None,
             joining: Joining = Joining.AFTER, age_ns: int = 0) -> None:
        """Note that a chunk was sent, or that no chunk came out, now.

        :param now_ns: this instant [ns].
        :param observed_ns: when the oldest part of the observation that was answered was measured [ns].
        :param sequence: of the chunk.
        :param chunk: (horizon, 14) rows; None: no chunk came out.
        :param joining: how it is joined to the one before.
        :param age_ns: of that part when the observation was put together [ns].
        """
        self._sent_ns, self._answered_ns = now_ns, observed_ns
        self._empty_since = self._status = None
        if chunk is not None:
            after = joining is Joining.AFTER
            passed = 0 if after else math.floor(age_ns * self._contract.control_rate_hz * 1e-9)
            self._chunks.append((sequence, chunk[:self._contract.execute] if after else chunk, passed))
