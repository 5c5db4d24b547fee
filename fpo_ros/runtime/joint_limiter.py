"""Position, speed, step and acceleration limits of both arms' targets, one control period at a time."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.limits import JointLimits


class JointLimiter:
    """The targets that joints may be sent next, where they stand and how fast they move.

    In discrete time, exactly: with the displacement d per period and the braking a per period squared, a joint needs
    d + (d - a) + (d - 2a) + ... to come to rest. So a joint is sent only where it can stop before its position limit
    under its acceleration limit, and by induction it always can.

    :param limits: position and speed limits.
    :param period_s: control period [s].
    :param acceleration: (14,) largest change of speed per second [rad/s^2, grippers 1/s^2]; None: not limited.
    :param max_step: (14,) largest change in one period, whatever the speed limit says [rad, grippers 0..1].
    """

    def __init__(self, limits: JointLimits, period_s: float, acceleration: np.ndarray | None = None,
                 max_step: np.ndarray | None = None) -> None:
        self.lower, self.upper = limits.lower, limits.upper
        #: (14,) largest change per period by the speed limit, and by any [rad, grippers 0..1].
        self.speed_step = limits.speed * period_s
        self.step = self.speed_step if max_step is None else np.minimum(self.speed_step, max_step)
        # To turn round at full speed in one period takes two steps: more is no limit.
        most = 2 * self.step
        #: (14,) largest change of the change per period.
        self.change = most if acceleration is None else np.minimum(acceleration * period_s ** 2, most)
        self._free = self.change >= most

    def stopping(self, moved: np.ndarray) -> np.ndarray:
        """Return the (14,) displacement of the next period when joints that moved by ``moved`` brake."""
        return np.sign(moved) * np.maximum(np.abs(moved) - self.change, 0.0)

    def braking_path(self, where: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """Return (K, 14) positions from ``where``, reached with the displacement ``moved``, to standstill.

        The first row is ``where``.
        """
        rows = [where]
        while (moved := self.stopping(moved)).any():
            rows.append(rows[-1] + moved)
        return np.stack(rows)

    def next(self, where: np.ndarray, moved: np.ndarray, target: np.ndarray, drift: np.ndarray | float = 0.0,
             scale: float = 1.0) -> np.ndarray:
        """Return the (14,) position of the next period: the target, where limits permit it.

        A target that is farther off is approached so that the joint can come to rest beside it while it moves on as it
        did: so it is not overshot, and targets that keep the limits are followed without delay.

        :param where: (14,) position now, inside the limits.
        :param moved: (14,) displacement of the period before.
        :param target: (14,) wanted position.
        :param drift: (14,) displacement of the target since the period before.
        :param scale: share of the step that is permitted, 0 to 1.
        """
        change, step = np.where(self._free, np.inf, self.change), self.step * scale
        least, most = moved - change, moved + change
        ahead, behind = (np.where(self._free, np.inf, self._reach(room))
                         for room in (self.upper - where, where - self.lower))
        high = where + np.minimum(np.minimum(most, np.maximum(step, least)), ahead)
        low = where - np.minimum(np.minimum(-least, np.maximum(step, -most)), behind)
        wanted = np.clip(target, self.lower, self.upper)
        drift = np.clip(drift, -self.step, self.step)
        lag = wanted - where - drift
        late = (np.abs(lag) > self.change) & ~self._free
        if late.any():
            wanted = np.where(late, where + drift + np.sign(lag) * self._reach(np.abs(lag)), wanted)
        return np.clip(np.clip(wanted, low, high), self.lower, self.upper)

    def which(self, column: int, where: np.ndarray, target: np.ndarray) -> str:
        """Return which limit kept a column from its target: position, step, speed or acceleration."""
        if not self.lower[column] <= target[column] <= self.upper[column]:
            return 'position'
        if abs(target[column] - where[column]) > self.step[column]:
            return 'speed' if self.step[column] == self.speed_step[column] else 'step'
        return 'speed' if self._free[column] else 'acceleration'

    def _reach(self, room: np.ndarray) -> np.ndarray:
        """Return the (14,) largest displacement after which a joint still stops within ``room``, which counts it.

        Inverse of d + (d - a) + ... + (d - na) = (n + 1) d - a n (n + 1) / 2, where n a <= d < (n + 1) a.
        """
        room = np.maximum(room, 0.0)
        n = np.floor((np.sqrt(1 + 8 * room / self.change) - 1) / 2)
        return room / (n + 1) + self.change * n / 2
