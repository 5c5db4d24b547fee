"""States and settings of the arm controller."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.runtime.chunks import DEFAULT_OBSERVATION_AGE_LIMIT_S
from fpo_ros.runtime.motor_watch import MotorLimits
from fpo_ros.runtime.safety_config import SafetyConfig

#: Three quarters of the way from the start pose to where the arms lie on themselves (interbotix_xsarm_control
#: config/aloha_vx300s.yaml, sleep_positions), farther than which their own clearance lets them not go; grippers open
#: [rad, grippers 0..1]. Without torque they sink by about 0.25 rad from there.
PARK_JOINTS = np.array([0.0, -1.62, 1.486, 0.0, -1.469, 0.0, 1.0] * 2)


class ArmState(enum.IntEnum):
    """States of the controller, numbered as ControllerStatus.STATE_*."""

    IDLE = 0
    HOMING = 1
    POLICY = 2
    HOLD = 3
    STOPPED = 4
    TELEOP = 5
    PARKING = 6


@dataclass(frozen=True)
class ControllerConfig:
    """Settings of the controller.

    :param joint_age_limit_s: measured joints older than this stop all motion [s].
    :param observation_age_limit_s: oldest observation a chunk may answer [s].
    :param starve_limit_s: without a chunk for this long, POLICY ends in HOLD [s].
    :param stall_limit_s: a control loop that paused longer abandons the running chunk [s].
    :param homing_joint_speed: peak joint speed while homing [rad/s].
    :param homing_gripper_speed: peak gripper speed while homing [1/s].
    :param home: (14,) start pose [rad, grippers 0..1].
    :param home_joint_tolerance: largest distance of a joint that still counts as at home [rad].
    :param home_gripper_tolerance: the same for a gripper [0..1].
    :param settle_limit_s: time given to reach home after the ramp has ended [s].
    :param takeover_joint_tolerance: joints farther than this from the current target are taken over where
        they are measured, not where they were sent [rad]; grippers squeeze, so they always keep their target.
    :param lead_limit: a joint farther than this from its target makes the arms hold where they stand [rad].
    :param park: (14,) pose in which motors may be switched off [rad, grippers 0..1].
    :param teleop_age_limit_s: older poses of the leaders are not followed [s].
    :param teleop_align_limit: a leader joint may stand so far from its follower when it takes over [rad].
    :param teleop_blend_s: time over which that difference fades [s].
    :param ramp_periods: control periods over which the speed limit grows after a takeover or a new policy.
    :param blocked_limit_s: arms that workspace or clearances keep from moving for longer than this hold [s].
    :param log_only: a dry run, in which commands go nowhere: the arms count as standing at their command.
    :param frozen_limit_s: joint states of an arm that stay the same for so long, while its target moves by
        ``frozen_distance``, are not believed [s].
    :param frozen_distance: [rad].
    :param fastest_joint: readings that would need a faster joint are passed over [rad/s]; 0: none are. Velocity_Limit
        of aloha_vx300s.yaml is pi rad/s.
    :param safety: limits of the safety filter beside position and speed.
    :param motors: limits of currents and temperatures.
    """

    joint_age_limit_s: float = 0.25
    observation_age_limit_s: float = DEFAULT_OBSERVATION_AGE_LIMIT_S
    starve_limit_s: float = 2.0
    stall_limit_s: float = 0.25
    homing_joint_speed: float = 1.0
    homing_gripper_speed: float = 2.0
    home: np.ndarray = dataclasses.field(default_factory=START_JOINTS.copy)
    home_joint_tolerance: float = 0.05
    home_gripper_tolerance: float = 0.2
    settle_limit_s: float = 2.0
    takeover_joint_tolerance: float = 0.2
    lead_limit: float = 0.5
    park: np.ndarray = dataclasses.field(default_factory=PARK_JOINTS.copy)
    teleop_age_limit_s: float = 0.1
    teleop_align_limit: float = 0.3
    teleop_blend_s: float = 0.5
    ramp_periods: int = 5
    blocked_limit_s: float = 1.0
    log_only: bool = False
    frozen_limit_s: float = 0.2
    frozen_distance: float = 0.1
    fastest_joint: float = math.pi
    safety: SafetyConfig = dataclasses.field(default_factory=SafetyConfig)
    motors: MotorLimits = dataclasses.field(default_factory=MotorLimits)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ('log_only', 'safety', 'motors'):
                continue
            if field.name == 'ramp_periods':
                if not 0 <= value <= 1000:
                    raise ValueError(f'ramp_periods must be 0..1000, got {value}')
            elif field.name in ('home', 'park'):
                pose = np.asarray(value, np.float64)
                if pose.shape != (ACTION_DIM,) or not np.isfinite(pose).all():
                    raise ValueError(f'{field.name} must be {ACTION_DIM} finite numbers, got shape {pose.shape}')
                object.__setattr__(self, field.name, pose)
            elif field.name in ('teleop_blend_s', 'fastest_joint') and value == 0:
                continue
            elif not (math.isfinite(value) and value > 0):
                raise ValueError(f'{field.name} must be positive, got {value}')
        if self.lead_limit < self.takeover_joint_tolerance:
            raise ValueError(f'lead_limit ({self.lead_limit} rad) must not be below takeover_joint_tolerance '
                             f'({self.takeover_joint_tolerance} rad)')
