"""Currents and temperatures of the motors: a gripper that squeezes too long eases off, what overheats is held."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, JOINT_NAMES

#: Stall currents at 12 V [mA]: XM540-W270 for waist to wrist_angle, XM430-W350 for wrist_rotate and gripper (ROBOTIS
#: e-manual; which servo where: Trossen documentation of the ViperX 300 S).
STALL_MA = np.array([4400.0] * 5 + [2300.0] * 2)
#: An overload has ended when the current is below this share of its limit.
_ENDED = 0.8
_GRIPPERS = list(GRIPPER_COLUMNS)


@dataclass(frozen=True)
class MotorReadings:
    """What the motors report; None where they do not, as drivers without currents or registers read do.

    :param current_ma: (14,) motor currents, signed [mA]; NaN where unknown.
    :param temperature_c: (14,) Present_Temperature [degrees Celsius]; NaN where unknown.
    :param errors: (14,) why a motor has switched its torque off, in words; empty where it has not, or it is unknown.
    """

    current_ma: np.ndarray | None = None
    temperature_c: np.ndarray | None = None
    errors: tuple[str, ...] | None = None


@dataclass(frozen=True)
class MotorLimits:
    """Limits of the motors; 0 switches one off.

    :param gripper_current_ma: a gripper above it for ``gripper_seconds`` eases off [mA]. Below Current_Limit (200
        counts of 2.69 mA = 538 mA, aloha_vx300s.yaml), at which it would squeeze for ever.
    :param gripper_seconds: a few seconds of stall end in overload and torque off (Trossen ALOHA documentation,
        troubleshooting) [s].
    :param gripper_squeeze: how far beyond its measured position an eased gripper's target lies [0..1].
    :param joint_current: share of the stall current above which, for ``joint_seconds``, a joint makes the arms hold.
    :param joint_seconds: [s].
    :param temperature_hold_c: a motor this warm makes the arms hold [degrees Celsius]. Servos switch themselves off,
        and arms fall, at Temperature_Limit, 80 (ROBOTIS e-manual, XM430-W350).
    :param temperature_stop_c: a motor this warm latches the stop [degrees Celsius].
    """

    gripper_current_ma: float = 450.0
    gripper_seconds: float = 1.0
    gripper_squeeze: float = 0.05
    joint_current: float = 0.6
    joint_seconds: float = 0.5
    temperature_hold_c: float = 70.0
    temperature_stop_c: float = 77.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f'{item.name} must be 0 or more, got {value}')
        if 0 < self.temperature_stop_c < self.temperature_hold_c:
            raise ValueError(f'temperature_stop_c ({self.temperature_stop_c}) must not be below temperature_hold_c '
                             f'({self.temperature_hold_c})')


class MotorWatch:
    """Looks at the motors once per control period.

    :param limits: what they may do.
    :param period_s: control period [s].
    """

    def __init__(self, limits: MotorLimits, period_s: float) -> None:
        self.limits, self.period_s = limits, period_s
        #: Which joint has no power, or draws too much for too long: its target must go to where it is; empty for none.
        self.powerless = ''
        #: Which motor is too warm to work on, and which too hot; empty for none.
        self.warm, self.hot = '', ''
        #: (2,) bounds of the grippers' targets [0..1]; infinite where they are free.
        self.lower, self.upper = np.full(2, -np.inf), np.full(2, np.inf)
        #: How often a gripper was eased [count], and why the newest one was.
        self.eased, self.last_easing = 0, ''
        self._squeezed_s = np.zeros(2)
        self._loaded_s = np.zeros(ACTION_DIM)
        limit = np.tile(STALL_MA, 2) * (limits.joint_current or np.inf)
        limit[_GRIPPERS] = np.inf  # those ease off
        self._limit_ma = limit

    def forget(self) -> None:
        """Let the grippers go: the arms are given up or taken over anew."""
        self.lower, self.upper = np.full(2, -np.inf), np.full(2, np.inf)
        self._squeezed_s[:] = 0.0
        self._loaded_s[:] = 0.0

    def look(self, readings: MotorReadings, command: np.ndarray | None = None, where: np.ndarray | None = None) -> None:
        """Take the readings of this period.

        :param command: (2,) the grippers' targets sent last, or None: nothing is sent.
        :param where: (2,) where the grippers are, on the scale of commands; None: not known.
        :raises ValueError: for readings that are not (14,).
        """
        for name, values in vars(readings).items():
            if values is not None and np.shape(values) != (ACTION_DIM,):
                raise ValueError(f'{name} must be {ACTION_DIM} numbers, got shape {np.shape(values)}')
        self.powerless = self.warm = self.hot = ''
        if readings.errors is not None:
            self._look_at_errors(readings.errors)
        if readings.temperature_c is not None:
            self._look_at_temperatures(readings.temperature_c)
        if readings.current_ma is not None:
            current = np.abs(readings.current_ma)
            self._look_at_joints(current)
            if command is not None and where is not None and self.limits.gripper_current_ma:
                self._look_at_grippers(current[_GRIPPERS], command, where)

    def wanted(self, grippers: np.ndarray) -> None:
        """Free grippers whose (2,) new targets no longer squeeze, but lie on the other side of their bounds."""
        self.lower[grippers > self.lower] = -np.inf
        self.upper[grippers < self.upper] = np.inf

    def _look_at_errors(self, errors: tuple[str, ...]) -> None:
        column = next((column for column, error in enumerate(errors) if error), None)
        if column is not None:
            self.powerless = (f'{JOINT_NAMES[column]} has switched its torque off ({errors[column]}): support the arm, '
                              'ask for IDLE, and reboot its motor (fpo-ros arms reboot)')

    def _look_at_temperatures(self, temperature: np.ndarray) -> None:
        if np.isnan(temperature).all():
            return
        column = int(np.nanargmax(temperature))
        hottest, limits = temperature[column], self.limits
        for limit, name in ((limits.temperature_stop_c, 'hot'), (limits.temperature_hold_c, 'warm')):
            if limit and hottest >= limit:
                setattr(self, name, f'{JOINT_NAMES[column]} has {hottest:.0f} degrees Celsius, the limit is {limit:g}: '
                                    'park the arms and let it cool')

    def _look_at_joints(self, current: np.ndarray) -> None:
        over, ended = current > self._limit_ma, ~(current > _ENDED * self._limit_ma)
        self._loaded_s[over] += self.period_s
        self._loaded_s[ended] = 0.0
        column = int(np.argmax(self._loaded_s))
        if self._loaded_s[column] >= self.limits.joint_seconds and over[column]:
            self.powerless = self.powerless or (
                f'{JOINT_NAMES[column]} draws {current[column]:.0f} mA for {self._loaded_s[column]:.1f} s, the limit '
                f'is {self._limit_ma[column]:.0f} mA')

    def _look_at_grippers(self, current: np.ndarray, command: np.ndarray, where: np.ndarray) -> None:
        limit = self.limits.gripper_current_ma
        self._squeezed_s[current > limit] += self.period_s
        self._squeezed_s[~(current > _ENDED * limit)] = 0.0
        for side in np.flatnonzero(self._squeezed_s >= self.limits.gripper_seconds):
            self._squeezed_s[side] = 0.0
            closing = command[side] <= where[side]
            # One that was eased already, and squeezes still, goes to where it is.
            again = np.isfinite(self.lower[side] if closing else self.upper[side])
            squeeze = 0.0 if again else self.limits.gripper_squeeze
            if closing:
                self.lower[side] = where[side] - squeeze
            else:
                self.upper[side] = where[side] + squeeze
            self.eased += 1
            self.last_easing = (f'{JOINT_NAMES[_GRIPPERS[side]]} drew more than {limit:g} mA for '
                                f'{self.limits.gripper_seconds:g} s: its target is kept at '
                                f'{(self.lower if closing else self.upper)[side]:.3f} until it is sent the other way')
