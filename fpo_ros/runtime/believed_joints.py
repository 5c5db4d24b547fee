"""Where the arms are by their newest plausible joint states, and why that may not be relied on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fpo_ros.runtime.chunks import FUTURE_TOLERANCE_S
from fpo_ros.runtime.controller_config import ControllerConfig
from fpo_ros.runtime.frozen import FrozenJoints
from fpo_ros.runtime.leaps import Leaps


class BelievedJoints:
    """Takes the measured joints of each control period, or says what is wrong with them.

    :param config: limits of age, of speed, and of readings that stay the same.
    :param implausible: says why (14,) joints cannot be; empty where they can.
    """

    def __init__(self, config: ControllerConfig, implausible: Callable[[np.ndarray], str]) -> None:
        self._config, self._implausible = config, implausible
        #: Newest plausible joints, (14,) float64; None before the first.
        self.value: np.ndarray | None = None
        #: Why they cannot be used; empty when they can.
        self.problem = 'no joint states received yet'
        #: Why the newest joint states did not get here; empty where they do.
        self.refused = ''
        self._stamp_ns = 0
        self._frozen = FrozenJoints(config.frozen_limit_s, config.frozen_distance)
        self._leaps = Leaps(config.fastest_joint)

    def look(self, now_ns: int, measured: np.ndarray | None, stamp_ns: int | None, target: np.ndarray | None,
             jump: str) -> None:
        """Take the joints of this period.

        :param now_ns: this instant [ns].
        :param measured: (14,) newest measured joints [rad, grippers 0..1], or None when there are none yet.
        :param stamp_ns: instant they were measured, of the older arm [ns].
        :param target: (14,) what was sent last; None: nothing is sent.
        :param jump: what the clock did since the last period, for messages; empty if nothing.
        """
        refused = f'; newest refused: {self.refused}' if self.refused else ''
        if measured is None or stamp_ns is None:
            self.problem = f'no joint states received yet{refused}'
            return
        measured = np.asarray(measured)
        problem, leapt = self._implausible(measured), ''
        if not problem and stamp_ns <= now_ns:
            leapt = self._leaps.problem(measured, stamp_ns)
        if leapt and self.value is not None:  # goes on from what was believed last, until that is too old
            measured, stamp_ns, refused = self.value, self._stamp_ns, f'; newest refused: {leapt}'
        age_s = (now_ns - stamp_ns) * 1e-9
        if problem or (leapt and self.value is None):
            self.problem = f'joint states are implausible: {problem or leapt}'
        elif age_s > self._config.joint_age_limit_s:
            self.problem = (f'joint states are {age_s:.2f} s old, the limit is {self._config.joint_age_limit_s} s'
                            f'{jump}{refused}')
        elif age_s < -FUTURE_TOLERANCE_S:
            self.problem = f'joint states lie {-age_s:.2f} s in the future: synchronise the clocks{jump}'
        else:
            # In a dry run arms stand while their targets move.
            self.problem = '' if self._config.log_only else self._frozen.problem(measured, stamp_ns, target)
            self.value, self._stamp_ns = measured.astype(np.float64), stamp_ns

    def taken_over(self) -> None:
        """Look anew for readings that stay the same: the arms are taken over where they are."""
        self._frozen.forget()
