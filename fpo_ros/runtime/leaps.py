"""Measured joints that no motion can explain: a failed read of one motor looks like any other angle."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import JOINT_NAMES
from fpo_ros.runtime.apart import farthest_joint

#: What a joint may seem to move at once [rad]: both arms share the older stamp, and one without power falls.
MARGIN_RAD = 0.2


class Leaps:
    """Compares each reading with the newest one that was believed. Grippers are left out: they are not in rad.

    One wrong reading is passed over. Where all that follow agree with it, they are believed once the joints had the
    time to get there.

    :param speed: no joint is faster [rad/s]; 0: everything is believed.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._joints: np.ndarray | None = None
        self._stamp_ns = 0

    def problem(self, joints: np.ndarray, stamp_ns: int) -> str:
        """Say which joint leapt since the newest reading that was believed; where none did, believe this one.

        :param joints: (14,) [rad, grippers 0..1].
        :param stamp_ns: instant they were measured [ns].
        """
        if self._joints is not None and self._speed:
            seconds = (stamp_ns - self._stamp_ns) * 1e-9
            column, distance = farthest_joint(joints, self._joints)
            if distance > MARGIN_RAD + self._speed * max(seconds, 0.0):
                return (f'{JOINT_NAMES[column]} leapt by {distance:.2f} rad to {joints[column]:.3f} within '
                        f'{seconds:.3f} s: its motor could not be read')
        self._joints, self._stamp_ns = np.array(joints, np.float64), stamp_ns
        return ''
