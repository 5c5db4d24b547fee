"""Facts about the Dynamixel X-series motors of an ALOHA arm: units, registers, modes, joints, limits, linkage.

Sources: interbotix_xsarm_control config/aloha_vx300s.yaml and aloha_wx250s.yaml; interbotix_xs_msgs
srv/OperatingModes.srv; ROBOTIS e-manual of XM540-W270 and XM430-W350 (control table). Positions in counts follow
dynamixel_workbench, which cuts fractions off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import ARM_JOINTS

#: The seven motors of an arm, in the order of joint_states.
MOTORS = (*ARM_JOINTS, 'gripper')
#: Position at the middle of a turn of 4096 counts, the zero of angles [counts].
ZERO_COUNTS = 2048
#: Unit of currents [mA], of velocities, 0.229 rpm [rad/s], and of profile accelerations, 214.577 rev/min^2 [rad/s^2].
CURRENT_UNIT_MA = 2.69
VELOCITY_UNIT_RAD_S = 0.229 * 2 * math.pi / 60
ACCELERATION_UNIT_RAD_S2 = 214.577 * 2 * math.pi / 3600
#: A joint is believed to stand so far outside its limits [rad].
BEYOND_RAD = 0.25
#: Largest command in mode "pwm" [counts].
PWM_LIMIT = 885
#: Operating mode of xs_sdk → value of the register Operating_Mode. linear_position runs the motor in position mode.
MODES = {'current': 0, 'velocity': 1, 'position': 3, 'linear_position': 3, 'ext_position': 4,
         'current_based_position': 5, 'pwm': 16}
PROFILE_TYPES = ('velocity', 'time')
#: Bits of the register Hardware_Error_Status.
ERROR_BITS = {'input voltage': 0x01, 'motor hall sensor': 0x02, 'overheating': 0x04, 'motor encoder': 0x08,
              'electrical shock': 0x10, 'overload': 0x20}
#: Temperature_Limit as delivered [deg C].
TEMPERATURE_LIMIT_C = 80
#: Position_P_Gain, Position_I_Gain, Position_D_Gain, Feedforward_2nd_Gain, Feedforward_1st_Gain, Velocity_P_Gain,
#: Velocity_I_Gain, in the order of MotorGains.srv, and their values as delivered.
GAINS = {'Position_P_Gain': 800, 'Position_I_Gain': 0, 'Position_D_Gain': 0, 'Feedforward_2nd_Gain': 0,
         'Feedforward_1st_Gain': 0, 'Velocity_P_Gain': 100, 'Velocity_I_Gain': 1920}
#: Registers that keep their value without power and can be written only while the torque is off.
EEPROM = ('ID', 'Operating_Mode', 'Drive_Mode', 'Secondary_ID', 'Temperature_Limit', 'PWM_Limit', 'Current_Limit',
          'Velocity_Limit', 'Max_Position_Limit', 'Min_Position_Limit', 'Homing_Offset', 'Shutdown')
#: Registers that the motor alone writes.
READ_ONLY = ('Model_Number', 'Hardware_Error_Status', 'Moving', 'Present_PWM', 'Present_Current', 'Present_Velocity',
             'Present_Position', 'Present_Input_Voltage', 'Present_Temperature')
#: Further registers, which are lost without power.
RAM = ('Torque_Enable', 'LED', *GAINS, 'Bus_Watchdog', 'Goal_PWM', 'Goal_Current', 'Goal_Velocity',
       'Profile_Acceleration', 'Profile_Velocity', 'Goal_Position')
REGISTERS = (*EEPROM, *READ_ONLY, *RAM)


def errors_of(status: int) -> tuple[str, ...]:
    """Return the names of the bits that are set in Hardware_Error_Status."""
    return tuple(name for name, bit in ERROR_BITS.items() if status & bit)


def counts_of(radians: float) -> int:
    """Return the position [counts] that the driver writes for an angle [rad]."""
    span = (ZERO_COUNTS - 1) if radians > 0 else ZERO_COUNTS
    return math.trunc(radians * span / math.pi + ZERO_COUNTS)


def radians_of(counts: int) -> float:
    """Return the angle [rad] of a position [counts]; 0 counts, which a failed read leaves, are -pi."""
    span = (ZERO_COUNTS - 1) if counts > ZERO_COUNTS else ZERO_COUNTS
    return (counts - ZERO_COUNTS) * math.pi / span


def turn_counts(radians: float) -> int:
    """Return the nearest number of counts of a turn that an offset is [counts]."""
    return round(radians * 4096 / (2 * math.pi))


def radians_of_turn(counts: int) -> float:
    """Inverse of :func:`turn_counts` [rad]."""
    return counts * 2 * math.pi / 4096


@dataclass(frozen=True)
class Linkage:
    """The crank between the gripper's motor and its fingers (xs_sdk's ``convert_angular_position_to_linear``).

    :param horn_m: length of the horn on the motor [m].
    :param arm_m: length of the arm from the horn to a finger [m].
    """

    horn_m: float
    arm_m: float

    def __post_init__(self) -> None:
        if not (0 < self.horn_m <= self.arm_m < 1):
            raise ValueError(f'the horn of a gripper is no longer than its arm, and both are above 0: got horn '
                             f'{self.horn_m} m and arm {self.arm_m} m')

    def finger(self, angle: float) -> float:
        """Return the position of the left finger [m] at an angle of the motor [rad]."""
        return self.horn_m * math.sin(angle) + self._along(angle)

    def angle(self, finger: float) -> float:
        """Inverse of :meth:`finger`; the nearest angle for a position that the crank cannot reach [rad]."""
        if finger <= 0:
            return -math.pi / 2 if self.horn_m < self.arm_m else 0.0
        sine = (self.horn_m**2 + finger**2 - self.arm_m**2) / (2 * self.horn_m * finger)
        return math.asin(min(1.0, max(-1.0, sine)))

    def rate(self, angle: float) -> float:
        """Return how fast a finger travels with the motor's angle [m/rad]; never 0."""
        cosine = max(math.cos(angle), 0.05)  # at the dead centre the fingers stand still
        along = max(self._along(angle), 1e-4)
        return max(self.horn_m * cosine * (1 + self.horn_m * math.sin(angle) / along), 1e-4)

    def _along(self, angle: float) -> float:
        """Return how far the arm reaches along the finger's travel [m]."""
        return math.sqrt(max(0.0, self.arm_m**2 - (self.horn_m * math.cos(angle))**2))


@dataclass(frozen=True)
class ArmModel:
    """One kind of arm; rows are :data:`MOTORS`.

    :param name: ``robot_model`` of the launch file.
    :param ids: (7,) IDs on the bus.
    :param shadows: motor → ID of the second motor at the same joint, which follows it.
    :param counts: (7, 2) Min_Position_Limit and Max_Position_Limit [counts].
    :param joints: (6, 2) joint limits of the URDF [rad].
    :param fingers_m: limits of left_finger in the URDF [m].
    :param sleep: (7,) sleep pose [rad]; the follower's lies outside its own limits since 2024-10.
    :param linkage: of the gripper.
    :param current_limit: (7,) Current_Limit [counts].
    """

    name: str
    ids: tuple[int, ...]
    shadows: dict[str, int]
    counts: tuple[tuple[int, int], ...]
    joints: tuple[tuple[float, float], ...]
    fingers_m: tuple[float, float]
    sleep: tuple[float, ...]
    linkage: Linkage
    current_limit: tuple[int, ...]

    @property
    def sleep_finger_m(self) -> float:
        """Position of the left finger in the sleep pose [m]."""
        return self.linkage.finger(self.sleep[6])

    def implausible(self, joints: Sequence[float]) -> str:
        """Say which of (6,) measured joints [rad] stands far outside what the arm can reach; empty when none does."""
        for name, value, (low, high) in zip(ARM_JOINTS, joints, self.joints, strict=True):
            if not low - BEYOND_RAD <= value <= high + BEYOND_RAD:
                return (f'{name} reads {value:.3f} rad, far outside its limits {low:.3f}..{high:.3f}: its motor could '
                        'not be read, check the cables')
        return ''


#: Velocity_Limit of every motor [counts], 3.14 rad/s, and the URDF's limit of every joint [rad/s].
VELOCITY_LIMIT_COUNTS, VELOCITY_LIMIT_RAD_S = 131, math.pi
_TURN = (0, 4095)
_FULL = (-math.pi + 1e-5, math.pi - 1e-5)
_IDS, _SHADOWS = (1, 2, 4, 6, 7, 8, 9), {'shoulder': 3, 'elbow': 5}
#: Largest Current_Limit of an XM540 and of an XM430 [counts] (e-manual).
XM540_CURRENT, XM430_CURRENT = 2047, 1193

FOLLOWER = ArmModel(
    'aloha_vx300s', _IDS, _SHADOWS,
    counts=(_TURN, (841, 2867), (898, 3094), _TURN, (830, 3504), _TURN, _TURN),
    joints=(_FULL, (-1.85005, 1.25664), (-1.76278, 1.6057), _FULL, (-1.8675, 2.23402), _FULL),
    fingers_m=(0.021, 0.057), sleep=(0.0, -2.05, 1.7, 0.0, -2.0, 0.0, 0.0), linkage=Linkage(0.0275, 0.035),
    current_limit=(XM540_CURRENT,) * 5 + (XM430_CURRENT, 200))
LEADER = ArmModel(
    'aloha_wx250s', _IDS, _SHADOWS,
    counts=(_TURN, (819, 3345), (648, 3094), _TURN, (910, 3447), _TURN, _TURN),
    joints=(_FULL, *((math.radians(low), math.radians(high)) for low, high in ((-108, 114), (-123, 92))), _FULL,
            (math.radians(-100), math.radians(123)), _FULL),
    fingers_m=(0.015, 0.037), sleep=(0.0, -1.88, 1.6, 0.0, -1.6, 0.0, 0.0), linkage=Linkage(0.020, 0.020),
    current_limit=(XM430_CURRENT,) * 7)
#: The first ALOHA's follower gripper (vx300s.yaml), which the scales of gym-aloha and Interbotix's constants fit.
VX300S_LINKAGE = Linkage(0.022, 0.036)


def motors_of(cmd_type: str, name: str) -> np.ndarray | None:
    """Return (7,) bool, the motors that a request addresses; None for an unknown type or name."""
    motors = np.zeros(len(MOTORS), bool)
    if cmd_type == 'group' and name in ('all', 'arm'):
        motors[:7 if name == 'all' else 6] = True
    elif cmd_type == 'single' and name in MOTORS:
        motors[MOTORS.index(name)] = True
    else:
        return None
    return motors
