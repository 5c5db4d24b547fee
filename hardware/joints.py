"""Between the arrays of Interbotix messages and the 14 columns of the policy contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.names import GRIPPER_NAME, JOINT_STATE_NAMES, SIDES
from fpo_ros.policy.contract import ACTION_DIM

#: Entries that the columns of one follower are made of, and the motor that is commanded.
_COLUMNS = (*JOINT_STATE_NAMES[:6], 'left_finger')


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
    values = _finite(names, positions, _COLUMNS)
    values[6] = gripper.normalise_finger(values[6])
    return values


def side_gripper_command(names: Sequence[str], positions: Sequence[float], gripper: GripperCalibration) -> float:
    """Return the command that the gripper motor of one follower stands at: its angle on the scale of commands.

    It differs from the gripper column of :func:`side_joints`, which measures the finger: both scales are linear,
    the linkage between motor and finger is not. A takeover that must not move the gripper starts from this.

    :param names: joint names of the message; empty is read as the driver's usual order.
    :param positions: positions of the message [rad, fingers m].
    :returns: normalised motor angle (0 closed, 1 open).
    :raises JointStateError: as :func:`side_joints`.
    """
    return float(gripper.normalise_joint(_finite(names, positions, (GRIPPER_NAME,))[0]))


def _finite(names: Sequence[str], positions: Sequence[float], wanted: tuple[str, ...]) -> np.ndarray:
    """Return the float64 positions of some joints of a message [rad, fingers m].

    :raises JointStateError: for a missing joint, a wrong length, or a value that is not finite.
    """
    if len(names) == 0:
        names = JOINT_STATE_NAMES
    if len(names) != len(positions):
        raise JointStateError(f'joint_states has {len(names)} names but {len(positions)} positions')
    index = {name: column for column, name in enumerate(names)}
    out = np.empty(len(wanted))
    for row, name in enumerate(wanted):
        if name not in index:
            raise JointStateError(f"joint_states lacks '{name}': it has {', '.join(names)}")
        out[row] = positions[index[name]]
        if not math.isfinite(out[row]):
            raise JointStateError(f'joint_states is not finite: {name} is {out[row]}')
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
