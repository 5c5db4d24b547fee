"""The way to the start pose, or to the one in which motors may be switched off: let go of what is held, then move."""

from __future__ import annotations

import math

import numpy as np

from fpo_ros.policy.contract import GRIPPER_COLUMNS, JOINT_NAMES
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.controller_config import ControllerConfig
from fpo_ros.runtime.safety import per_column

#: Peak over mean speed of a minimum-jerk motion (Flash and Hogan 1985,
#: doi 10.1523/JNEUROSCI.05-07-01688.1985).
MIN_JERK_PEAK = 15 / 8
#: Outcome of homing, and of parking: motors may be switched off.
AT_HOME, PARKED = 'home reached', 'parked'
#: What a motion ends with that has reached its goal.
ARRIVED = (AT_HOME, PARKED)
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


class Approach:
    """Moves both arms to a pose, and tells whether they have arrived.

    :param config: poses, speeds and tolerances.
    :param limits: into whose positions the poses are moved.
    :param period_s: of control [s].
    """

    def __init__(self, config: ControllerConfig, limits: JointLimits, period_s: float) -> None:
        self._config, self._period_s = config, period_s
        self._poses = {False: np.clip(config.home, limits.lower, limits.upper),
                       True: np.clip(config.park, limits.lower, limits.upper)}
        self._speed = np.minimum(per_column(config.homing_joint_speed, config.homing_gripper_speed), limits.speed)
        self._tolerance = per_column(config.home_joint_tolerance, config.home_gripper_tolerance)
        self._parking = False
        self._path: HomingPath | None = None
        self._standstill = Standstill()

    def begin(self, command: np.ndarray, parking: bool) -> None:
        """Start from a (14,) command, for the park pose or for the start pose."""
        self._parking = parking
        self._path = HomingPath(command, self._poses[parking], self._speed, self._period_s)
        self._standstill = Standstill()

    def next(self) -> np.ndarray:
        """Return the (14,) target of this control period."""
        return self._path.next()

    def outcome(self, command: np.ndarray, measured: np.ndarray) -> str:
        """Return how the motion ended; empty while it runs. Call it once per control period.

        :param command: (14,) what was sent in this period.
        :param measured: (14,) measured joints.
        """
        still, goal = self._standstill.look(measured), self._poses[self._parking]
        if self._path.overrun <= 0 or (command != goal).any():
            return ''
        off, late = self._off(measured, goal), self._path.overrun * self._period_s > self._config.settle_limit_s
        if not off and (still or late):
            return PARKED if self._parking else AT_HOME
        if not late:
            return ''
        return f'parking ended off the park pose: {off}' if self._parking else f'homing ended off the start pose: {off}'

    def at_home(self, measured: np.ndarray | None) -> bool:
        """Return whether (14,) measured joints stand at the start pose."""
        return measured is not None and not self._off(measured, self._poses[False])

    def _off(self, measured: np.ndarray, goal: np.ndarray) -> str:
        """Say which joint is off; a gripper measured beyond open, as where its calibration is off, is open."""
        arrived, grippers = np.array(measured), list(GRIPPER_COLUMNS)
        arrived[grippers] = np.clip(arrived[grippers], 0.0, 1.0)
        excess = np.abs(arrived - goal) - self._tolerance
        column = int(np.argmax(excess))
        if excess[column] <= 0:
            return ''
        return f'{JOINT_NAMES[column]} at {measured[column]:.3f} instead of {goal[column]:.3f}'
