"""Calibration of an ALOHA gripper: motor angle, finger position and the normalised value 0..1."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

#: Shortest stroke a calibration may have: less is no gripper but a typing error [m, rad].
SHORTEST_FINGER_M, SHORTEST_JOINT_RAD = 0.001, 0.05


@dataclass(frozen=True)
class GripperCalibration:
    """Two linear scales, as ALOHA uses them: one for the measured finger, one for the commanded motor.

    :param finger_open_m: position of the left finger when open [m].
    :param finger_closed_m: the same when closed [m].
    :param joint_open_rad: motor angle when open [rad].
    :param joint_closed_rad: motor angle when closed [rad].
    """

    finger_open_m: float
    finger_closed_m: float
    joint_open_rad: float
    joint_closed_rad: float

    def __post_init__(self) -> None:
        for field in fields(self):
            if not np.isfinite(getattr(self, field.name)):
                raise ValueError(f'gripper calibration {field.name} is not a finite number')
        if (self.finger_open_m - self.finger_closed_m < SHORTEST_FINGER_M
                or self.joint_open_rad - self.joint_closed_rad < SHORTEST_JOINT_RAD):
            raise ValueError(
                f'gripper calibration needs open above closed by {SHORTEST_FINGER_M} m and {SHORTEST_JOINT_RAD} rad '
                f'or more: got fingers {self.finger_open_m} (open) and {self.finger_closed_m} m (closed), '
                f'motor {self.joint_open_rad} (open) and {self.joint_closed_rad} rad (closed)')

    def normalise_finger(self, metres: float | np.ndarray) -> float | np.ndarray:
        """Return the normalised value (0 closed, 1 open) of finger positions [m]."""
        return (metres - self.finger_closed_m) / (self.finger_open_m - self.finger_closed_m)

    def finger_position(self, normalised: float | np.ndarray) -> float | np.ndarray:
        """Inverse of :meth:`normalise_finger` [m]."""
        return normalised * (self.finger_open_m - self.finger_closed_m) + self.finger_closed_m

    def normalise_joint(self, radians: float | np.ndarray) -> float | np.ndarray:
        """Return the normalised value of motor angles [rad]."""
        return (radians - self.joint_closed_rad) / (self.joint_open_rad - self.joint_closed_rad)

    def joint_angle(self, normalised: float | np.ndarray) -> float | np.ndarray:
        """Inverse of :meth:`normalise_joint` [rad]."""
        return normalised * (self.joint_open_rad - self.joint_closed_rad) + self.joint_closed_rad


#: gym-aloha constants.py and the first ALOHA (PUPPET_GRIPPER_*); also what the simulated arms use.
GYM_ALOHA = GripperCalibration(0.05800, 0.01844, 1.4910, -0.6213)
#: Interbotix aloha/constants.py (FOLLOWER_GRIPPER_*): a starting point, to be measured on each cell,
#: because those constants fit another finger geometry than the one the stock launch loads.
INTERBOTIX = GripperCalibration(0.0579, 0.0440, 1.6214, 0.6197)
#: Interbotix aloha/constants.py (LEADER_GRIPPER_*): the leaders' triggers.
INTERBOTIX_LEADER = GripperCalibration(0.0323, 0.0185, 0.8298, -0.0552)
CALIBRATIONS = {'gym_aloha': GYM_ALOHA, 'interbotix': INTERBOTIX}


def calibration_of(parameters: Any) -> GripperCalibration:
    """Return the calibration that four parameters of a node say.

    :param parameters: has ``gripper_finger_open`` and ``gripper_finger_closed`` [m], ``gripper_joint_open`` and
        ``gripper_joint_closed`` [rad].
    :raises ValueError: if they are no calibration.
    """
    return GripperCalibration(parameters.gripper_finger_open, parameters.gripper_finger_closed,
                              parameters.gripper_joint_open, parameters.gripper_joint_closed)
