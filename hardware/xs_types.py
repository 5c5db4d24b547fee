"""What is said about the arms between a client and what carries it: readings, infos, errors, the transport. No ROS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class XsError(RuntimeError):
    """An arm is not as it was told to be; the message says which motor, which register, what was wanted and found."""


@dataclass(frozen=True)
class RobotInfo:
    """What get_robot_info says of a group or motor; rows are its joints.

    :param lower: joint limits [rad, finger m].
    :param upper: the same, upwards.
    """

    mode: str
    profile_type: str
    joint_names: tuple[str, ...]
    joint_ids: tuple[int, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]


@dataclass(frozen=True)
class RawReading:
    """A joint_states message as it came, and when.

    :param stamp_ns: instant it was measured, by its stamp [ns].
    """

    names: Sequence[str]
    position: Sequence[float]
    velocity: Sequence[float]
    effort: Sequence[float]
    stamp_ns: int


@dataclass(frozen=True)
class ArmReading:
    """What an arm measures.

    :param joints: (6,) angles [rad].
    :param gripper_rad: angle of the gripper's motor [rad].
    :param finger_m: position of the left finger [m].
    :param velocities: (7,) of the motors [rad/s].
    :param currents_ma: (7,) of the motors [mA].
    :param stamp_ns: instant it was measured [ns].
    """

    joints: np.ndarray
    gripper_rad: float
    finger_m: float
    velocities: np.ndarray
    currents_ma: np.ndarray
    stamp_ns: int


class XsTransport(Protocol):
    """What carries requests to the driver of an arm; every method raises after a time-out, saying what was awaited."""

    def reading(self, arm: str, timeout_s: float) -> RawReading:
        """Return a joint_states message that came after this call began."""

    def send_group(self, arm: str, name: str, values: Sequence[float]) -> None:
        """Publish a command of a group."""

    def send_single(self, arm: str, name: str, value: float) -> None:
        """Publish a command of a motor."""

    def request(self, arm: str, service: str, timeout_s: float, **fields: Any) -> Any:
        """Call a service of the driver with the fields of its request; return the reply."""

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        """Wait until a condition holds and return its value."""
