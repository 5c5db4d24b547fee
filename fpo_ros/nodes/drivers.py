"""The drivers of the real cell, which ROS 2's own launch starts: what they are, and whether they can be started."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fpo_ros.hardware.gripper import calibrations_of
from fpo_ros.hardware.modes import ModeFileError, load_modes
from fpo_ros.hardware.motor_file import (
    linkage_of_file,
    position_counts_of_file,
    position_counts_of_text,
    text_of_position_counts,
)
from fpo_ros.hardware.names import ARM_GROUP, FOLLOWERS, GRIPPER_NAME, LEADERS, SIDES
from fpo_ros.hardware.xs import FOLLOWER, LEADER, VELOCITY_UNIT_RAD_S
from fpo_ros.nodes.configuration import GraphError
from fpo_ros.nodes.locate import share_path
from fpo_ros.policy.contract import ARM_JOINTS

#: How much faster than its targets a servo must be allowed to run, so as not to lag behind them.
PROFILE_MARGIN = 1.2
ARM_DRIVER, CAMERA_DRIVER = 'interbotix_xsarm_control', 'realsense2_camera'


@dataclass(frozen=True)
class DriverSpec:
    """A driver of the real cell, which ROS 2's own launch starts.

    :param package: ROS package it comes in.
    :param namespace: namespace it runs in.
    :param launch_file: launch file below the package's ``launch`` folder; empty for an executable.
    :param executable: executable of the package; empty for a launch file.
    :param name: of the node that the executable runs.
    :param arguments: launch arguments, or parameters of the executable.
    """

    package: str
    namespace: str
    launch_file: str = ''
    executable: str = ''
    name: str = 'camera'
    arguments: dict[str, str] = field(default_factory=dict)


def mode_file(side: str, cell: dict[str, Any], leader: bool = False) -> str | Path:
    """Return the mode file of a driver, which also names its serial port.

    :param cell: the block ``cell`` of the configuration.
    :param leader: whether it is the leader's of that side, and not the follower's.
    """
    own = cell[f'leader_{side}_mode_configs' if leader else f'{side}_mode_configs']
    return own or share_path(f'config/{"leader" if leader else "follower"}_{side}_modes.yaml')


def drivers_of(cameras: tuple[str, ...], cell: dict[str, Any], namespace: str,
               leaders: bool = False, elsewhere: Collection[str] = ()) -> tuple[DriverSpec, ...]:
    """Return the Interbotix and camera drivers of the real cell.

    :param cell: the block ``cell`` of the configuration.
    :param leaders: whether the leaders are there, too.
    :param elsewhere: cameras with a topic of their own: those of them that have no serial number have a driver that
        is not started here.
    """
    prefix = namespace.strip('/')
    drivers = []
    for leader in (False, True) if leaders else (False,):
        for side in SIDES:
            name = f'{prefix}/{(LEADERS if leader else FOLLOWERS)[side]}'.lstrip('/')
            motors = cell[f'leader_{side}_motor_configs' if leader else f'{side}_motor_configs']
            # Every argument that matters is said for each arm: none may be inherited from the other.
            drivers.append(DriverSpec(ARM_DRIVER, name, launch_file='xsarm_control.launch.py', arguments={
                'robot_model': (LEADER if leader else FOLLOWER).name, 'robot_name': name,
                'base_link_frame': 'base_link', 'use_world_frame': 'false', 'use_rviz': 'false', 'use_sim': 'false',
                'hardware_type': 'actual', 'mode_configs': str(mode_file(side, cell, leader)),
                'motor_configs': str(motors), 'load_configs': 'true' if cell['load_motor_configs'] else 'false'}))
    profile = str(cell['color_profile'])
    for camera in cameras:
        serial = str(cell.get(f'{camera}_serial', ''))
        if camera in elsewhere and not serial:
            continue
        drivers.append(DriverSpec(CAMERA_DRIVER, f'{prefix}/{camera}'.lstrip('/'),
                                  executable='realsense2_camera_node', arguments={
            # The driver drops the underscore; without it a parameter file may hold a number.
            'serial_no': f'_{serial}' if serial else '',
            # A D405 takes its colour from the depth module, other cameras have a module for it.
            'depth_module.color_profile': profile, 'rgb_camera.color_profile': profile,
            'enable_depth': 'false', 'enable_infra1': 'false', 'enable_infra2': 'false'}))
    return tuple(drivers)


def gamepad_driver(namespace: str) -> DriverSpec:
    """Return the driver of a gamepad or pedal, which repeats at 20 Hz what it has: silence tells that it is lost."""
    return DriverSpec('joy', namespace.strip('/'), executable='joy_node', name='joy')


def check_motor_files(cell: dict[str, Any], controller: dict[str, Any]) -> None:
    """Refuse followers' motor files with another gripper than the one that grippers are scaled by, and with servos that
    ignore targets that the controller would send.

    :param cell: the block ``cell`` of the configuration.
    :param controller: parameters of ``arm_controller``.
    :raises GraphError: naming the file.
    """
    horn, arm = controller['gripper_horn'], controller['gripper_arm']
    for side in SIDES:
        if not (file := cell[f'{side}_motor_configs']):
            continue
        try:
            linkage, counts = linkage_of_file(file), position_counts_of_file(file, FOLLOWER.counts)
            text = controller[f'{side}_servo_limits'] or text_of_position_counts(FOLLOWER.counts[:len(ARM_JOINTS)])
            sent = position_counts_of_text(text, f'{side}_servo_limits of arm_controller')
        except ValueError as error:
            raise GraphError(str(error)) from error
        if (linkage.horn_m, linkage.arm_m) != (horn, arm):
            raise GraphError(f"{file}: the gripper has horn_radius {linkage.horn_m} and arm_length {linkage.arm_m} m, "
                             f"but gripper_horn is {horn} and gripper_arm {arm}: set them alike under '/**'")
        for joint, (low, high), (lowest, highest) in zip(ARM_JOINTS, counts, sent, strict=True):
            if lowest < low or highest > high:
                raise GraphError(
                    f'{file}: the servo of {joint} takes goals from {low} to {high} counts and ignores others, but '
                    f'targets reach from {lowest} to {highest}: set {side}_servo_limits of arm_controller to '
                    f'"{text_of_position_counts(counts)}"')


def check_profiles(drivers: tuple[DriverSpec, ...], controller: dict[str, Any], teleop: dict[str, Any]) -> None:
    """Refuse mode files whose speed limit the targets reach that are sent: the arms would lag behind them.

    :param controller: parameters of ``arm_controller``, which moves the followers.
    :param teleop: parameters of ``teleop``, which moves the leaders.
    :raises GraphError: naming the file, or what in it is too slow.
    """
    stroke = max(one.angle(1.0) - one.angle(0.0) for one in calibrations_of(SimpleNamespace(**controller)).values())
    _check_profiles(drivers, FOLLOWER.name, {ARM_GROUP: controller['joint_speed'],
                                             GRIPPER_NAME: controller['gripper_speed'] * stroke},
                    'joint_speed or gripper_speed of arm_controller')
    _check_profiles(drivers, LEADER.name, {ARM_GROUP: teleop['track_speed']}, 'track_speed of teleop')


def _check_profiles(drivers: tuple[DriverSpec, ...], model: str, wanted: dict[str, float], lower: str) -> None:
    """Refuse mode files of one kind of arm; ``wanted`` is part → speed of its targets [rad/s]."""
    arms = [driver for driver in drivers if driver.arguments.get('robot_model') == model]
    for file in dict.fromkeys(driver.arguments['mode_configs'] for driver in arms):
        try:
            motors = load_modes(file)
        except ModeFileError as error:
            raise GraphError(str(error)) from error
        settings = {ARM_GROUP: motors[0], GRIPPER_NAME: motors[-1]}
        for part, speed in wanted.items():
            limit = settings[part].profile_velocity * VELOCITY_UNIT_RAD_S
            # 0: no limit of the servo's own; profiles of another type are times.
            if settings[part].profile_type == 'velocity' and 0 < limit < PROFILE_MARGIN * speed:
                raise GraphError(
                    f'{file}: profile_velocity of {part} is {limit:.2f} rad/s, less than {PROFILE_MARGIN} times the '
                    f'speed of its targets, {speed:.2f} rad/s: raise it, or lower {lower}')


def missing_packages(drivers: tuple[DriverSpec, ...]) -> list[str]:
    """Return the ROS packages of drivers that ament's index does not know, once each."""
    try:
        from ament_index_python.packages import get_packages_with_prefixes
        known = get_packages_with_prefixes()
    except (ImportError, OSError):  # no ament, or no prefix: no ROS 2 set-up is sourced
        known = {}
    return sorted({driver.package for driver in drivers} - set(known))


def check_drivers(drivers: tuple[DriverSpec, ...]) -> None:
    """Refuse to start drivers that are not installed or not identified.

    :raises GraphError: naming every missing package, or the camera without a serial number.
    """
    missing = missing_packages(drivers)
    if missing:
        raise GraphError(f'the real cell needs the ROS packages {", ".join(missing)}, which are not installed: '
                         'Interbotix gives a script that builds its packages from source, others come by apt-get '
                         'install ros-$ROS_DISTRO-realsense2-camera ros-$ROS_DISTRO-joy; or try use_twin:=true')
    for driver in drivers:
        if driver.arguments.get('serial_no') == '':
            camera = driver.namespace.rsplit('/', 1)[-1]
            raise GraphError(f"configuration has no serial number of camera '{camera}': set {camera}_serial "
                             "under '/**/cell' (rs-enumerate-devices lists them), or its topic in image_topics where "
                             'another driver runs')
