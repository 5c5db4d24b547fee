"""The seven motors of an arm: modes, profiles, limits, torque, error latches and registers. Without ROS.

Sources: ROBOTIS e-manual of XM540-W270 and XM430-W350; interbotix_gravity_compensation for torque per current.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fpo_ros.hardware import xs

#: Torque per current of the motors as interbotix_gravity_compensation has it: XM540-W270, and XM430-W350 [N m/A].
TORQUE_PER_AMPERE = np.array([1.793] * 5 + [0.897] * 2)
#: Stall torque [N m] and speed without load [rad/s] at 12 V (e-manual), of which PWM commands make use.
STALL_TORQUE, FREE_SPEED = np.array([10.6] * 5 + [4.1] * 2), np.array([3.14] * 5 + [4.82] * 2)
#: Kinds of drive: none, a position servo, a given torque.
OFF, POSITION, TORQUE = range(3)
#: A motor may make up for this much time in which its reference stood still: commands come every 20 ms [s].
_ALLOWANCE_S = 0.02
#: How far the reference of mode "velocity" runs ahead of a blocked joint [rad].
_AHEAD = 0.2
AMBIENT_C = 25.0
#: Time constant with which a hot motor cools: of the 20 minutes that users are told to wait, half [s].
COOLING_S = 600.0
_RAM = dict.fromkeys(xs.RAM, 0) | xs.GAINS
#: Supply [0.1 V], and Shutdown as delivered: overload, electrical shock, overheating.
_VOLTAGE, _SHUTDOWN = 120, 52
#: Bit of Drive_Mode for profiles in time.
_TIME_PROFILE = 0x04
#: Model_Number of XM540-W270 and XM430-W350.
_MODEL_NUMBERS = (1120,) * 5 + (1020,) * 2
_MODE_NAMES = {0: 'current', 1: 'velocity', 3: 'position', 4: 'ext_position', 5: 'current_based_position', 16: 'pwm'}


@dataclass(frozen=True)
class Measured:
    """What the motors of an arm measure.

    :param positions: (7,) angles [rad].
    :param velocities: (7,) [rad/s].
    :param torques: (7,) that carry load: joint friction of the model is not among them [N m].
    """

    positions: np.ndarray
    velocities: np.ndarray
    torques: np.ndarray

    @property
    def currents_ma(self) -> np.ndarray:
        """(7,) motor currents that the torques amount to [mA]."""
        return self.torques / TORQUE_PER_AMPERE * 1e3


@dataclass(frozen=True)
class Drive:
    """What the motors of an arm do until the next tick.

    :param kinds: (7,) :data:`OFF`, :data:`POSITION` or :data:`TORQUE`.
    :param values: (7,) positions [rad] or torques [N m].
    :param limits: (7,) largest torque of a position servo [N m], infinite for the model's own.
    :param damping: (7,) torque against motion, of back-EMF [N m s/rad].
    :param gains: (7,) factor of a position servo's gain.
    """

    kinds: np.ndarray
    values: np.ndarray
    limits: np.ndarray
    damping: np.ndarray
    gains: np.ndarray


class Motors:
    """Motors of one arm; rows are ``xs.MOTORS``.

    :param model: which arm.
    :param linkage: of its gripper.
    :param positions: (7,) where they stand [rad].
    :param gripper_factor: how much faster than its Velocity_Limit the gripper's motor is.
    """

    def __init__(self, model: xs.ArmModel, linkage: xs.Linkage, positions: np.ndarray,
                 gripper_factor: float = 1.0) -> None:
        self.model, self.linkage = model, linkage
        self._factors = (1.0,) * 6 + (gripper_factor,)
        self.modes = ['position'] * 7
        self.profile_types = ['velocity'] * 7
        self.torque = np.zeros(7, bool)
        self.errors = np.zeros(7, np.int64)
        self.temperatures = np.full(7, AMBIENT_C)
        self.missing = np.zeros(7, bool)
        self.goals = np.array(positions, np.float64)
        self.references = self.goals.copy()
        self._speeds, self._allowance = np.zeros(7), np.full(7, np.inf)
        #: (7,) cruise speed and acceleration of a motion with a time profile [rad/s, rad/s^2].
        self._cruise, self._gather = np.full(7, np.inf), np.full(7, np.inf)
        self.registers = [self._delivered(index) for index in range(7)]

    def _delivered(self, index: int) -> dict[str, int]:
        low, high = self.model.counts[index]
        shadow = self.model.shadows.get(xs.MOTORS[index], 255)
        return _RAM | {
            'ID': self.model.ids[index], 'Drive_Mode': 0, 'Secondary_ID': shadow, 'Homing_Offset': 0,
            'Temperature_Limit': xs.TEMPERATURE_LIMIT_C, 'PWM_Limit': xs.PWM_LIMIT, 'Shutdown': _SHUTDOWN,
            'Current_Limit': self.model.current_limit[index], 'Velocity_Limit': xs.VELOCITY_LIMIT_COUNTS,
            'Min_Position_Limit': low, 'Max_Position_Limit': high, 'Model_Number': _MODEL_NUMBERS[index],
            'Present_Input_Voltage': _VOLTAGE, 'Goal_Current': self.model.current_limit[index]}

    @property
    def offsets(self) -> np.ndarray | None:
        """What Homing_Offset adds to each of (7,) positions [rad]; None where it is 0 for all."""
        counts = [own['Homing_Offset'] for own in self.registers]
        return np.array([xs.radians_of_turn(count) for count in counts]) if any(counts) else None

    # ---- what the bus asks for

    def command(self, index: int, value: float) -> str:
        """Take a goal in the unit of the motor's mode; return why it was ignored, or nothing."""
        mode, name = self.modes[index], xs.MOTORS[index]
        if not math.isfinite(value):
            return f'{name}: a goal of {value} is none'
        if self.missing[index]:
            return f'{name} does not answer'
        if mode in ('position', 'linear_position'):
            angle = self.linkage.angle(value / 2) if mode == 'linear_position' else value
            low, high = (self.registers[index][key] for key in ('Min_Position_Limit', 'Max_Position_Limit'))
            if not low <= xs.counts_of(angle) <= high:
                return f'{name}: {angle:.4f} rad lies outside {low}..{high} counts, which the motor ignores'
            value = angle
        if not self.torque[index]:
            return ''  # the goal is forgotten when the torque comes on
        self.goals[index] = value
        if mode in ('position', 'linear_position', 'ext_position', 'current_based_position'):
            self._plan(index, value)
        return ''

    def _plan(self, index: int, goal: float) -> None:
        """Fix cruise speed and acceleration of the way to a new goal, from Profile_Velocity and _Acceleration."""
        velocity, acceleration = (self.registers[index][key] for key in ('Profile_Velocity', 'Profile_Acceleration'))
        self._cruise[index] = self._gather[index] = math.inf
        if self.profile_types[index] == 'time':
            whole, gather = velocity * 1e-3, min(acceleration, velocity / 2) * 1e-3
            if whole:
                self._cruise[index] = max(abs(goal - self.references[index]) / (whole - gather), 1e-6)
                self._gather[index] = self._cruise[index] / gather if gather else math.inf
        else:
            if velocity:
                self._cruise[index] = velocity * xs.VELOCITY_UNIT_RAD_S
            if acceleration:
                self._gather[index] = acceleration * xs.ACCELERATION_UNIT_RAD_S2

    def set_torque(self, index: int, enabled: bool, positions: np.ndarray) -> str:
        """Switch a motor; return why it stays off, or nothing. Switched on it holds where it is."""
        if self.missing[index]:
            return f'{xs.MOTORS[index]} does not answer'
        if enabled and self.errors[index] & self.registers[index]['Shutdown']:
            return f'{xs.MOTORS[index]} has shut down ({", ".join(xs.errors_of(self.errors[index]))}): reboot it'
        if enabled and not self.torque[index]:
            self.settle(index, positions[index])
        self.torque[index] = enabled
        return ''

    def settle(self, index: int, position: float) -> None:
        """Let a motor aim at a position in which it stands [rad]; other modes get a goal of 0."""
        self.references[index] = position
        self.goals[index] = 0.0 if self.modes[index] in ('velocity', 'current', 'pwm') else position
        self._speeds[index], self._allowance[index] = 0.0, np.inf
        self._cruise[index] = self._gather[index] = np.inf

    def set_mode(self, index: int, mode: str, profile_type: str, velocity: int, acceleration: int) -> None:
        """Change mode and profile of a motor whose torque is off."""
        self.modes[index], self.profile_types[index] = mode, profile_type
        self.registers[index] |= {'Drive_Mode': _TIME_PROFILE if profile_type == 'time' else 0,
                                  'Profile_Velocity': velocity, 'Profile_Acceleration': acceleration,
                                  'Goal_Current': self.registers[index]['Current_Limit']}

    def reboot(self, index: int, positions: np.ndarray) -> None:
        """Forget errors and what is kept without power nowhere; the torque is off then."""
        if self.missing[index]:
            return
        self.errors[index], self.torque[index] = 0, False
        self.registers[index] |= _RAM | {'Goal_Current': self.registers[index]['Current_Limit']}
        self.settle(index, positions[index])

    def write(self, index: int, register: str, value: int, positions: np.ndarray) -> str:
        """Write a register; return why the motor ignored it, or nothing."""
        name, own = xs.MOTORS[index], self.registers[index]
        if register not in xs.REGISTERS:
            return f"{name} has no register '{register}' (names have Dynamixel's spelling and case)"
        if self.missing[index]:
            return f'{name} does not answer'
        if register in xs.READ_ONLY:
            return f'{register} of {name} cannot be written'
        if register in xs.EEPROM and self.torque[index]:
            return f'{register} of {name} cannot be written while its torque is on'
        if register == 'Torque_Enable':
            return self.set_torque(index, bool(value), positions)
        if register == 'Goal_Position':
            return self.command(index, xs.radians_of(value))
        if register == 'Operating_Mode':
            if value not in _MODE_NAMES:
                return f'{name} has no mode {value}'
            self.modes[index] = _MODE_NAMES[value]
            return ''
        most = {'Current_Limit': self._most_current(index), 'PWM_Limit': xs.PWM_LIMIT, 'Max_Position_Limit': 4095,
                'Min_Position_Limit': 4095, 'Velocity_Limit': 1023, 'Temperature_Limit': 100,
                'Goal_Current': own['Current_Limit'], 'Homing_Offset': 1024}.get(register)
        least = -1024 if register == 'Homing_Offset' else 0
        if most is not None and not least <= value <= most:
            return f'{register} of {name} cannot be {value}: allowed is {least} to {most}'
        own[register] = value
        unit = {('Goal_Velocity', 'velocity'): xs.VELOCITY_UNIT_RAD_S, ('Goal_PWM', 'pwm'): 1.0,
                ('Goal_Current', 'current'): xs.CURRENT_UNIT_MA}.get((register, self.modes[index]))
        if unit is not None and self.torque[index]:
            self.goals[index] = value * unit
        return ''

    @staticmethod
    def _most_current(index: int) -> int:
        return xs.XM540_CURRENT if index < 5 else xs.XM430_CURRENT

    def read(self, index: int, register: str, measured: Measured) -> int | None:
        """Return the value of a register; None where the motor has none of that name or does not answer."""
        if register not in xs.REGISTERS or self.missing[index]:
            return None
        live = {
            'Torque_Enable': int(self.torque[index]),
            'Hardware_Error_Status': int(self.errors[index]),
            'Operating_Mode': xs.MODES[self.modes[index]],
            'Present_Temperature': round(self.temperatures[index]),
            'Present_Position': xs.counts_of(measured.positions[index]),
            'Present_Velocity': round(measured.velocities[index] / xs.VELOCITY_UNIT_RAD_S),
            'Present_Current': round(measured.currents_ma[index] / xs.CURRENT_UNIT_MA),
            'Goal_Position': xs.counts_of(self.goals[index] if self._positional(index) else measured.positions[index]),
            'Present_PWM': 0, 'Moving': int(abs(measured.velocities[index]) > 10 * xs.VELOCITY_UNIT_RAD_S)}
        return live[register] if register in live else self.registers[index][register]

    def _positional(self, index: int) -> bool:
        return self.modes[index] not in ('velocity', 'current', 'pwm')

    # ---- what time does

    def latch(self, index: int, error: str) -> None:
        """Let a motor report an error, and shut down if its register Shutdown says so."""
        self.errors[index] |= xs.ERROR_BITS[error]
        if xs.ERROR_BITS[error] & self.registers[index]['Shutdown']:
            self.torque[index] = False

    def warm(self, rates: np.ndarray, period_s: float) -> None:
        """Heat motors by (7,) rates [K/s], infinite for at once and 0 for none; others cool. The hot ones shut down."""
        if not rates.any() and (self.temperatures == AMBIENT_C).all():
            return
        limits = np.array([own['Temperature_Limit'] for own in self.registers], np.float64)
        cooled = AMBIENT_C + (self.temperatures - AMBIENT_C) * math.exp(-period_s / COOLING_S)
        heated = np.where(np.isinf(rates), np.inf, self.temperatures + np.where(rates > 0, rates, 0.0) * period_s)
        self.temperatures = np.where(rates > 0, np.minimum(heated, np.maximum(limits, self.temperatures)), cooled)
        for index in np.flatnonzero(self.temperatures >= limits):
            self.latch(int(index), 'overheating')

    def advance(self, period_s: float, positions: np.ndarray) -> Drive:
        """Move the references on by a tick and return what the motors do.

        :param positions: (7,) where they stand [rad].
        """
        kinds, values = np.full(7, OFF), np.zeros(7)
        limits, damping, gains = np.full(7, np.inf), np.zeros(7), np.ones(7)
        for index in np.flatnonzero(self.torque & ~self.missing):
            mode, own, goal = self.modes[index], self.registers[index], self.goals[index]
            if mode == 'current':
                most = own['Current_Limit'] * xs.CURRENT_UNIT_MA
                kinds[index] = TORQUE
                values[index] = min(max(goal, -most), most) * 1e-3 * TORQUE_PER_AMPERE[index]
            elif mode == 'pwm':
                duty = min(max(goal, -own['PWM_Limit']), own['PWM_Limit']) / xs.PWM_LIMIT
                kinds[index], values[index] = TORQUE, duty * STALL_TORQUE[index]
                damping[index] = STALL_TORQUE[index] / FREE_SPEED[index]
            else:
                if mode == 'velocity':
                    self._run(index, period_s, positions[index])
                else:
                    self._follow(index, period_s)
                kinds[index], values[index] = POSITION, self.references[index]
                gains[index] = own['Position_P_Gain'] / xs.GAINS['Position_P_Gain']
                if mode == 'current_based_position':
                    current = min(own['Goal_Current'], own['Current_Limit'])
                    if current < self._most_current(index):
                        limits[index] = current * xs.CURRENT_UNIT_MA * 1e-3 * TORQUE_PER_AMPERE[index]
        return Drive(kinds, values, limits, damping, gains)

    def _most_speed(self, index: int) -> float:
        return self.registers[index]['Velocity_Limit'] * xs.VELOCITY_UNIT_RAD_S * self._factors[index]

    def _run(self, index: int, period_s: float, position: float) -> None:
        """Mode velocity: the reference runs on, a little ahead of a joint that is blocked."""
        most = self._most_speed(index)
        moved = self.references[index] + min(max(self.goals[index], -most), most) * period_s
        self.references[index] = min(max(moved, position - _AHEAD), position + _AHEAD)

    def _follow(self, index: int, period_s: float) -> None:
        """Move the reference towards the goal, no faster than Velocity_Limit and the profile allow.

        Without acceleration the speed holds on average over 20 ms: a goal nearer than that is reached at once, as the
        simulation that policies train in does with every goal.
        """
        way = self.goals[index] - self.references[index]
        cruise, gather = min(self._most_speed(index), self._cruise[index]), self._gather[index]
        if math.isinf(gather):
            self._allowance[index] = min(self._allowance[index] + cruise * period_s, cruise * _ALLOWANCE_S)
            step = self._allowance[index]
        else:
            braking = math.sqrt(2 * gather * abs(way))
            self._speeds[index] = min(self._speeds[index] + gather * period_s, cruise, braking)
            step = self._speeds[index] * period_s
        if abs(way) <= max(step, 1e-9):
            self.references[index] = self.goals[index]
            self._allowance[index] -= min(abs(way), self._allowance[index])
            self._speeds[index] = 0.0
        else:
            self.references[index] += math.copysign(step, way)
            self._allowance[index] = 0.0
