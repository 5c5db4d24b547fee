"""A jerk limit by a moving average: what follows it keeps every limit that what it follows keeps."""

from __future__ import annotations

import math

import numpy as np


def window_for(jerk: float, acceleration: float, period_s: float) -> int:
    """Return the periods to average over so that accelerations up to ``acceleration`` give jerks up to ``jerk``.

    The third difference of a mean over m periods is the difference of two second differences over m, so its jerk is at
    most 2 a / (m T) (Biagiotti and Melchiorri 2012, FIR filters for online trajectory planning, doi
    10.1016/j.conengprac.2012.08.005).

    :param jerk: limit [rad/s^3].
    :param acceleration: limit of the input [rad/s^2].
    """
    return max(1, math.ceil(2 * acceleration / (jerk * period_s) - 1e-9))


class MovingAverage:
    """Mean of the newest ``window`` rows; convex limits of position, speed and acceleration stay kept.

    The output lags by (window - 1) / 2 periods.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._rows = np.empty((0, 0))

    def start(self, row: np.ndarray) -> None:
        """Stand at ``row``."""
        self._rows = np.tile(row, (self.window, 1))

    def push(self, row: np.ndarray) -> np.ndarray:
        """Take the next row and return the mean."""
        if self.window == 1:
            return row
        self._rows = np.concatenate([self._rows[1:], row[None]])
        return row.copy() if (self._rows == row).all() else self._rows.mean(0)

    def foresee(self, path: np.ndarray) -> np.ndarray:
        """Return the means that follow when (K, n) rows come and the last one stays, until they stand at it."""
        if self.window == 1:
            return path
        rows = np.concatenate([self._rows[1:], path, np.tile(path[-1], (self.window - 1, 1))])
        return np.lib.stride_tricks.sliding_window_view(rows, self.window, axis=0).mean(-1)
