"""Between the arrays of Interbotix messages and the 14 columns of the policy contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.names import JOINT_STATE_NAMES, SIDES
from fpo_ros.policy.contract import ACTION_DIM

_FINGER = JOINT_STATE_NAMES.index('left_finger')


class JointStateError(ValueError):
    """A joint_states message that cannot be used; the message says why."""


@dataclass(frozen=True)
class SideCommand:
    """What is sent to one follower.

    :param arm: (6,) float32 joint targets [rad], for the group "arm".
    :param gripper_rad: target of the motor "gripper" [rad].
    """

    arm: np.ndarray
    gripper_rad: float


def side_joints(names: Sequence[str], positions: Sequence[float],
                gripper: GripperCalibration) -> np.ndarray:
    """Return the (7,) float64 columns of one follower: six joints [rad] and the normalised gripper.

    :param names: joint names of the message; empty is read as the driver's usual order.
    :param positions: positions of the message [rad, fingers m].
    :raises JointStateError: for a missing joint, a wrong length, or a value that is not finite.
    """
    if len(names) == 0:
        names = JOINT_STATE_NAMES
    if len(names) != len(positions):
        raise JointStateError(f'joint_states has {len(names)} names but {len(positions)} positions')
    values = np.asarray(positions, np.float64)
    if tuple(names[:9]) == JOINT_STATE_NAMES:
        arm, finger = values[:6], values[_FINGER]
    else:
        index = {name: column for column, name in enumerate(names)}
        missing = [name for name in (*JOINT_STATE_NAMES[:6], 'left_finger') if name not in index]
        if missing:
            raise JointStateError(f"joint_states lacks '{missing[0]}': it has {', '.join(names)}")
        arm, finger = values[[index[name] for name in JOINT_STATE_NAMES[:6]]], values[index['left_finger']]
    out = np.array([*arm, gripper.normalise_finger(finger)])
    if not np.isfinite(out).all():
        column = int(np.flatnonzero(~np.isfinite(out))[0])
        raise JointStateError(
            f'joint_states is not finite: {(*JOINT_STATE_NAMES[:6], "left_finger")[column]} is {out[column]}'
        )
    return out


def both_sides(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the (14,) joint vector of two (7,) sides."""
    return np.concatenate([left, right])


def split_command(command: np.ndarray, gripper: GripperCalibration) -> dict[str, SideCommand]:
    """Return what each follower is sent for a (14,) command [rad, grippers 0..1].

    :raises ValueError: if the command is not 14 finite numbers; nothing may be sent then.
    """
    command = np.asarray(command, np.float64)
    if command.shape != (ACTION_DIM,) or not np.isfinite(command).all():
        raise ValueError(f'a command is {ACTION_DIM} finite numbers, got {command}')
    return {side: SideCommand(command[7 * k:7 * k + 6].astype(np.float32),
                              float(gripper.joint_angle(command[7 * k + 6])))
            for k, side in enumerate(SIDES)}


def joint_state_positions(side: np.ndarray, gripper: GripperCalibration) -> list[float]:
    """Return the nine joint_states positions a driver publishes for a follower's (7,) columns.

    The inverse of :func:`side_joints`: joints and motor angle [rad], then the fingers [m], mirrored.
    """
    finger = float(gripper.finger_position(side[6]))
    return [*map(float, side[:6]), float(gripper.joint_angle(side[6])), finger, -finger]
