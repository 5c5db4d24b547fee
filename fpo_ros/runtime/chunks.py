"""Action chunks between the policy and the controller: admitted once, executed row after row."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, ContractError, PolicyContract, check_chunk

#: A chunk that answers an older observation than this is refused [s].
DEFAULT_OBSERVATION_AGE_LIMIT_S = 0.5
#: Stamps may lie this far in the future, for clocks that differ a little [s].
FUTURE_TOLERANCE_S = 0.05


class ChunkExecutor:
    """Synchronous open-loop execution: the first ``contract.execute`` rows of one chunk, then starved.

    A chunk is accepted only when it has the contract's shape and period, is finite, answers an observation
    that is fresh, newer than the takeover (:meth:`reset`) and newer than the one before, carries a higher
    sequence number than the one before, and no row of the previous chunk waits. Everything else is
    refused and counted, and leaves the executor as it was.

    :param contract: shape, period and executed rows of a chunk.
    :param observation_age_limit_s: oldest observation a chunk may answer [s].
    """

    def __init__(self, contract: PolicyContract,
                 observation_age_limit_s: float = DEFAULT_OBSERVATION_AGE_LIMIT_S) -> None:
        if not observation_age_limit_s > 0:
            raise ValueError(f'observation_age_limit_s must be positive, got {observation_age_limit_s}')
        self.contract = contract
        self._age_limit_ns = round(observation_age_limit_s * 1e9)
        self._rows = np.empty((0, ACTION_DIM))
        self._next = 0
        self._earliest_ns: int | None = None
        self._observation_ns: int | None = None
        #: Sequence number of the newest accepted chunk; None since the last :meth:`reset`.
        self.sequence: int | None = None
        #: Release that produced the newest accepted chunk; empty since the last :meth:`reset`.
        self.policy_version = ''
        #: Chunks accepted and refused [count].
        self.accepted = 0
        self.refused = 0
        #: Why the newest refused chunk was refused; empty if none.
        self.last_refusal = ''

    @property
    def remaining(self) -> int:
        """Rows not yet taken [control periods]."""
        return len(self._rows) - self._next

    def reset(self, now_ns: int) -> None:
        """Forget the chunk and the order of sequences; refuse observations from before this instant.

        :param now_ns: instant of the takeover [ns].
        """
        self.drop()
        self.sequence = None
        self.policy_version = ''
        self._observation_ns = None
        self._earliest_ns = now_ns

    def drop(self) -> int:
        """Discard the rows not yet taken and return how many they were."""
        dropped = self.remaining
        self._next = len(self._rows)
        return dropped

    def accept(self, chunk: np.ndarray, sequence: int, observation_stamp_ns: int, now_ns: int, *,
               policy_version: str = '', control_period_s: float | None = None) -> bool:
        """Take a chunk, or refuse it with a reason in :attr:`last_refusal`.

        :param chunk: (horizon, 14) joint targets [rad, grippers 0..1].
        :param sequence: number of the chunk, counting up.
        :param observation_stamp_ns: instant of the observation the chunk answers [ns].
        :param now_ns: this instant [ns].
        :param policy_version: release that produced the chunk.
        :param control_period_s: time between rows [s]; None: the contract's.
        :returns: True when the chunk will be executed.
        """
        reason = self._objection(chunk, sequence, observation_stamp_ns, now_ns, control_period_s)
        if reason:
            return self.refuse(reason)
        self._rows = np.array(chunk[:self.contract.execute], np.float64)
        self._next = 0
        self.sequence = int(sequence)
        self.policy_version = policy_version
        self._observation_ns = observation_stamp_ns
        self.accepted += 1
        return True

    def refuse(self, reason: str) -> bool:
        """Count a refused chunk and keep the reason; returns False."""
        self.refused += 1
        self.last_refusal = reason
        return False

    def next_target(self) -> np.ndarray | None:
        """Return the next (14,) row, or None when starved: the caller holds."""
        if self._next >= len(self._rows):
            return None
        row = self._rows[self._next]
        self._next += 1
        return row

    def upcoming(self, count: int) -> np.ndarray:
        """Return the (n, 14) rows that come next, at most ``count``."""
        return self._rows[self._next:self._next + count]

    def _objection(self, chunk: np.ndarray, sequence: int, observation_ns: int, now_ns: int,
                   period_s: float | None) -> str:
        if self.remaining:
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
