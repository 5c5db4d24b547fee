"""Parameters of the arms' controller, and the settings of its core that they make."""

from __future__ import annotations

from dataclasses import dataclass

from fpo_ros.nodes.commands import COMMANDS
from fpo_ros.nodes.configuration import LOG_ONLY, SEND
from fpo_ros.nodes.gripper import GripperParameters
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.safety import SafetyParameters, motor_limits, park_pose, safety_config
from fpo_ros.runtime.controller_config import ControllerConfig


@dataclass(frozen=True)
class ArmControllerParameters(SafetyParameters, GripperParameters):
    """Parameters of ``arm_controller``."""

    commands: str = param(SEND, 'send: commands go to the arms; log_only: a dry run, targets are computed, limited and '
                          'logged, and no command leaves', choices=COMMANDS)
    horizon: int = param(20, 'rows of an action chunk [control periods]', low=1, high=1000)
    execute: int = param(20, 'rows executed of each chunk [control periods]', low=1, high=1000)
    joint_speed: float = param(2.0, 'largest speed of a joint target [rad/s]', low=0.01, high=3.14)
    gripper_speed: float = param(
        4.0, 'largest speed of a gripper target [full strokes/s]', low=0.01, high=20.0
    )
    homing_joint_speed: float = param(1.0, 'peak speed of a joint while homing [rad/s]', low=0.01, high=3.14)
    max_joint_age: float = param(
        0.25, 'joint states older than this make the arms hold [s]', low=0.01, high=1.0
    )
    max_observation_age: float = param(0.5, 'chunks answering an older observation are refused [s]',
                                       low=0.02, high=10.0)
    starve_limit: float = param(
        2.0, 'time without a chunk after which POLICY becomes HOLD [s]', low=0.1, high=60.0
    )
    supervisor_limit: float = param(
        0.5, 'silence of who asked for a motion that ends it [s]', low=0.1, high=10.0
    )
    max_lead: float = param(1.0, 'joints farther than this from their target make the arms hold [rad]',
                            low=0.2, high=3.14)
    fastest_joint: float = param(3.14, 'joint states that would need a faster joint are passed over [rad/s]; 0: none '
                                 'are', low=0.0, high=20.0)
    max_leader_age: float = param(0.1, 'poses of the leaders older than this make the arms hold [s]', low=0.02,
                                  high=1.0)
    max_leader_offset: float = param(0.3, 'a leader joint farther than this from its follower does not take over [rad]',
                                     low=0.01, high=1.0)
    takeover_time: float = param(0.5, 'time over which what they differ by fades [s]', low=0.0, high=5.0)
    start_stopped: bool = param(False, 'whether a fresh process sends nothing until reset_emergency_stop is called')
    emergency_stop_limit: float = param(
        0.0, "silence of the emergency stop's device that latches it [s]; 0: not watched", low=0.0, high=60.0
    )
    hold_to_run_limit: float = param(
        0.0, 'arms move only while hold_to_run is true; its silence for so long counts as let go [s]; 0: not asked for',
        low=0.0, high=10.0
    )
    ramp_periods: int = param(
        5, 'periods over which the speed limit grows after a takeover', low=0, high=1000
    )
    realtime_priority: int = param(
        20, 'SCHED_FIFO priority of the control thread, where permitted; 0 for none', low=0, high=99
    )


def controller_config(p: ArmControllerParameters) -> ControllerConfig:
    """Return the settings of the core.

    :raises ValueError: for parameters that do not go together, naming them.
    """
    return ControllerConfig(
        joint_age_limit_s=p.max_joint_age, observation_age_limit_s=p.max_observation_age,
        starve_limit_s=p.starve_limit, homing_joint_speed=p.homing_joint_speed,
        lead_limit=p.max_lead, ramp_periods=p.ramp_periods, teleop_age_limit_s=p.max_leader_age,
        teleop_align_limit=p.max_leader_offset, teleop_blend_s=p.takeover_time,
        blocked_limit_s=p.blocked_limit, fastest_joint=p.fastest_joint, log_only=p.commands == LOG_ONLY,
        park=park_pose(p), safety=safety_config(p), motors=motor_limits(p))
