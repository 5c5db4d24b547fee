"""How the twin's normalised gripper, its motor and its fingers belong together."""

from __future__ import annotations

from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.xs import VELOCITY_LIMIT_COUNTS, VELOCITY_UNIT_RAD_S, Linkage
from fpo_ros.policy.limits import DEFAULT_GRIPPER_SPEED

#: How much faster than targets of the policies a gripper with linear scales may run, so that rounding delays none.
_MARGIN = 1.01


class TwinGripper:
    """A gripper whose ends are those of a calibration.

    With a linkage, motor and fingers are those of xs_sdk's formula, which is not linear: what the state says and what a
    command means then differ between the ends, as on real arms. Without one both are linear, as in the simulation.

    :param calibration: where it is open and closed.
    :param linkage: of motor and fingers; None for linear scales.
    """

    def __init__(self, calibration: GripperCalibration, linkage: Linkage | None = None) -> None:
        self.calibration, self.linkage = calibration, linkage
        if linkage is not None:
            self._closed = linkage.finger(calibration.joint_closed_rad)
            self._open = linkage.finger(calibration.joint_open_rad)

    def normalised(self, angle: float) -> float:
        """Return how far open the gripper is (0 closed, 1 open) at an angle of the motor [rad]."""
        if self.linkage is None:
            return self.calibration.normalise_joint(angle)
        return (self.linkage.finger(angle) - self._closed) / (self._open - self._closed)

    def motor_angle(self, normalised: float) -> float:
        """Inverse of :meth:`normalised` [rad]."""
        if self.linkage is None:
            return self.calibration.joint_angle(normalised)
        return self.linkage.angle(self._closed + normalised * (self._open - self._closed))

    def rate(self, angle: float) -> float:
        """Return how fast the normalised gripper opens with the motor's angle [1/rad]."""
        if self.linkage is None:
            return 1.0 / (self.calibration.joint_open_rad - self.calibration.joint_closed_rad)
        return self.linkage.rate(angle) / (self._open - self._closed)

    @property
    def speed_factor(self) -> float:
        """How much faster than its Velocity_Limit the motor is: 1 with a linkage.

        gym-aloha's linear scales make 2.1 rad of a stroke that is 1.0 rad on Interbotix's arms, and policies are
        trained with 4 strokes per second: without a linkage the motor keeps up with those.
        """
        if self.linkage is not None:
            return 1.0
        stroke = self.calibration.joint_open_rad - self.calibration.joint_closed_rad
        return max(1.0, _MARGIN * DEFAULT_GRIPPER_SPEED * stroke / (VELOCITY_LIMIT_COUNTS * VELOCITY_UNIT_RAD_S))

    def finger_position(self, angle: float) -> float:
        """Return what joint_states say of the left finger [m] at an angle of the motor [rad]."""
        if self.linkage is None:
            return self.calibration.finger_position(self.calibration.normalise_joint(angle))
        return self.linkage.finger(angle)
