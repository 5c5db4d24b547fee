"""Parameters of the gripper calibration, which several nodes must agree on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fpo_ros.hardware.gripper import GYM_ALOHA
from fpo_ros.nodes.parameters import param


@dataclass(frozen=True)
class GripperParameters:
    """Base of the parameters of a node that scales grippers; ``hardware.gripper.calibrations_of`` reads them.

    The configuration files hold them once, under ``/**``, for every node that has them.
    """

    left_gripper_joint_open: float = param(
        GYM_ALOHA.joint_open_rad, "angle of the left gripper's motor when open [rad]", low=-math.pi, high=math.pi)
    left_gripper_joint_closed: float = param(
        GYM_ALOHA.joint_closed_rad, 'the same when closed [rad]', low=-math.pi, high=math.pi)
    right_gripper_joint_open: float = param(
        GYM_ALOHA.joint_open_rad, "angle of the right gripper's motor when open [rad]", low=-math.pi, high=math.pi)
    right_gripper_joint_closed: float = param(
        GYM_ALOHA.joint_closed_rad, 'the same when closed [rad]', low=-math.pi, high=math.pi)
    gripper_horn: float = param(0.0, "horn of the followers' grippers [m], as their motor file has it; 0: grippers are "
                                'counted by their motors, as the simulated ones', low=0.0, high=0.2)
    gripper_arm: float = param(0.0, 'arm of the same crank [m]; 0 with gripper_horn 0', low=0.0, high=0.2)
