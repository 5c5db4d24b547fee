"""Position and speed limits of joint targets, applied alike in training, simulation and on the robot.

A policy is trained under the limits it is deployed with, so that the safety filter has nothing left
to change in normal operation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, ContractError

#: URDF limits of the ALOHA follower (aloha_vx300s.urdf, motor limits of aloha_vx300s.yaml):
#: waist, shoulder, elbow, forearm_roll, wrist_angle, wrist_rotate [rad], gripper [0..1].
_LOWER = (-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158, 0.0)
_UPPER = (3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158, 1.0)
#: The servos' Velocity_Limit register is pi rad/s (aloha_vx300s.yaml); we stay below it.
DEFAULT_JOINT_SPEED = 2.0
#: Full gripper stroke in 0.25 s.
DEFAULT_GRIPPER_SPEED = 4.0


def _speeds(joint: float, gripper: float) -> np.ndarray:
    speeds = np.full(ACTION_DIM, joint)
    speeds[list(GRIPPER_COLUMNS)] = gripper
    return speeds


@dataclass(frozen=True)
class JointLimits:
    """Limits per column of the action vector.

    :param lower: (14,) smallest target [rad, grippers 0..1].
    :param upper: (14,) largest target.
    :param speed: (14,) largest change per second [rad/s, grippers 1/s].
    """

    lower: np.ndarray = field(default_factory=lambda: np.array(_LOWER * 2))
    upper: np.ndarray = field(default_factory=lambda: np.array(_UPPER * 2))
    speed: np.ndarray = field(default_factory=lambda: _speeds(DEFAULT_JOINT_SPEED, DEFAULT_GRIPPER_SPEED))

    def __post_init__(self) -> None:
        for name in ('lower', 'upper', 'speed'):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != (ACTION_DIM,) or not np.isfinite(value).all():
                raise ContractError(f'limit {name} must be {ACTION_DIM} finite numbers')
            object.__setattr__(self, name, value)
        if (self.lower >= self.upper).any() or (self.speed <= 0).any():
            raise ContractError('limits need lower < upper and speed > 0 in every column')

    def apply(self, previous: np.ndarray, targets: np.ndarray, period: float) -> np.ndarray:
        """Move targets inside the limits, row after row.

        :param previous: (..., 14) command sent before the first row.
        :param targets: (..., H, 14) finite targets, one row per period.
        :param period: time between rows [s].
        :returns: (..., H, 14); every row lies within ``lower``..``upper`` and differs from the row
            before by at most ``speed * period``, unless ``previous`` itself lies outside, in which
            case rows return inside at that speed.
        """
        step = self.speed * period
        clipped = np.clip(targets, self.lower, self.upper)
        out = np.empty(np.broadcast_shapes(targets.shape, (*previous.shape[:-1], 1, ACTION_DIM)))
        last = np.asarray(previous, np.float64)
        for row in range(targets.shape[-2]):
            last = np.clip(clipped[..., row, :], last - step, last + step)
            out[..., row, :] = last
        return out
