"""Between the arrays of Interbotix messages and the 14 columns of the policy contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.names import JOINT_STATE_NAMES, SIDES
from fpo_ros.hardware.xs import VX300S_LINKAGE
from fpo_ros.policy.contract import ACTION_DIM

#: Entries that the columns of one arm are made of: the gripper's is its motor, whose angle is commanded, too.
_COLUMNS = JOINT_STATE_NAMES[:7]


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
    """Return the (7,) float64 columns of one arm: six joints [rad] and the normalised gripper.

    The gripper is computed from its motor's angle, on the scale on which :func:`split_command` commands it: a command
    of what is measured moves nothing.

    :param names: joint names of the message; empty is read as the driver's usual order.
    :param positions: positions of the message [rad, fingers m].
    :raises JointStateError: for a missing joint, a wrong length, or a value that is not finite.
    """
    values = _finite(names, positions, _COLUMNS)
    values[6] = gripper.normalise(values[6])
    return values


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


def split_command(command: np.ndarray, grippers: Mapping[str, GripperCalibration]) -> dict[str, SideCommand]:
    """Return what each follower is sent for a (14,) command [rad, grippers 0..1].

    :param grippers: side → calibration.
    :raises ValueError: if the command is not 14 finite numbers; nothing may be sent then.
    """
    command = np.asarray(command, np.float64)
    if command.shape != (ACTION_DIM,) or not np.isfinite(command).all():
        raise ValueError(f'a command is {ACTION_DIM} finite numbers, got {command}')
    return {side: SideCommand(command[7 * k:7 * k + 6].astype(np.float32),
                              float(grippers[side].angle(command[7 * k + 6])))
            for k, side in enumerate(SIDES)}


def joint_state_positions(side: np.ndarray, gripper: GripperCalibration) -> list[float]:
    """Return the nine joint_states positions a driver publishes for a follower's (7,) columns.

    The inverse of :func:`side_joints`: joints and motor angle [rad], then the fingers [m], mirrored.
    """
    angle = float(gripper.angle(side[6]))
    finger = (gripper.linkage or VX300S_LINKAGE).finger(angle)
    return [*map(float, side[:6]), angle, finger, -finger]
