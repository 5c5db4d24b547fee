"""The one gate every joint command passes before it leaves the controller. No safety-rated function: docs/safety.md."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, JOINT_NAMES
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.geometry import Geometry
from fpo_ros.runtime.joint_limiter import JointLimiter
from fpo_ros.runtime.pose_guard import PoseGuard
from fpo_ros.runtime.safety_config import SafetyConfig, inside_registers, per_column
from fpo_ros.runtime.smoothing import MovingAverage, window_for

#: How far measured joints may stand outside the limits and still be believed and taken over
#: [rad, grippers 0..1]. 0.25 rad covers the stock sleep pose (shoulder -2.05 rad, limit -1.85);
#: a failed bus read (every joint -pi) lies beyond it. Grippers read up to 1.33 with the stock calibration.
OUTSIDE_JOINT = 0.25
OUTSIDE_GRIPPER = 0.5
#: Halvings of a step that is too long: 1/16 of it is left unused at most.
_HALVINGS = 4
#: A step of which less than this share is left counts as blocked.
_BLOCKED = 0.125
_GRIPPERS = list(GRIPPER_COLUMNS)


class SafetyFilter:
    """Moves targets inside the limits, or refuses them, one control period at a time.

    Every command lies inside the position limits, and differs from the one before by at most the step that speed,
    acceleration and :class:`SafetyConfig` permit; during the first ``ramp_periods`` targets after :meth:`start` the
    speed limit grows linearly from zero. Targets that are not 14 finite numbers are refused: the arms brake.

    With a geometry, a command is given only when the arms can brake behind it without breaking TCP speed, workspace
    or clearances. Between that braking and the wanted step the longest permitted one is taken, for both arms
    alike. So by induction no command breaks a limit, but for arms that were taken over outside one: they may not
    go farther out.

    :param limits: position and speed limits per column.
    :param period_s: control period [s].
    :param config: the other limits; None: position and speed alone, as in training.
    :param geometry: model of the cell; None: TCP speed, workspace and clearances are not looked at.
    """

    def __init__(self, limits: JointLimits, period_s: float, config: SafetyConfig | None = None,
                 geometry: Geometry | None = None) -> None:
        if not period_s > 0:
            raise ValueError(f'control period must be positive, got {period_s} s')
        self.limits = limits if config is None else inside_registers(
            limits, config.position_margin, config.servo_counts)
        self.config = config
        self.period_s = float(period_s)
        self._limiter = JointLimiter(self.limits, period_s, *(
            () if config is None else (config.accelerations(), config.steps())))
        arms = [column for column in range(ACTION_DIM) if column not in GRIPPER_COLUMNS]
        window = 1 if config is None or not config.jerk else window_for(
            config.jerk, float(self._limiter.change[arms].max()) / period_s ** 2, period_s)
        self._average = MovingAverage(window)
        self._guard = None if config is None or geometry is None else PoseGuard(geometry, config, period_s)
        self._refuses = config is not None and config.on_violation == 'refuse'
        #: Newest command, (14,) float64, read-only; None while the filter has no arm.
        self.command: np.ndarray | None = None
        #: Targets moved inside a limit [count].
        self.projected = 0
        #: Targets refused [count].
        self.refused = 0
        #: Why the newest refused target was refused; empty if none.
        self.last_refusal = ''
        #: How often each limit acted [count].
        self.acted: Counter[str] = Counter()
        #: Periods in a row in which workspace or clearance left next to nothing of a step, and why.
        self.blocked, self.block = 0, ''
        self._where, self._moved = np.empty(0), np.zeros(ACTION_DIM)
        self._wanted: np.ndarray | None = None
        self._stepped = False
        self._ramp_periods = 0
        self._ramp_done = 0
        self._gripper_range = np.array([[-np.inf] * 2, [np.inf] * 2])
        self._newest_projection: tuple[np.ndarray, np.ndarray, str] | None = None
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
        self._where = np.clip(np.asarray(joints, np.float64), self.limits.lower, self.limits.upper)
        self._moved = np.zeros(ACTION_DIM)
        self._wanted = None
        self._average.start(self._where)
        self.blocked, self._stepped = 0, True
        self._send(self._where)
        self.ramp(ramp_periods)
        return self.command

    def ramp(self, ramp_periods: int) -> None:
        """Let the speed limit grow from zero again over the next ``ramp_periods`` targets."""
        self._ramp_periods, self._ramp_done = ramp_periods, 0

    def let_go(self) -> None:
        """Forget the command; :meth:`start` is needed before the next one."""
        self.command = None

    def keep_grippers(self, lower: np.ndarray, upper: np.ndarray) -> None:
        """Keep the grippers' targets within (2,) bounds from the next one on [0..1]; also while nothing else moves."""
        self._gripper_range = np.array([lower, upper], np.float64)

    def step(self, target: np.ndarray, ahead: np.ndarray | None = None) -> np.ndarray:
        """Return the (14,) command for this period.

        :param target: (14,) wanted joints [rad, grippers 0..1].
        :param ahead: (n, 14) finite targets of the periods after this one, where they are known.
        :raises RuntimeError: when the arms were not taken over by :meth:`start`.
        """
        if self.command is None:
            raise RuntimeError('SafetyFilter.step before start: the arms were not taken over')
        self._stepped = True
        problem = _not_a_joint_vector(target)
        if problem:
            return self._refuse(problem)
        scale = 1.0
        if self._ramp_done < self._ramp_periods:
            self._ramp_done += 1
            scale = self._ramp_done / (self._ramp_periods + 1)
        asked = np.asarray(target, np.float64)
        wanted = self._eased(asked)
        if self._refuses and (beyond := self._beyond(wanted)).max() > 0:
            column = int(np.argmax(beyond))
            self.acted['position'] += 1
            return self._refuse(f'{JOINT_NAMES[column]}: target {wanted[column]:.4f} lies outside the position limits '
                                f'{self.limits.lower[column]:.4f}..{self.limits.upper[column]:.4f}')
        drift = 0.0 if self._wanted is None else wanted - self._wanted
        self._wanted = wanted
        where, why = self._limiter.next(self._where, self._moved, wanted, drift, scale), ''
        if self._guard is not None:
            where, why = self._guarded(where, ahead)
            if self._refuses and why and not why.startswith('TCP speed'):
                self.acted[why.partition(':')[0]] += 1
                return self._refuse(f'{why} on the way to the target')
        before = self._where
        self._advance(where)
        if (self.command != asked).any():
            self.projected += 1
            if not why:
                column = int(np.argmax(np.abs(asked - self.command)))
                why = ('gripper current' if asked[column] != wanted[column] else
                       self._limiter.which(column, before, wanted) if where[column] != wanted[column] else 'jerk')
            self.acted[why.partition(':')[0]] += 1
            self._newest_projection = asked.copy(), self.command, why
        return self.command

    def brake(self) -> np.ndarray:
        """Return the (14,) command for a period without a target: the arms come to rest as fast as they may."""
        self.blocked = 0
        return self._brake()

    def finish(self) -> np.ndarray | None:
        """End a control period: brake where no target came in it, and return the command to send."""
        if self.command is not None and not self._stepped:
            rest = self._where + self._limiter.stopping(self._moved)
            eased = self._eased(rest)
            if (eased != rest).any():
                self.step(eased)
            else:
                self.brake()
        self._stepped = False
        return self.command

    @property
    def last_projection(self) -> str:
        """Which joint the newest projected target was moved in, how far and why; empty if none."""
        if self._newest_projection is None:
            return ''
        target, command, why = self._newest_projection
        column = int(np.argmax(np.abs(target - command)))
        return (f'{JOINT_NAMES[column]}: target {target[column]:.4f} '
                f'sent as {command[column]:.4f} ({why if ":" in why else f"{why} limit"})')

    def _beyond(self, target: np.ndarray) -> np.ndarray:
        """Return (14,) how far a target lies outside the position limits; grippers close on things and never do."""
        beyond = np.maximum(np.maximum(self.limits.lower - target, target - self.limits.upper), 0.0)
        beyond[_GRIPPERS] = 0.0
        return beyond

    def _guarded(self, where: np.ndarray, ahead: np.ndarray | None) -> tuple[np.ndarray, str]:
        """Return the longest permitted part of a step, and which limit shortened it."""
        if (where == self._where).all():
            self.blocked = 0
            return where, ''
        rest = self._where + self._limiter.stopping(self._moved)
        share, why = self._foreseen(ahead)
        wanted = where
        if share < 1:
            where = rest + share * (where - rest)
        if found := self._broken(where):
            why, least, most = found, 0.0, share
            guess = self._guard.pace(rest, wanted) if found.startswith('TCP speed') else 1.0
            if guess < share:
                where = rest + guess * (wanted - rest)
                if not self._broken(where):
                    return self._judged(where, wanted, why)
                most = guess
            where = rest
            for _ in range(_HALVINGS):
                middle = (least + most) / 2
                candidate = rest + middle * (wanted - rest)
                if self._broken(candidate):
                    most = middle
                else:
                    least, where = middle, candidate
        return self._judged(where, wanted, why)

    def _judged(self, where: np.ndarray, wanted: np.ndarray, why: str) -> tuple[np.ndarray, str]:
        """Return what came of a step, and note whether it left next to nothing of it."""
        stuck = np.abs(where - self._where).max() < _BLOCKED * np.abs(wanted - self._where).max()
        if stuck and not why.startswith('TCP speed'):
            self.blocked, self.block = self.blocked + 1, why
        else:
            self.blocked = 0
        return where, why

    def _foreseen(self, ahead: np.ndarray | None) -> tuple[float, str]:
        """Return which share of a step is left when a row to come may not be gone to, and why: the nearer, the less."""
        rows = () if ahead is None else ahead[:self.config.look_ahead]
        for number, row in enumerate(rows):
            if why := self._guard.misplaced(np.clip(row, self.limits.lower, self.limits.upper)):
                return (number + 1) / (len(rows) + 1), why
        return 1.0, ''

    def _broken(self, where: np.ndarray) -> str:
        """Say which limit is broken when the arms go to ``where`` and brake; empty when none is."""
        path = self._limiter.braking_path(where, where - self._where)
        return self._guard.problem(self._average.foresee(path))

    def _advance(self, where: np.ndarray) -> None:
        self._moved, self._where = where - self._where, where
        self._send(self._average.push(where))

    def _send(self, command: np.ndarray) -> None:
        if self.command is not None and (command == self.command).all():
            return
        self.command = command
        self.command.setflags(write=False)
        if self._guard is not None:
            self._guard.stand(self.command)

    def _eased(self, target: np.ndarray) -> np.ndarray:
        lower, upper = self._gripper_range
        eased = target.copy()
        eased[_GRIPPERS] = np.clip(target[_GRIPPERS], lower, upper)
        return eased

    def _brake(self) -> np.ndarray:
        self._wanted = None
        self._advance(self._where + self._limiter.stopping(self._moved))
        return self.command

    def _refuse(self, problem: str) -> np.ndarray:
        self.refused += 1
        self.last_refusal = problem
        return self._brake()


def _not_a_joint_vector(values: object) -> str:
    array = np.asarray(values)
    if array.shape != (ACTION_DIM,) or array.dtype.kind not in 'fiu':
        return f'expected {ACTION_DIM} numbers, got shape {array.shape} of {array.dtype}'
    finite = np.isfinite(array)
    if not finite.all():
        column = int(np.argmin(finite))
        return f'{JOINT_NAMES[column]} is {array[column]}'
    return ''
