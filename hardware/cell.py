"""The cell in one file: arms, cameras, speeds, reference pose and calibration, checked key by key.

``config/cells/`` holds examples. :func:`graph_values` turns it into what the nodes' configuration has; ``fpo-ros
calibrate`` writes its section ``calibration``, which is the last one of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fpo_ros import files
from fpo_ros.hardware.cameras import TRANSPORTS, joined, stream
from fpo_ros.hardware.documents import read_yaml
from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.motor_file import linkage_of_file, position_counts_of_file, text_of_position_counts
from fpo_ros.hardware.names import FOLLOWERS, IMAGE_NAMES, LEADERS, SIDES
from fpo_ros.hardware.words import near
from fpo_ros.hardware.xs import FOLLOWER, LEADER, ArmModel, Linkage
from fpo_ros.policy.contract import ARM_JOINTS

MODELS = {model.name: model for model in (FOLLOWER, LEADER)}
#: Largest error of a joint's zero that Homing_Offset may mend [rad]: 1024 counts, a quarter of a turn.
LARGEST_OFFSET_RAD = math.pi / 2
_MARK = 'calibration:'


class CellError(ValueError):
    """A cell file that cannot be used; the message names the file, the key, and what is allowed."""


@dataclass(frozen=True)
class ArmEntry:
    """One arm.

    :param model: what it is.
    :param motor_configs: motor file of its driver; empty for the driver package's own.
    :param mode_configs: mode file of its driver; empty for the one of this package.
    """

    model: ArmModel
    motor_configs: str = ''
    mode_configs: str = ''


@dataclass(frozen=True)
class CameraEntry:
    """One camera.

    :param serial: serial number of a RealSense camera; empty for one whose driver is started by somebody else.
    :param topic: of its pictures; empty for that of realsense2_camera.
    :param transport: one of ``cameras.TRANSPORTS``.
    """

    serial: str = ''
    topic: str = ''
    transport: str = TRANSPORTS[0]


@dataclass(frozen=True)
class Cell:
    """A cell.

    :param path: file it was read from.
    :param arms: name → arm, such as follower_left.
    :param cameras: name → camera; which of them run, the contract of the policy or ``cameras`` says.
    :param color_profile: width x height x rate of all cameras [pixels, pixels, Hz].
    :param image_name: last part of the topics of RealSense cameras.
    :param limits: joint_speed [rad/s], gripper_speed [strokes/s], homing_joint_speed [rad/s], and, where the file has
        them, base_distance, table_height and the six of workspace_{x,y,z}_{low,high} [m].
    :param reference: (6,) pose that a person puts an arm in to calibrate its joints [rad].
    :param park: (6,) pose in which motors may be switched off [rad]; empty: that of ``arm_controller``.
    :param grippers: arm → calibration of its gripper, a follower's with the linkage of its motor file.
    :param joint_offsets_rad: arm → (6,) what its motors' Homing_Offset adds to their angles [rad].
    """

    path: Path
    arms: Mapping[str, ArmEntry]
    cameras: Mapping[str, CameraEntry]
    color_profile: tuple[int, int, int]
    image_name: str
    limits: Mapping[str, float]
    reference: tuple[float, ...]
    park: tuple[float, ...]
    grippers: Mapping[str, GripperCalibration]
    joint_offsets_rad: Mapping[str, tuple[float, ...]]


class _Reader:
    """Reads a mapping key by key and complains with the whole path of a key."""

    def __init__(self, value: Any, where: str, keys: Mapping[str, bool] | None = None) -> None:
        if not isinstance(value, Mapping):
            raise CellError(f'{where}: must hold keys and values, got {value!r}')
        self.value, self.where = value, where
        if keys is None:
            return
        for key in value:
            if key not in keys:
                raise CellError(f'{self.at(key)}: unknown key: {near(str(key), keys)}')
        for key, needed in keys.items():
            if needed and key not in value:
                raise CellError(f'{self.at(key)}: is missing')

    def at(self, key: object) -> str:
        return f'{self.where}{"" if self.where.endswith(": ") else "."}{key}'

    def part(self, key: str, keys: Mapping[str, bool] | None = None) -> _Reader:
        return _Reader(self.value.get(key, {}), self.at(key), keys)

    def text(self, key: str, default: str = '', allowed: Any = ()) -> str:
        value = self.value.get(key, default)
        if not isinstance(value, str) or (allowed and value not in allowed):
            what = f'one of {", ".join(allowed)}' if allowed else 'a text; put numbers in quotes'
            raise CellError(f'{self.at(key)}: must be {what}, got {value!r}')
        return value

    def number(self, key: str, low: float, high: float, unit: str) -> float:
        return _number(self.value.get(key), self.at(key), low, high, unit)

    def numbers(self, key: str, count: int, low: float, high: float, unit: str) -> tuple[float, ...]:
        value = self.value.get(key)
        if not isinstance(value, list) or len(value) != count:
            raise CellError(f'{self.at(key)}: must be a list of {count} numbers, got {value!r}')
        return tuple(_number(one, f'{self.at(key)}[{index}]', low, high, unit) for index, one in enumerate(value))


def _number(value: Any, where: str, low: float, high: float, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise CellError(f'{where}: must be a number from {low:g} to {high:g} {unit}, got {value!r}')
    return float(value)


#: Limit → smallest and largest value and unit, as arm_controller has them.
_LIMITS = {'joint_speed': (0.01, 3.14, 'rad/s'), 'gripper_speed': (0.01, 20.0, 'strokes/s'),
           'homing_joint_speed': (0.01, 3.14, 'rad/s')}
#: The same of what a cell may leave out: its measures, and where its tools may be, in the frame of each arm's base.
_MEASURES = {'base_distance': (0.4, 2.0, 'm'), 'table_height': (-0.5, 0.5, 'm'),
             **{f'workspace_{axis}_{end}': (-1.0, 1.5 if axis == 'z' else 1.0, 'm')
                for axis in 'xyz' for end in ('low', 'high')}}
#: Keys of a gripper's calibration.
_GRIPPER = ('joint_open_rad', 'joint_closed_rad')


def load_cell(path: str | Path) -> Cell:
    """Return the cell of a file.

    :raises CellError: naming the key that is wrong and what it may be.
    """
    path = Path(path)
    document = read_yaml(path, CellError, 'the cell file')
    root = _Reader(document, f'{path}: ', dict.fromkeys(('arms', 'cameras', 'limits', 'poses', 'calibration'), True))
    arms = _arms(root)
    cameras, profile, image_name = _cameras(root)
    limits = root.part('limits', dict.fromkeys(_LIMITS, True) | dict.fromkeys(_MEASURES, False))
    poses = root.part('poses', {'reference_rad': True, 'park_rad': False})
    calibration = root.part('calibration', {'grippers': True, 'joint_offsets_rad': True})
    return Cell(
        path, arms, cameras, profile, image_name,
        {name: limits.number(name, *bounds) for name, bounds in (_LIMITS | _MEASURES).items() if name in limits.value},
        poses.numbers('reference_rad', 6, -math.pi, math.pi, 'rad'),
        poses.numbers('park_rad', 6, -math.pi, math.pi, 'rad') if 'park_rad' in poses.value else (),
        _grippers(calibration, arms),
        {arm: calibration.part('joint_offsets_rad', dict.fromkeys(arms, False)).numbers(
            arm, len(ARM_JOINTS), -LARGEST_OFFSET_RAD, LARGEST_OFFSET_RAD, 'rad')
         for arm in calibration.part('joint_offsets_rad', dict.fromkeys(arms, False)).value})


def _arms(root: _Reader) -> dict[str, ArmEntry]:
    known = (*FOLLOWERS.values(), *LEADERS.values())
    part = root.part('arms', {name: name in FOLLOWERS.values() for name in known})
    if len(set(part.value) & set(LEADERS.values())) == 1:
        raise CellError(f'{part.where}: a cell has both leaders or none')
    arms = {}
    for name in part.value:
        one = part.part(name, {'model': True, 'motor_configs': False, 'mode_configs': False})
        wanted = FOLLOWER if name in FOLLOWERS.values() else LEADER
        model = MODELS[one.text('model', allowed=tuple(MODELS))]
        if model is not wanted:
            raise CellError(f'{one.at("model")}: {name} must be {wanted.name}, got {model.name}')
        arms[name] = ArmEntry(model, one.text('motor_configs'), one.text('mode_configs'))
    return arms


def _cameras(root: _Reader) -> tuple[dict[str, CameraEntry], tuple[int, int, int], str]:
    part = root.part('cameras', {'image_name': True, 'color_profile': True, 'serials': True, 'topics': False,
                                 'transports': False})
    profile = part.text('color_profile')
    sizes = profile.split('x')
    if len(sizes) != 3 or not all(size.isdecimal() and 1 <= int(size) <= 4096 for size in sizes):
        raise CellError(f"{part.at('color_profile')}: must be width x height x rate such as 640x480x30, got "
                        f"'{profile}'")
    serials, topics, ways = (part.part(key) for key in ('serials', 'topics', 'transports'))
    cameras = {}
    for name in dict.fromkeys((*serials.value, *topics.value)):
        where = (serials if name in serials.value else topics).at(name)
        if not isinstance(name, str) or not name.isidentifier():
            raise CellError(f'{where}: a camera is named as ROS names go, such as cam_high')
        cameras[name] = one = CameraEntry(serials.text(name), topics.text(name),
                                          ways.text(name, TRANSPORTS[0], TRANSPORTS))
        try:
            stream(one.topic or name, one.transport)
        except ValueError as error:
            raise CellError(f'{topics.at(name)}: {error}') from error
    part.part('transports', dict.fromkeys(cameras, False))
    taken = [camera.serial for camera in cameras.values() if camera.serial]
    for name, camera in cameras.items():
        if taken.count(camera.serial) > 1:
            raise CellError(f'{serials.at(name)}: serial number {camera.serial} is that of another camera, too')
    width, height, rate = map(int, sizes)
    return cameras, (width, height, rate), part.text('image_name', allowed=IMAGE_NAMES)


def _grippers(calibration: _Reader, arms: Mapping[str, ArmEntry]) -> dict[str, GripperCalibration]:
    part = calibration.part('grippers', dict.fromkeys(arms, True))
    found = {}
    for name, arm in arms.items():
        one = part.part(name, dict.fromkeys(_GRIPPER, True))
        values = [one.number(key, -math.pi, math.pi, 'rad') for key in _GRIPPER]
        try:
            found[name] = GripperCalibration(*values, _linkage(name, arm))
        except ValueError as error:
            raise CellError(f'{one.where}: {error}') from error
    used = {found[name].linkage for name in FOLLOWERS.values()}
    if len(used) > 1:
        raise CellError(f'{part.where}: the motor files of {" and ".join(FOLLOWERS.values())} have another horn_radius '
                        'or arm_length: both followers need the same gripper')
    return found


def _linkage(name: str, arm: ArmEntry) -> Linkage | None:
    """Return the linkage of a follower's gripper; a leader's trigger is counted by its motor."""
    if name in LEADERS.values():
        return None
    return linkage_of_file(arm.motor_configs) if arm.motor_configs else arm.model.linkage


def save_calibration(cell: Cell, grippers: Mapping[str, GripperCalibration] | None = None,
                     joint_offsets_rad: Mapping[str, tuple[float, ...]] | None = None) -> Cell:
    """Write calibrations into the cell's file and return the cell as it is then; everything above them stays.

    :raises CellError: when the result would be no cell, or ``calibration`` is not the last section; the file is as
        before then.
    """
    text = cell.path.read_text(encoding='utf-8')
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.startswith(_MARK)]
    after = lines[starts[0] + 1:] if len(starts) == 1 else ['x']
    if any(line[0] not in ' #\n' for line in after):
        raise CellError(f"{cell.path}: 'calibration' must be the last section, as all below it is written anew")
    values = {
        'grippers': {name: {key: round(getattr(one, key), 5) for key in _GRIPPER}
                     for name, one in {**cell.grippers, **(grippers or {})}.items()},
        'joint_offsets_rad': {name: [round(value, 5) for value in one]
                              for name, one in {**cell.joint_offsets_rad, **(joint_offsets_rad or {})}.items()}}
    written = ''.join(lines[:starts[0]]) + yaml.safe_dump({'calibration': values}, sort_keys=False,
                                                          default_flow_style=None, width=120)
    trial = cell.path.with_name(f'.{cell.path.name}.trial')
    files.replace_file(trial, written.encode())
    try:
        load_cell(trial)
    except CellError as error:
        raise CellError(str(error).replace(str(trial), str(cell.path))) from error
    finally:
        trial.unlink()
    files.replace_file(cell.path, written.encode())
    return load_cell(cell.path)


def graph_values(cell: Cell) -> dict[str, dict[str, Any]]:
    """Return node → parameter → value of a cell, with ``cell`` for what its drivers get."""
    linkage = cell.grippers[FOLLOWERS['left']].linkage
    scales = {'gripper_horn': linkage.horn_m, 'gripper_arm': linkage.arm_m} | _ends(cell, FOLLOWERS, 'gripper')
    width, height, rate = cell.color_profile
    drivers: dict[str, Any] = {'color_profile': f'{width}x{height}x{rate}'}
    for side in SIDES:
        for prefix, name in ((side, FOLLOWERS[side]), (f'leader_{side}', LEADERS[side])):
            if name in cell.arms:
                arm = cell.arms[name]
                drivers |= {f'{prefix}_motor_configs': arm.motor_configs, f'{prefix}_mode_configs': arm.mode_configs}
    drivers |= {f'{name}_serial': camera.serial for name, camera in cell.cameras.items()}
    pictures = {
        'image_name': cell.image_name,
        'image_topics': joined({name: camera.topic for name, camera in cell.cameras.items() if camera.topic},
                               cell.cameras),
        'image_transports': joined({name: camera.transport for name, camera in cell.cameras.items()
                                    if camera.transport != TRANSPORTS[0]}, cell.cameras)}
    return {
        'cell': drivers,
        'driver_twin': scales | pictures | {'camera_rate': float(rate), 'leaders': LEADERS['left'] in cell.arms},
        'camera_ingest': pictures | {'expected_rate': float(rate)},
        'proprio_ingest': scales | {'camera_rate': float(rate)},
        'arm_controller': scales | dict(cell.limits) | (
            {'park_joints': ', '.join(map(repr, cell.park))} if cell.park else {}) | _servo_limits(cell),
        'teleop': _ends(cell, LEADERS, 'leader')}


def _ends(cell: Cell, names: Mapping[str, str], kind: str) -> dict[str, float]:
    """Return the parameters that say where the grippers of some arms are open and closed [rad]."""
    return {f'{side}_{kind}_{key.removesuffix("_rad")}': getattr(cell.grippers[names[side]], key)
            for side in SIDES if names[side] in cell.grippers for key in _GRIPPER}


def _servo_limits(cell: Cell) -> dict[str, str]:
    """Return the position limits that the drivers of the followers write to their servos [counts]."""
    found = {}
    for side in SIDES:
        arm = cell.arms[FOLLOWERS[side]]
        if arm.motor_configs:
            try:
                counts = position_counts_of_file(arm.motor_configs, arm.model.counts)
            except ValueError as error:
                raise CellError(f'{cell.path}: {error}') from error
            found[f'{side}_servo_limits'] = text_of_position_counts(counts)
    return found
