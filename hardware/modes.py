"""Mode files of interbotix_xs_sdk: how the motors of an arm start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpo_ros.hardware import xs
from fpo_ros.hardware.documents import read_yaml


@dataclass(frozen=True)
class MotorSettings:
    """Start-up settings of one motor, as a mode file gives them.

    :param mode: key of ``xs.MODES``.
    :param profile_type: one of ``xs.PROFILE_TYPES``.
    :param profile_velocity: of the servo's own profile [0.229 rpm, or ms].
    :param profile_acceleration: [214.577 rpm^2, or ms].
    :param torque: whether it is on.
    """

    mode: str = 'position'
    profile_type: str = 'velocity'
    profile_velocity: int = 0
    profile_acceleration: int = 0
    torque: bool = True


#: A follower without a mode file: what xs_sdk takes itself, and a gripper that takes angles.
FOLLOWER_SETTINGS = (MotorSettings(),) * 6 + (MotorSettings(mode='current_based_position'),)
#: A leader: a person moves it (aloha config/leader_modes_*.yaml).
LEADER_SETTINGS = (MotorSettings(torque=False),) * 7


class ModeFileError(ValueError):
    """A mode file that cannot be used; the message names file and key."""


def load_modes(path: str | Path) -> tuple[MotorSettings, ...]:
    """Return the (7) settings that a mode file gives the motors; what it leaves out is xs_sdk's own.

    :raises ModeFileError: naming the key that is wrong.
    """
    document = read_yaml(path, ModeFileError, 'the mode file')
    if not isinstance(document, Mapping):
        raise ModeFileError(f'{path} is not a mode file of interbotix_xs_sdk: it holds no keys')
    settings = [MotorSettings()] * 7
    for part, kind in (('groups', 'group'), ('singles', 'single')):
        for name, values in (document.get(part) or {}).items():
            motors = xs.motors_of(kind, str(name))
            if motors is None or not isinstance(values, Mapping):
                raise ModeFileError(f'{path}: {part}.{name} is no {kind} of an ALOHA arm with settings')
            one = _settings(f'{path}: {part}.{name}', values)
            settings = [one if chosen else before for chosen, before in zip(motors, settings, strict=True)]
    return tuple(settings)


def _settings(where: str, values: Mapping[str, Any]) -> MotorSettings:
    mode, profile = values.get('operating_mode', 'position'), values.get('profile_type', 'velocity')
    if mode not in xs.MODES:
        raise ModeFileError(f"{where}.operating_mode cannot be '{mode}': use {', '.join(xs.MODES)}")
    if profile not in xs.PROFILE_TYPES:
        raise ModeFileError(f"{where}.profile_type cannot be '{profile}': use {' or '.join(xs.PROFILE_TYPES)}")
    numbers = [values.get(key, 0) for key in ('profile_velocity', 'profile_acceleration')]
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ModeFileError(f'{where}: profile_velocity and profile_acceleration must be whole numbers from 0')
    return MotorSettings(mode, profile, *numbers, bool(values.get('torque_enable', True)))
