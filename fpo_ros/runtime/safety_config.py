"""Limits of the safety filter, each with its source. Software is no safety-rated function: docs/safety.md."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, ARM_JOINTS, GRIPPER_COLUMNS
from fpo_ros.policy.limits import JointLimits

#: What becomes of a target outside position limits, workspace or clearances.
ON_VIOLATION = ('project', 'refuse')
#: Servo resolution: 4096 counts per turn, zero at 2048 (ROBOTIS e-manual, XM540-W270 and XM430-W350).
_COUNT_RAD, _ZERO = 2 * math.pi / 4096, 2048
#: Min_Position_Limit and Max_Position_Limit of the follower's servos (interbotix_xsarm_control aloha_vx300s.yaml)
#: [counts]: goals beyond are ignored by the servo. Elbow and wrist may go less far than the URDF says.
_REGISTERS = {'waist': (0, 4095), 'shoulder': (841, 2867), 'elbow': (898, 3094), 'forearm_roll': (0, 4095),
              'wrist_angle': (830, 3504), 'wrist_rotate': (0, 4095)}
#: TCP speed of reduced mode (ISO 10218-1:2025: reduced speed control, at most 250 mm/s) [m/s].
REDUCED_TCP_SPEED = 0.25


def per_column(joint: float, gripper: float) -> np.ndarray:
    """Return (14,) with one value for the joints [rad] and one for the grippers [0..1]."""
    values = np.full(ACTION_DIM, float(joint))
    values[list(GRIPPER_COLUMNS)] = gripper
    return values


def servo_counts() -> np.ndarray:
    """Return (2, 6, 2) smallest and largest goal of each arm's servos, as Interbotix's motor file has them [counts]."""
    return np.tile([_REGISTERS[joint] for joint in ARM_JOINTS], (2, 1, 1))


def inside_registers(limits: JointLimits, margin_rad: float, counts: np.ndarray | None = None) -> JointLimits:
    """Return limits that keep ``margin_rad`` from the servos' position limits, too [rad]; grippers as they are.

    :param counts: as :func:`servo_counts` returns them, which is the default.
    """
    counts = servo_counts() if counts is None else counts
    edges = (counts - _ZERO) * _COUNT_RAD + np.array([margin_rad, -margin_rad])
    lower, upper = (np.concatenate([[*edges[arm, :, side], outside] for arm in (0, 1)])
                    for side, outside in ((0, -np.inf), (1, np.inf)))
    return JointLimits(np.maximum(limits.lower, lower), np.minimum(limits.upper, upper), limits.speed)


def _box() -> np.ndarray:
    return np.array([[-0.1, -0.5, -0.04], [0.75, 0.5, 0.75]])


@dataclass(frozen=True)
class SafetyConfig:
    """Settings of the filter beside position and speed limits, which are :class:`JointLimits`.

    :param position_margin: distance kept from the servos' EEPROM position limits [rad]: more than their backlash
        (0.25 degrees, ROBOTIS e-manual) and a count together.
    :param servo_counts: (2, 6, 2) Min_Position_Limit and Max_Position_Limit of the joints of each arm [counts].
    :param max_step: largest change of a joint per period [rad], whatever speed limit and rate are set to: the
        servos' Velocity_Limit, pi rad/s, for 20 ms (aloha_vx300s.yaml).
    :param acceleration: of a joint [rad/s^2]; 0: not limited. 200 is what 2 rad/s at 50 Hz allow at most, a reversal in
        one period, and what the shipped policies do: at these limits it changes nothing.
    :param gripper_acceleration: the same of a gripper [full strokes/s^2].
    :param jerk: of a joint [rad/s^3]; 0: not limited. Keeping it delays every command, also of policies that were
        trained without.
    :param tcp_speed: of the point between the fingertips [m/s]; 0: not limited.
    :param reduced: whether tcp_speed is at most :data:`REDUCED_TCP_SPEED`.
    :param workspace: (2, 3) smallest and largest position of that point in the frame of the arm's base, x ahead,
        y left, z up [m]. Ahead: the arm's reach (0.75 m, Trossen specifications).
    :param look_ahead: rows of a chunk that are looked at before they are due [control periods].
    :param on_violation: one of :data:`ON_VIOLATION`.
    """

    position_margin: float = 0.01
    max_step: float = math.pi * 0.02
    acceleration: float = 200.0
    gripper_acceleration: float = 400.0
    jerk: float = 0.0
    tcp_speed: float = 2.5
    reduced: bool = False
    workspace: np.ndarray = field(default_factory=_box)
    look_ahead: int = 5
    on_violation: str = 'project'
    servo_counts: np.ndarray = field(default_factory=servo_counts)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in ('workspace', 'on_violation', 'reduced', 'servo_counts'):
                continue
            zero = item.name in ('position_margin', 'acceleration', 'gripper_acceleration', 'jerk', 'tcp_speed',
                                 'look_ahead')
            if not (math.isfinite(value) and (value >= 0 if zero else value > 0)):
                raise ValueError(f'{item.name} must be {"0 or more" if zero else "positive"}, got {value}')
        if self.on_violation not in ON_VIOLATION:
            raise ValueError(f"on_violation '{self.on_violation}' is unknown: use {' or '.join(ON_VIOLATION)}")
        box = np.asarray(self.workspace, np.float64)
        if box.shape != (2, 3) or not np.isfinite(box).all() or (box[0] >= box[1]).any():
            raise ValueError('workspace must be (2, 3) finite numbers, the smallest position and then the largest')
        object.__setattr__(self, 'workspace', box)
        counts = np.asarray(self.servo_counts)
        if counts.shape != (2, 6, 2) or (counts[..., 0] >= counts[..., 1]).any():
            raise ValueError('servo_counts must be (2, 6, 2), of each joint the smallest count and then the largest')

    @property
    def tcp_speed_limit(self) -> float:
        """TCP speed that holds [m/s]; infinite where it is not limited."""
        limit = self.tcp_speed or math.inf
        return min(limit, REDUCED_TCP_SPEED) if self.reduced else limit

    def accelerations(self) -> np.ndarray:
        """Return (14,) acceleration limits [rad/s^2, grippers 1/s^2]; infinite where not limited."""
        return per_column(self.acceleration or math.inf, self.gripper_acceleration or math.inf)

    def steps(self) -> np.ndarray:
        """Return (14,) largest changes per period [rad]; grippers are limited by their speed alone."""
        return per_column(self.max_step, math.inf)
