"""Calibration of an ALOHA gripper: between the angle of its motor and the normalised value, 0 closed and 1 open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fpo_ros.hardware.names import SIDES
from fpo_ros.hardware.xs import FOLLOWER, Linkage

#: Shortest stroke a calibration may have: less is no gripper but a typing error [m, rad].
SHORTEST_FINGER_M, SHORTEST_JOINT_RAD = 0.001, 0.05


@dataclass(frozen=True)
class GripperCalibration:
    """One scale for what a gripper measures and for what it is commanded.

    With a linkage the value is the share of a finger's travel that the motor's angle makes: gym-aloha counts states and
    actions so, and ALOHA's recordings (``position[7]``) states. Interbotix's driver computes the finger's position from
    the motor's angle anyway. Without a linkage it is the share of the motor's travel.

    :param joint_open_rad: motor angle when open [rad].
    :param joint_closed_rad: motor angle when closed [rad].
    :param linkage: between motor and fingers, as the driver's motor file has it; None: none.
    """

    joint_open_rad: float
    joint_closed_rad: float
    linkage: Linkage | None = None

    def __post_init__(self) -> None:
        for name in ('joint_open_rad', 'joint_closed_rad'):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f'gripper calibration {name} is not a finite number')
        if self.joint_open_rad - self.joint_closed_rad < SHORTEST_JOINT_RAD:
            raise ValueError(f'gripper calibration needs open above closed by {SHORTEST_JOINT_RAD} rad or more: got '
                             f'motor {self.joint_open_rad} (open) and {self.joint_closed_rad} rad (closed)')
        if self.linkage is not None and self._open - self._closed < SHORTEST_FINGER_M:
            raise ValueError(f'gripper calibration needs a finger to travel {SHORTEST_FINGER_M} m or more: with horn '
                             f'{self.linkage.horn_m} and arm {self.linkage.arm_m} m it opens to {self._open:.4f} and '
                             f'closes to {self._closed:.4f} m')

    @cached_property
    def _open(self) -> float:
        return self._travel(self.joint_open_rad)

    @cached_property
    def _closed(self) -> float:
        return self._travel(self.joint_closed_rad)

    def _travel(self, radians: float) -> float:
        """Return what the scale is linear in, at an angle of the motor: the finger [m], or that angle [rad]."""
        return radians if self.linkage is None else self.linkage.finger(radians)

    def normalise(self, radians: float) -> float:
        """Return the normalised value (0 closed, 1 open) of an angle of the motor [rad]."""
        return (self._travel(radians) - self._closed) / (self._open - self._closed)

    def angle(self, normalised: float) -> float:
        """Inverse of :meth:`normalise` [rad]; the nearest angle for a value beyond what the crank can reach."""
        travel = normalised * (self._open - self._closed) + self._closed
        return travel if self.linkage is None else self.linkage.angle(travel)

    def rate(self, radians: float) -> float:
        """Return how fast the normalised value grows with the motor's angle [1/rad]."""
        return (1.0 if self.linkage is None else self.linkage.rate(radians)) / (self._open - self._closed)


#: gym-aloha constants.py and the first ALOHA (PUPPET_GRIPPER_JOINT_*): what the simulated arms use, without a linkage,
#: because gym-aloha sets fingers and has no motor.
GYM_ALOHA = GripperCalibration(1.4910, -0.6213)
#: Interbotix aloha/constants.py (FOLLOWER_GRIPPER_JOINT_*) with the linkage that its launch loads: to be measured on
#: each cell. Its FOLLOWER_GRIPPER_POSITION_* are those of another linkage, vx300s's, and are used nowhere.
INTERBOTIX = GripperCalibration(1.6214, 0.6197, FOLLOWER.linkage)
#: Interbotix aloha/constants.py (LEADER_GRIPPER_JOINT_*): the leaders' triggers.
INTERBOTIX_LEADER = GripperCalibration(0.8298, -0.0552)
CALIBRATIONS = {'gym_aloha': GYM_ALOHA, 'interbotix': INTERBOTIX}


def calibrations_of(parameters: Any) -> dict[str, GripperCalibration]:
    """Return side → calibration of that follower, as the parameters of a node say.

    :param parameters: has ``<side>_gripper_joint_open`` and ``<side>_gripper_joint_closed`` [rad] of both sides, and
        ``gripper_horn`` and ``gripper_arm`` [m], both 0 for no linkage.
    :raises ValueError: if they are no calibration.
    """
    horn, arm = parameters.gripper_horn, parameters.gripper_arm
    linkage = Linkage(horn, arm) if horn or arm else None
    return {side: GripperCalibration(getattr(parameters, f'{side}_gripper_joint_open'),
                                     getattr(parameters, f'{side}_gripper_joint_closed'), linkage) for side in SIDES}
