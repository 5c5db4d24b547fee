"""Joint states that stay the same while the arms should move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SIDES = {'left': 0, 'right': 7}


@dataclass
class _Seen:
    values: np.ndarray
    stamp_ns: int
    target: np.ndarray


class FrozenJoints:
    """Tells of an arm whose seven readings stay the same to the last bit, with fresh stamps, while its target moves.

    A driver that repeats its last reading, or an arm that has no power: either way where it is is not known. A servo of
    ALOHA reads in steps of 1.5 mrad, so an arm that follows its target never looks like that.

    :param least_s: how long they must have stayed the same [s].
    :param moved: how far the target of a joint must have gone meanwhile [rad]; grippers do not count.
    """

    def __init__(self, least_s: float, moved: float) -> None:
        self._least_ns, self._moved = round(least_s * 1e9), moved
        self._seen: dict[str, _Seen] = {}

    def forget(self) -> None:
        """Begin anew: the arms are given up, or taken over where they are."""
        self._seen.clear()

    def problem(self, measured: np.ndarray, stamp_ns: int, target: np.ndarray | None) -> str:
        """Say which arm's readings are frozen; empty when neither's are.

        :param measured: (14,) joints.
        :param stamp_ns: instant they were measured, of the older arm [ns].
        :param target: (14,) what was sent last; None: nothing is sent.
        """
        if target is None:
            self.forget()
            return ''
        for side, first in _SIDES.items():
            values, sent = measured[first:first + 7], target[first:first + 6]
            seen = self._seen.get(side)
            if seen is None or stamp_ns < seen.stamp_ns or (values != seen.values).any():
                self._seen[side] = _Seen(values.copy(), stamp_ns, sent.copy())
                continue
            lasted, moved = stamp_ns - seen.stamp_ns, float(np.abs(sent - seen.target).max())
            if lasted >= self._least_ns and moved >= self._moved:
                return (f'joint states of the {side} arm did not change for {lasted * 1e-9:.2f} s, though its target '
                        f'moved by {moved:.2f} rad: its driver is frozen, or the arm cannot move')
        return ''
