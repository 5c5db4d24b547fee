"""Zeros of joints and ends of grippers, measured on an arm that a person holds.

A motor's register Homing_Offset is added to its position (ROBOTIS e-manual): once it is right, the driver reports and
takes true angles, and nothing else needs to know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fpo_ros.hardware.cell import LARGEST_OFFSET_RAD, Cell, CellError
from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.names import ARM_GROUP, GRIPPER_NAME
from fpo_ros.hardware.xs import Linkage, radians_of_turn, turn_counts
from fpo_ros.hardware.xs_client import XsClient
from fpo_ros.hardware.xs_types import XsError
from fpo_ros.policy.contract import ARM_JOINTS

#: Asks a person to do something and returns when it is done.
Ask = Callable[[str], None]
#: A pose farther from the reference than this is another pose, not an error of a zero [rad].
FARTHEST_RAD = 0.35
#: Offsets of a cell file and of its motors may differ by half a count and rounding [rad].
_SAME_RAD = 0.001
#: Fingers that a driver computes, and the same computed here, may differ by its rounding [m].
_SAME_M = 0.0005


def measure_gripper(arm: XsClient, ask: Ask, linkage: Linkage | None = None) -> GripperCalibration:
    """Let a person open and close a gripper without torque; return where it was. Its torque is then as before.

    :param linkage: of a follower's gripper, by which its driver must compute the fingers, too; None for a leader's.
    :raises ValueError: when open is not above closed, as :class:`GripperCalibration`.
    :raises XsError: when the driver has another linkage, from another motor file.
    """
    before = arm.torques()[GRIPPER_NAME]
    arm.set_torque(GRIPPER_NAME, False)
    try:
        ask(f'{arm.arm}: open the gripper by hand as far as it goes')
        opened = arm.read()
        ask(f'{arm.arm}: close it until the fingertips touch')
        closed = arm.read()
    finally:
        arm.set_torque(GRIPPER_NAME, before)
    found = GripperCalibration(opened.gripper_rad, closed.gripper_rad, linkage)
    for reading in (opened, closed) if linkage is not None else ():
        wanted = linkage.finger(reading.gripper_rad)
        if abs(reading.finger_m - wanted) > _SAME_M:
            raise XsError(f'{arm.arm}: a finger reads {reading.finger_m * 1e3:.1f} mm at {reading.gripper_rad:.3f} '
                          f'rad, where horn {linkage.horn_m} and arm {linkage.arm_m} m make {wanted * 1e3:.1f} mm: '
                          "name the motor file that the driver was started with in the arm's motor_configs")
    return found


def measure_joints(arm: XsClient, reference: Sequence[float], ask: Ask) -> tuple[float, ...]:
    """Let a person put an arm into a reference pose, mend its motors' Homing_Offset, and return it [rad].

    The arm is without torque then, and stays so: it rests in the jig.

    :param reference: (6,) true angles of the pose [rad].
    :raises XsError: for a pose too far from the reference to be an error of zeros, an offset out of bounds, or a motor
        that did not take it or does not read the reference afterwards.
    """
    ask(f'{arm.arm}: hold the arm, it is about to lose its torque')
    arm.set_torque(ARM_GROUP, False)
    ask(f'{arm.arm}: put it into the reference pose, in its jig')
    measured = arm.read().joints
    before = arm.register(ARM_GROUP, 'Homing_Offset')
    wanted = {}
    for joint, true, found in zip(ARM_JOINTS, reference, measured, strict=True):
        error = math.remainder(true - found, 2 * math.pi)
        if abs(error) > FARTHEST_RAD:
            raise XsError(f'{arm.arm}: {joint} reads {found:.3f} rad where the reference pose has {true:.3f}: that is '
                          f'no error of its zero (at most {FARTHEST_RAD} rad), put the arm into the pose')
        offset = radians_of_turn(before[joint]) + error
        if abs(offset) > LARGEST_OFFSET_RAD:
            raise XsError(f'{arm.arm}: {joint} would need a Homing_Offset of {offset:.3f} rad, more than '
                          f'{LARGEST_OFFSET_RAD:.3f}: mount its horn anew')
        wanted[joint] = turn_counts(offset)
    for joint, counts in wanted.items():
        arm.set_register(joint, 'Homing_Offset', counts)
    for joint, true, found in zip(ARM_JOINTS, reference, arm.read().joints, strict=True):
        if abs(math.remainder(true - found, 2 * math.pi)) > 0.01:
            raise XsError(f'{arm.arm}: {joint}: register Homing_Offset: wanted {true:.3f} rad with {wanted[joint]} '
                          f'counts, found {found:.3f} rad: did the arm move?')
    return tuple(radians_of_turn(counts) for counts in wanted.values())


def check_offsets(arm: XsClient, cell: Cell) -> None:
    """Refuse an arm whose motors have other offsets than its cell's file.

    :raises CellError: naming the joint.
    """
    wanted = cell.joint_offsets_rad.get(arm.arm)
    if wanted is None:
        raise CellError(f'{cell.path}: calibration.joint_offsets_rad has no {arm.arm}: run "fpo-ros calibrate joints"')
    found = arm.register(ARM_GROUP, 'Homing_Offset').values()
    for joint, offset, counts in zip(ARM_JOINTS, wanted, found, strict=True):
        if abs(radians_of_turn(counts) - offset) > _SAME_RAD:
            raise CellError(f'{arm.arm}: {joint}: register Homing_Offset: {cell.path} has {offset:.4f} rad, the motor '
                            f'{radians_of_turn(counts):.4f}: calibrate it again')
