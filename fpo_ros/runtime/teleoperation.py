"""Followers' targets from what an operator does with the leaders, without a bump when they take over."""

from __future__ import annotations

import math

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, JOINT_NAMES
from fpo_ros.runtime.apart import farthest_joint
from fpo_ros.runtime.chunks import FUTURE_TOLERANCE_S
from fpo_ros.runtime.controller_config import ControllerConfig
from fpo_ros.runtime.leaps import Leaps

#: No hand turns a joint of a leader faster [rad/s].
FASTEST_HAND = 4 * math.pi
#: A clock that was set back by more than this is followed [ns].
_SET_BACK_NS = 1_000_000_000


class Teleoperation:
    """The newest poses of the leaders, and the way from where the followers stand to them.

    An operator takes over with leaders that stand a little off their followers. That difference is added to the
    leaders' pose at first and fades along a minimum-jerk curve, so that the followers' targets go on from the command
    before (Flash and Hogan 1985, doi 10.1523/JNEUROSCI.05-07-01688.1985).

    :param config: ``teleop_age_limit_s``, ``teleop_align_limit`` and ``teleop_blend_s``.
    :param period_s: of control [s].
    """

    def __init__(self, config: ControllerConfig, period_s: float) -> None:
        self._config = config
        self._blend = max(1, math.ceil(config.teleop_blend_s / period_s - 1e-9))
        self._leaders: np.ndarray | None = None
        self._stamp_ns = 0
        self._leaps = Leaps(FASTEST_HAND)
        self._offset = np.zeros(ACTION_DIM)
        self._done = self._blend
        #: Poses that were refused [count], and why the newest one was; empty if none.
        self.refused = 0
        self.last_refusal = ''

    def offer(self, leaders: np.ndarray, stamp_ns: int) -> bool:
        """Take a pose of the leaders, or refuse it with a reason in :attr:`last_refusal`.

        :param leaders: (14,) joints of both leaders on the followers' scale [rad, grippers 0..1].
        :param stamp_ns: instant they were measured [ns].
        """
        values = np.asarray(leaders)
        reason = ''
        if values.shape != (ACTION_DIM,) or values.dtype.kind not in 'fiu':
            reason = f'a pose of the leaders is {ACTION_DIM} numbers, got shape {values.shape} of {values.dtype}'
        elif not np.isfinite(values).all():
            column = int(np.argmin(np.isfinite(values)))
            reason = f'the pose of the leaders is not finite: {JOINT_NAMES[column]} is {values[column]}'
        elif self._leaders is not None and 0 < self._stamp_ns - stamp_ns < _SET_BACK_NS:
            reason = f'the pose of the leaders is {(self._stamp_ns - stamp_ns) * 1e-9:.3f} s older than the one before'
        else:
            leapt = self._leaps.problem(values, stamp_ns)
            reason = leapt and f'leader: {leapt}'
        if reason:
            self.refused += 1
            self.last_refusal = reason
            return False
        self._leaders, self._stamp_ns = values.astype(np.float64), stamp_ns
        return True

    def silence(self, now_ns: int) -> str:
        """Say why the leaders cannot be followed now; empty when they can."""
        if self._leaders is None:
            return 'no pose of the leaders received yet: is the node teleop active?'
        age_s = (now_ns - self._stamp_ns) * 1e-9
        if age_s > self._config.teleop_age_limit_s:
            return (f'the pose of the leaders is {age_s:.2f} s old, the limit is '
                    f'{self._config.teleop_age_limit_s:g} s: is the node teleop active?')
        if age_s < -FUTURE_TOLERANCE_S:
            return f'the pose of the leaders lies {-age_s:.2f} s in the future: synchronise the clocks'
        return ''

    def objection(self, now_ns: int, follower: np.ndarray) -> str:
        """Say why the leaders must not take over followers that stand there; empty when they may.

        :param follower: (14,) current target, or measured joints [rad, grippers 0..1]. Grippers are left out: an
            operator's fingers decide.
        """
        silent = self.silence(now_ns)
        if silent:
            return silent
        column, distance = farthest_joint(self._leaders, follower)
        if distance <= self._config.teleop_align_limit:
            return ''
        return (f'{JOINT_NAMES[column]} of the leader stands {distance:.2f} rad from its follower, the limit '
                f'is {self._config.teleop_align_limit:g} rad: let the leaders go to the followers first')

    def begin(self, command: np.ndarray) -> None:
        """Take over from a (14,) command, which the first target equals but for what the leaders moved since."""
        self._offset, self._done = np.asarray(command, np.float64) - self._leaders, 0

    def next(self) -> np.ndarray:
        """Return the (14,) target of this control period."""
        s = self._done / self._blend
        self._done = min(self._done + 1, self._blend)
        return self._leaders + self._offset * (1 - s * s * s * (10 - s * (15 - 6 * s)))
