"""Parameters of the safety filter, what the core is given for them, and what diagnostics say of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fpo_ros.hardware.motor_file import position_counts_of_text
from fpo_ros.hardware.names import SIDES
from fpo_ros.nodes.logic.health import OK, WARN, Health
from fpo_ros.nodes.parameters import param
from fpo_ros.policy.contract import JOINT_NAMES, START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.controller import ArmControllerCore
from fpo_ros.runtime.controller_config import PARK_JOINTS
from fpo_ros.runtime.geometry import Geometry
from fpo_ros.runtime.motor_watch import MotorLimits
from fpo_ros.runtime.safety_config import ON_VIOLATION, SafetyConfig, inside_registers, servo_counts


@dataclass(frozen=True)
class SafetyParameters:
    """Base of the parameters of ``arm_controller``; docs/safety.md says where the defaults come from."""

    position_margin: float = param(
        0.01, "distance joint targets keep from the servos' own position limits [rad]", low=0.0, high=0.2)
    max_step: float = param(
        0.0628, 'largest change of a joint target in one period [rad]', low=0.0001, high=math.pi * 0.02)
    joint_acceleration: float = param(
        200.0, 'largest acceleration of a joint target [rad/s^2]; 0: not limited', low=0.0, high=1000.0)
    gripper_acceleration: float = param(
        400.0, 'largest acceleration of a gripper target [full strokes/s^2]; 0: not limited', low=0.0, high=5000.0)
    joint_jerk: float = param(
        0.0, 'largest jerk of a joint target [rad/s^3], which delays all of them; 0: not limited', low=0.0, high=1e6)
    geometry: bool = param(True, 'whether TCP speed, workspace and clearances are watched on a model of the cell')
    tcp_speed: float = param(
        2.5, 'largest speed of the point between the fingertips [m/s]; 0: not limited', low=0.0, high=10.0)
    reduced_speed: bool = param(False, 'whether that speed is at most 0.25 m/s (ISO 10218-1, reduced speed)')
    workspace_x_low: float = param(-0.1, "nearest to the arm's base [m]", low=-1.0, high=1.0)
    workspace_x_high: float = param(0.75, "farthest ahead of the arm's base [m]", low=-1.0, high=1.0)
    workspace_y_low: float = param(-0.5, "farthest right of the arm's base [m]", low=-1.0, high=1.0)
    workspace_y_high: float = param(0.5, "farthest left of the arm's base [m]", low=-1.0, high=1.0)
    workspace_z_low: float = param(-0.04, "lowest over the arm's base plane [m]", low=-1.0, high=1.0)
    workspace_z_high: float = param(0.75, "highest over the arm's base plane [m]", low=-1.0, high=1.5)
    arm_clearance: float = param(0.02, 'least distance of parts of different arms, fingers aside [m]',
                                 low=-0.1, high=0.2)
    hand_clearance: float = param(-0.02, 'the same of a finger and what is no finger of the other arm [m]',
                                  low=-0.1, high=0.2)
    table_clearance: float = param(0.01, 'least distance of forearms, wrists and grippers from the table [m]',
                                   low=-0.1, high=0.2)
    finger_clearance: float = param(
        -0.025, 'the same of a finger [m]; negative: so deep may it be sent into the table, to press',
        low=-0.1, high=0.2)
    self_clearance: float = param(0.01, "least distance of an arm's forearm and gripper from its own upper arm [m]",
                                  low=-0.1, high=0.2)
    base_distance: float = param(0.938, 'distance of the two bases, which face each other [m]', low=0.4, high=2.0)
    table_height: float = param(0.0, "height of the table's top over the bases' plane [m]", low=-0.5, high=0.5)
    park_joints: str = param('', "pose of each arm's six joints in which motors may be switched off [rad], "
                             "comma-separated; empty: three quarters of the way to the driver's sleep pose")
    left_servo_limits: str = param('', "Min and Max_Position_Limit of the left follower's six servos, twelve counts, "
                                   "comma-separated; empty: those of Interbotix's motor file")
    right_servo_limits: str = param('', 'the same of the right one')
    look_ahead: int = param(5, 'rows of a chunk that are looked at before they are due [control periods]',
                            low=0, high=20)
    blocked_limit: float = param(1.0, 'time that workspace or clearances may keep the arms before they hold, '
                                 'but in TELEOP [s]',
                                 low=0.1, high=60.0)
    on_violation: str = param('project', 'what becomes of a target outside position limits, workspace or clearances',
                              choices=ON_VIOLATION)
    gripper_current: float = param(
        450.0, 'motor current above which a gripper eases off [mA]; 0: not watched', low=0.0, high=2300.0)
    gripper_current_time: float = param(1.0, 'how long it may be above it [s]', low=0.02, high=60.0)
    gripper_squeeze: float = param(
        0.05, "how far beyond its measured position an eased gripper's target lies [full strokes]", low=0.0, high=0.5)
    joint_current: float = param(
        0.6, 'share of its stall current above which a joint makes the arms hold; 0: not watched', low=0.0, high=1.0)
    joint_current_time: float = param(0.5, 'how long it may be above it [s]', low=0.02, high=60.0)
    temperature_period: float = param(
        0.0, "time between two readings of the motors' temperatures and errors [s]; 0: they are not read",
        low=0.0, high=600.0)
    temperature_hold: float = param(
        70.0, 'motor temperature that makes the arms hold [degrees Celsius]; 0: none', low=0.0, high=80.0)
    temperature_stop: float = param(
        77.0, 'motor temperature that latches the stop [degrees Celsius]; 0: none', low=0.0, high=80.0)


def park_pose(p: SafetyParameters) -> np.ndarray:
    """Return the (14,) pose in which motors may be switched off [rad, grippers 0..1], grippers open.

    :raises ValueError: where ``park_joints`` are not six numbers.
    """
    if not p.park_joints.strip():
        return PARK_JOINTS
    try:
        joints = [float(word) for word in p.park_joints.split(',')]
    except ValueError:
        joints = []
    if len(joints) != 6 or not np.isfinite(joints).all():
        raise ValueError(f"parameter park_joints is '{p.park_joints}': give six numbers [rad], comma-separated")
    return np.array([*joints, 1.0] * 2)


def servo_counts_of(p: SafetyParameters) -> np.ndarray:
    """Return (2, 6, 2) position limits of the servos of each arm [counts].

    :raises ValueError: for parameters that are not twelve counts.
    """
    found = servo_counts()
    for arm, side in enumerate(SIDES):
        if text := getattr(p, f'{side}_servo_limits').strip():
            found[arm] = position_counts_of_text(text, f'parameter {side}_servo_limits')
    return found


def safety_config(p: SafetyParameters) -> SafetyConfig:
    """Return the filter's limits.

    :raises ValueError: for a workspace that is none, or limits of servos that leave the start pose out.
    """
    counts = servo_counts_of(p)
    reachable = inside_registers(JointLimits(), p.position_margin, counts)
    outside = (START_JOINTS < reachable.lower) | (START_JOINTS > reachable.upper)
    if outside.any():
        raise ValueError(f"the start pose lies outside the position limits of {JOINT_NAMES[int(np.argmax(outside))]}'s "
                         'servo: see the motor file of the cell, or left_servo_limits and right_servo_limits')
    workspace = np.array([[p.workspace_x_low, p.workspace_y_low, p.workspace_z_low],
                          [p.workspace_x_high, p.workspace_y_high, p.workspace_z_high]])
    return SafetyConfig(
        position_margin=p.position_margin, max_step=p.max_step, acceleration=p.joint_acceleration,
        gripper_acceleration=p.gripper_acceleration, jerk=p.joint_jerk, tcp_speed=p.tcp_speed,
        reduced=p.reduced_speed, workspace=workspace, look_ahead=p.look_ahead, on_violation=p.on_violation,
        servo_counts=counts)


def motor_limits(p: SafetyParameters) -> MotorLimits:
    """Return the limits of currents and temperatures."""
    return MotorLimits(p.gripper_current, p.gripper_current_time, p.gripper_squeeze, p.joint_current,
                       p.joint_current_time, p.temperature_hold, p.temperature_stop)


def geometry_of(p: SafetyParameters) -> Geometry | None:
    """Return the model of the cell, or None where it is switched off; MuJoCo is imported only where it is not.

    :raises RuntimeError: where the model cannot be had, saying what to do.
    """
    if not p.geometry:
        return None
    try:
        from fpo_ros.sim.clearances import CellGeometry, Clearances
    except ModuleNotFoundError as error:
        raise RuntimeError(f'no model of the cell for TCP speed, workspace and clearances: {error}; install mujoco, '
                           'gymnasium and gym-aloha, or set geometry to false') from error
    clearances = Clearances(p.arm_clearance, p.hand_clearance, p.table_clearance, p.finger_clearance, p.self_clearance)
    try:
        return CellGeometry(clearances, p.base_distance, p.table_height)
    except ModuleNotFoundError as error:
        raise RuntimeError(f'no model of the cell for TCP speed, workspace and clearances: {error}, or set geometry to '
                           'false') from error


def safety_health(core: ArmControllerCore) -> Health:
    """Return which limits acted and how often, and what stands in the way now."""
    gate, motors = core.filter, core.motors
    blocked = gate.block if gate.blocked else ''
    what = motors.hot or motors.powerless or motors.warm or blocked or motors.last_easing
    values: dict[str, float | int | str] = {
        f'limited_by_{name.replace(" ", "_")}': count for name, count in sorted(gate.acted.items())}
    values |= {'refused_targets': gate.refused, 'eased_grippers': motors.eased}
    for name, text in (('last_projection', gate.last_projection), ('last_refusal', gate.last_refusal)):
        if text:
            values[name] = text
    return Health('safety', WARN if what else OK, what or 'nothing stands in the way', values)
