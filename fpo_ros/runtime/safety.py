"""The one gate every joint command passes before it leaves the controller."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, JOINT_NAMES
from fpo_ros.policy.limits import JointLimits

#: How far measured joints may stand outside the limits and still be believed and taken over
#: [rad, grippers 0..1]. 0.25 rad covers the stock sleep pose (shoulder -2.05 rad, limit -1.85);
#: a failed bus read (every joint -pi) lies beyond it. Grippers read up to 1.33 with the stock calibration.
OUTSIDE_JOINT = 0.25
OUTSIDE_GRIPPER = 0.5


def per_column(joint: float, gripper: float) -> np.ndarray:
    """Return (14,) with one value for the joints [rad] and one for the grippers [0..1]."""
    values = np.full(ACTION_DIM, float(joint))
    values[list(GRIPPER_COLUMNS)] = gripper
    return values


class SafetyFilter:
    """Moves targets inside the limits, or refuses them, one control period at a time.

    Every command lies inside the position limits and differs from the one before by at most
    ``speed * period``; during the first ``ramp_periods`` targets after :meth:`start` the speed limit grows
    linearly from zero. Targets that are not 14 finite numbers are refused: the last command is repeated.

    :param limits: limits per column.
    :param period_s: control period [s].
    """

    def __init__(self, limits: JointLimits, period_s: float) -> None:
        if not period_s > 0:
            raise ValueError(f'control period must be positive, got {period_s} s')
        self.limits = limits
        self.period_s = float(period_s)
        #: Newest command, (14,) float64, read-only; None while the filter has no arm.
        self.command: np.ndarray | None = None
        #: Targets moved inside a limit [count].
        self.projected = 0
        #: Targets refused [count].
        self.refused = 0
        #: Why the newest refused target was refused; empty if none.
        self.last_refusal = ''
        self._ramp_periods = 0
        self._ramp_done = 0
        self._newest_projection: tuple[np.ndarray, np.ndarray] | None = None
        outside = per_column(OUTSIDE_JOINT, OUTSIDE_GRIPPER)
        self._believed_lower = limits.lower - outside
        self._believed_upper = limits.upper + outside

    def implausible(self, joints: np.ndarray) -> str:
        """Say why measured joints can't be true; empty when they can.

        :param joints: (14,) measured joints [rad, grippers 0..1].
        """
        problem = _not_a_joint_vector(joints)
        if problem:
            return problem
        beyond = (joints < self._believed_lower) | (joints > self._believed_upper)
        if beyond.any():
            column = int(np.argmax(beyond))
            return (f'{JOINT_NAMES[column]} reads {joints[column]:.3f}, far outside its limits '
                    f'{self.limits.lower[column]:.3f}..{self.limits.upper[column]:.3f}')
        return ''

    def start(self, joints: np.ndarray, ramp_periods: int = 0) -> np.ndarray:
        """Take the arms over where they stand.

        :param joints: (14,) measured joints or current target.
        :param ramp_periods: targets until the full speed limit applies.
        :returns: (14,) the first command: ``joints``, moved onto a limit where they stand outside it.
        :raises ValueError: when the joints are not plausible.
        """
        problem = self.implausible(joints)
        if problem:
            raise ValueError(f'cannot take the arms over: {problem}')
        self.command = _frozen(np.clip(np.asarray(joints, np.float64), self.limits.lower, self.limits.upper))
        self.ramp(ramp_periods)
        return self.command

    def ramp(self, ramp_periods: int) -> None:
        """Let the speed limit grow from zero again over the next ``ramp_periods`` targets."""
        self._ramp_periods, self._ramp_done = ramp_periods, 0

    def let_go(self) -> None:
        """Forget the command; :meth:`start` is needed before the next one."""
        self.command = None

    def step(self, target: np.ndarray) -> np.ndarray:
        """Return the (14,) command for this period.

        :param target: (14,) wanted joints [rad, grippers 0..1].
        :raises RuntimeError: when the arms were not taken over by :meth:`start`.
        """
        if self.command is None:
            raise RuntimeError('SafetyFilter.step before start: the arms were not taken over')
        problem = _not_a_joint_vector(target)
        if problem:
            self.refused += 1
            self.last_refusal = problem
            return self.command
        scale = 1.0
        if self._ramp_done < self._ramp_periods:
            self._ramp_done += 1
            scale = self._ramp_done / (self._ramp_periods + 1)
        wanted = np.asarray(target, np.float64)
        command = self.limits.apply(self.command, wanted[None], self.period_s * scale)[0]
        if (command != wanted).any():
            self.projected += 1
            self._newest_projection = wanted.copy(), command
        self.command = _frozen(command)
        return self.command

    @property
    def last_projection(self) -> str:
        """Which joint the newest projected target was moved in, and how far; empty if none."""
        if self._newest_projection is None:
            return ''
        target, command = self._newest_projection
        column = int(np.argmax(np.abs(target - command)))
        limits = self.limits
        why = ('position' if not limits.lower[column] <= target[column] <= limits.upper[column] else 'speed')
        return (f'{JOINT_NAMES[column]}: target {target[column]:.4f} '
                f'sent as {command[column]:.4f} ({why} limit)')


def _not_a_joint_vector(values: object) -> str:
    array = np.asarray(values)
    if array.shape != (ACTION_DIM,) or array.dtype.kind not in 'fiu':
        return f'expected {ACTION_DIM} numbers, got shape {array.shape} of {array.dtype}'
    finite = np.isfinite(array)
    if not finite.all():
        column = int(np.argmin(finite))
        return f'{JOINT_NAMES[column]} is {array[column]}'
    return ''


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
