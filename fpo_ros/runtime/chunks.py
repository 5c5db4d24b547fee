"""Action chunks between the policy and the controller: admitted once, each row executed in its period."""

from __future__ import annotations

import math

import numpy as np

from fpo_ros.policy.contract import ContractError, PolicyContract, check_chunk
from fpo_ros.runtime.timeline import Joining, Timeline

#: A chunk that answers an older observation than this is refused [s].
DEFAULT_OBSERVATION_AGE_LIMIT_S = 0.5
#: Stamps may lie this far in the future, for clocks that differ a little [s].
FUTURE_TOLERANCE_S = 0.05


class ChunkExecutor:
    """Open-loop execution of chunks; without a row for a period it is starved, and the caller holds.

    A chunk is accepted only when it has the contract's shape and period, is finite, answers an observation
    that is fresh, newer than the takeover (:meth:`reset`) and newer than the one before, carries a higher
    sequence number than the one before, and some row of it is still to come. One that is to be joined after the one
    before is accepted only when no row of that waits; of it, the first ``contract.execute`` rows are executed.
    Everything else is refused and counted, and leaves the executor as it was.

    :param contract: shape, period and executed rows of a chunk.
    :param observation_age_limit_s: oldest observation a chunk may answer [s].
    """

    def __init__(self, contract: PolicyContract,
                 observation_age_limit_s: float = DEFAULT_OBSERVATION_AGE_LIMIT_S) -> None:
        if not observation_age_limit_s > 0:
            raise ValueError(f'observation_age_limit_s must be positive, got {observation_age_limit_s}')
        self.contract = contract
        self._age_limit_ns = round(observation_age_limit_s * 1e9)
        self._timeline = Timeline()
        self._joining = Joining.AFTER
        self._period = 0  # the one that the next row is taken in
        self._taken_ns = 0
        self._earliest_ns: int | None = None
        self._observation_ns: int | None = None
        #: Sequence number of the newest accepted chunk; None since the last :meth:`reset`.
        self.sequence: int | None = None
        #: Release that produced the newest accepted chunk; empty since the last :meth:`reset`.
        self.policy_version = ''
        #: From the newest accepted chunk's observation to the period it arrived for [control periods].
        self.delay = 0
        #: Chunks accepted and refused [count].
        self.accepted = 0
        self.refused = 0
        #: Why the newest refused chunk was refused; empty if none.
        self.last_refusal = ''
        #: The same, but empty where a chunk was accepted, or the arms taken over, since then.
        self.refusal = ''

    @property
    def remaining(self) -> int:
        """Periods to come that have a row [control periods]."""
        return self._timeline.remaining(self._period)

    def reset(self, now_ns: int) -> None:
        """Forget the chunk and the order of sequences; refuse observations from before this instant.

        :param now_ns: instant of the takeover [ns].
        """
        self.drop()
        self.sequence = None
        self.policy_version = self.refusal = ''
        self._observation_ns = None
        self._earliest_ns = self._taken_ns = now_ns

    def drop(self) -> int:
        """Discard the rows not yet taken and return how many they were."""
        dropped = self.remaining
        self._timeline.clear()
        return dropped

    def accept(self, chunk: np.ndarray, sequence: int, observation_stamp_ns: int, now_ns: int, *,
               policy_version: str = '', control_period_s: float | None = None,
               joining: int = Joining.AFTER) -> bool:
        """Take a chunk, or refuse it with a reason in :attr:`last_refusal`.

        :param chunk: (horizon, 14) joint targets [rad, grippers 0..1].
        :param sequence: number of the chunk, counting up.
        :param observation_stamp_ns: when the oldest part of the observation that the chunk answers was measured [ns].
        :param now_ns: this instant [ns].
        :param policy_version: release that produced the chunk.
        :param control_period_s: time between rows [s]; None: the contract's.
        :param joining: a :class:`Joining`.
        :returns: True when the chunk will be executed.
        """
        reason = self._objection(chunk, sequence, observation_stamp_ns, now_ns, control_period_s, joining)
        if reason:
            return self.refuse(reason)
        observed = self._period_of(observation_stamp_ns)
        after = joining == Joining.AFTER
        # Chunks of another policy are no predictions of this one.
        joining = Joining.REALTIME if policy_version != self.policy_version and not after else Joining(joining)
        rows = np.array(chunk[:self.contract.execute] if after else chunk, np.float64)
        if not self._timeline.offer(rows, self._period if after else observed, self._period, joining):
            return self.refuse(f'chunk {sequence} answers an observation {self._period - observed} control periods '
                               f'old, and has {len(rows)} rows: none of them is still to come')
        self._joining = joining
        self.sequence = int(sequence)
        self.policy_version = policy_version
        self.delay = self._period - observed
        self._observation_ns = observation_stamp_ns
        self.accepted += 1
        self.refusal = ''
        return True

    def refuse(self, reason: str) -> bool:
        """Count a refused chunk and keep the reason; returns False."""
        self.refused += 1
        self.last_refusal = self.refusal = reason
        return False

    def next_target(self, now_ns: int) -> np.ndarray | None:
        """Return the (14,) row of this control period, or None when starved: the caller holds.

        :param now_ns: this instant [ns].
        """
        row = self._timeline.target(self._period)
        self._pass(now_ns)
        return row

    def wait(self, now_ns: int) -> None:
        """Let a control period pass in which no row is taken: rows that count from their arrival wait, others lapse."""
        if self._joining is Joining.AFTER:
            self._timeline.postpone()
        self._pass(now_ns)

    def _pass(self, now_ns: int) -> None:
        self._period, self._taken_ns = self._period + 1, now_ns

    def _period_of(self, stamp_ns: int) -> int:
        """Return the control period that an instant lies in; none that is still to come."""
        behind = (self._taken_ns - stamp_ns) * self.contract.control_rate_hz * 1e-9
        return min(self._period, self._period - 1 - math.ceil(behind))

    def upcoming(self, count: int) -> np.ndarray:
        """Return the (n, 14) rows of the next control periods, at most ``count``, up to the first without a row."""
        return self._timeline.upcoming(self._period, count)

    def _objection(self, chunk: np.ndarray, sequence: int, observation_ns: int, now_ns: int,
                   period_s: float | None, joining: int) -> str:
        if joining not in list(Joining):
            return f'chunk {sequence} is to be joined in an unknown way, {joining}: update the package of both nodes'
        if self.remaining and joining == Joining.AFTER:
            return f'chunk {sequence} came while {self.remaining} rows of chunk {self.sequence} wait'
        if not isinstance(chunk, np.ndarray) or chunk.dtype.kind not in 'fiu':
            return f'chunk {sequence} is not an array of numbers'
        try:
            check_chunk(chunk, self.contract)
        except ContractError as error:
            return str(error)
        expected = 1 / self.contract.control_rate_hz
        if period_s is not None and not abs(period_s - expected) <= 0.01 * expected:
            return f'chunk {sequence} has rows every {period_s} s, the contract wants {expected} s'
        if self.sequence is not None and sequence <= self.sequence:
            return f'chunk {sequence} is out of order: chunk {self.sequence} was executed'
        age = now_ns - observation_ns
        if age > self._age_limit_ns:
            return (f'chunk {sequence} answers an observation {age * 1e-9:.3f} s old, '
                    f'the limit is {self._age_limit_ns * 1e-9:.3f} s')
        if age < -FUTURE_TOLERANCE_S * 1e9:
            return (f'chunk {sequence} answers an observation {-age * 1e-9:.3f} s in the future: '
                    'synchronise the clocks')
        if self._earliest_ns is not None and observation_ns < self._earliest_ns:
            return f'chunk {sequence} answers an observation from before the policy took over'
        if self._observation_ns is not None and observation_ns <= self._observation_ns:
            return f'chunk {sequence} answers an observation not newer than the one before'
        return ''
