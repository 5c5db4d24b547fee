"""Parameters of the gripper calibration, which several nodes must agree on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fpo_ros.hardware.gripper import GYM_ALOHA
from fpo_ros.nodes.parameters import param


@dataclass(frozen=True)
class GripperParameters:
    """Base of the parameters of a node that scales grippers; ``hardware.gripper.calibration_of`` reads them.

    The configuration files hold them once, under ``/**``, for every node that has them.
    """

    gripper_finger_open: float = param(
        GYM_ALOHA.finger_open_m, 'position of the left finger when open [m]', low=0.0, high=0.2)
    gripper_finger_closed: float = param(
        GYM_ALOHA.finger_closed_m, 'position of the left finger when closed [m]', low=0.0, high=0.2)
    gripper_joint_open: float = param(
        GYM_ALOHA.joint_open_rad, 'angle of the gripper motor when open [rad]', low=-math.pi, high=math.pi)
    gripper_joint_closed: float = param(
        GYM_ALOHA.joint_closed_rad, 'angle of the gripper motor when closed [rad]', low=-math.pi, high=math.pi)
