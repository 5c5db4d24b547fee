"""The way home: let go of what is held, then move to the start pose."""

from __future__ import annotations

import math

import numpy as np

from fpo_ros.policy.contract import GRIPPER_COLUMNS

#: Peak over mean speed of a minimum-jerk motion (Flash and Hogan 1985,
#: doi 10.1523/JNEUROSCI.05-07-01688.1985).
MIN_JERK_PEAK = 15 / 8
#: Joints stand still when they have moved by at most so much [rad, grippers 0..1] over so many control periods.
STILL, STILL_PERIODS = 0.005, 5


class HomingPath:
    """Targets of two minimum-jerk motions: the grippers open where the arms are, then everything goes home.

    Arms that held an object together would pull at it, and a gripper that holds one never reaches its place.

    :param start: (14,) command to start from [rad, grippers 0..1].
    :param home: (14,) start pose.
    :param speed: (14,) peak speed [rad/s, strokes/s].
    :param period_s: time between targets [s].
    """

    def __init__(self, start: np.ndarray, home: np.ndarray, speed: np.ndarray, period_s: float) -> None:
        opened = np.array(start, np.float64)
        opened[list(GRIPPER_COLUMNS)] = 1.0
        self._legs = [(np.array(start, np.float64), opened), (opened, np.array(home, np.float64))]
        seconds = [MIN_JERK_PEAK * float((np.abs(end - begin) / speed).max()) for begin, end in self._legs]
        self._ticks = [max(1, math.ceil(duration / period_s)) for duration in seconds]
        self._tick = 0

    @property
    def overrun(self) -> int:
        """Targets given since the path ended; negative while it runs."""
        return self._tick - sum(self._ticks)

    def next(self) -> np.ndarray:
        """Return the next (14,) target; the home pose itself, to the last bit, once the path has ended."""
        self._tick += 1
        tick = self._tick
        for (begin, end), ticks in zip(self._legs, self._ticks, strict=True):
            if tick < ticks:
                s = tick / ticks
                return begin + (end - begin) * (s * s * s * (10 - s * (15 - 6 * s)))
            tick -= ticks
        return self._legs[-1][1]


class Standstill:
    """Tells when measured joints have come to rest: a gripper still closes long after its target has arrived."""

    def __init__(self) -> None:
        self._since: np.ndarray | None = None
        self._periods = 0

    def look(self, joints: np.ndarray) -> bool:
        """Take the (14,) measured joints of this control period; returns whether they stand still."""
        if self._since is None or np.abs(joints - self._since).max() > STILL:
            self._since, self._periods = np.array(joints), 0
        else:
            self._periods += 1
        return self._periods >= STILL_PERIODS
