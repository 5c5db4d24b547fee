"""How the twin's normalised gripper, its motor and its fingers belong together."""

from __future__ import annotations

from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.xs import VELOCITY_LIMIT_COUNTS, VELOCITY_UNIT_RAD_S
from fpo_ros.policy.limits import DEFAULT_GRIPPER_SPEED

#: How much faster than targets of the policies a gripper with linear scales may run, so that rounding delays none.
_MARGIN = 1.01


class TwinGripper:
    """A gripper whose ends are those of a calibration.

    With a linkage, fingers are those of xs_sdk's formula, which is not linear in the motor. Without one they are, as in
    the simulation.

    :param calibration: where it is open and closed.
    :param fingers_m: what joint_states say of the left finger when it is closed and open [m], without a linkage.
    """

    def __init__(self, calibration: GripperCalibration, fingers_m: tuple[float, float]) -> None:
        self.calibration, self.linkage, self._fingers_m = calibration, calibration.linkage, fingers_m

    def normalised(self, angle: float) -> float:
        """Return how far open the gripper is (0 closed, 1 open) at an angle of the motor [rad]."""
        return self.calibration.normalise(angle)

    def motor_angle(self, normalised: float) -> float:
        """Inverse of :meth:`normalised` [rad]."""
        return self.calibration.angle(normalised)

    def rate(self, angle: float) -> float:
        """Return how fast the normalised gripper opens with the motor's angle [1/rad]."""
        return self.calibration.rate(angle)

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
            closed, opened = self._fingers_m
            return self.calibration.normalise(angle) * (opened - closed) + closed
        return self.linkage.finger(angle)
