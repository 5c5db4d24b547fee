"""What can break in the simulated cell: which faults there are, and which are in force. Without ROS or clock."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fpo_ros.hardware.words import near
from fpo_ros.hardware.xs import MOTORS

#: Ends what target and motor name.
CLEAR = 'clear'


class FaultError(ValueError):
    """A fault that cannot be; ``key`` is the argument at fault, the message what is allowed."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f'{key}: {message}')
        self.key, self.why = key, message


@dataclass(frozen=True)
class FaultKind:
    """What one kind of fault needs.

    :param of: ``'arm'``, ``'motor'``, ``'camera'`` or ``'any'`` (arms and cameras).
    :param meaning: what ``value`` is, with its unit; empty where it has none.
    :param low: smallest value.
    :param high: largest value.
    :param default: taken for a value of 0.
    :param latches: the motor itself keeps it until it is rebooted.
    """

    of: str
    meaning: str = ''
    low: float = 0.0
    high: float = 0.0
    default: float = 0.0
    latches: bool = False


FAULTS = {
    'overload': FaultKind('motor', latches=True),
    'overheating': FaultKind('motor', 'heating [K/s]; 0: at once', 0.0, 1000.0),
    'read_failure': FaultKind('arm', 'what joint_states hold: 0 for -pi, 1 for NaN', 0.0, 1.0),
    'frozen_read': FaultKind('arm'),
    'missing_joint': FaultKind('motor'),
    'missing_motor': FaultKind('motor'),
    'dropped_commands': FaultKind('arm', 'share of commands lost; 0: all', 0.0, 1.0, default=1.0),
    'usb_stall': FaultKind('arm'),
    'camera_stall': FaultKind('camera'),
    'camera_black': FaultKind('camera'),
    'camera_frozen': FaultKind('camera'),
    'clock_jump': FaultKind('any', 'added to stamps [s]', -86400.0, 86400.0),
}


@dataclass(frozen=True)
class Fault:
    """One fault of one target.

    :param name: key of :data:`FAULTS`, or :data:`CLEAR`.
    :param target: arm or camera; empty for all that can have it.
    :param motor: motor of the arm; empty for all.
    :param value: see :data:`FAULTS`.
    :param duration: after which it ends [s]; 0: never by itself.
    """

    name: str
    target: str = ''
    motor: str = ''
    value: float = 0.0
    duration: float = 0.0


class FaultState:
    """Which faults of a cell are in force.

    :param arms: names of the arms, such as follower_left.
    :param cameras: names of the cameras.
    """

    def __init__(self, arms: Iterable[str], cameras: Iterable[str] = ()) -> None:
        self.arms, self.cameras = tuple(arms), tuple(cameras)
        #: (fault, target) → (fault, instant at which it ends [s]).
        self._active: dict[tuple[str, str, str], tuple[Fault, float]] = {}

    def check(self, fault: Fault) -> tuple[str, ...]:
        """Return the targets that a fault is for.

        :raises FaultError: naming the argument that is wrong and what it may be.
        """
        if fault.name not in (*FAULTS, CLEAR):
            raise FaultError('fault', unknown('fault', fault.name, (*FAULTS, CLEAR)))
        kind = FAULTS.get(fault.name, FaultKind('any'))
        allowed = {'camera': self.cameras, 'any': (*self.arms, *self.cameras)}.get(kind.of, self.arms)
        if fault.target and fault.target not in allowed:
            raise FaultError('target', unknown(f'target of {fault.name}', fault.target, allowed))
        if not allowed:
            raise FaultError('target', f'the cell has nothing that can have a {fault.name}')
        if fault.motor and (kind.of not in ('motor', 'any') or fault.name == 'clock_jump'):
            raise FaultError('motor', f'{fault.name} is of a whole {"camera" if kind.of == "camera" else "target"}: '
                                      'leave it empty')
        if fault.motor and fault.motor not in MOTORS:
            raise FaultError('motor', unknown('motor', fault.motor, MOTORS))
        if not math.isfinite(fault.value) or not kind.low <= fault.value <= kind.high:
            allowed_values = f'{kind.low:g} to {kind.high:g}, {kind.meaning}' if kind.meaning else 'none (0)'
            raise FaultError('value', f'{fault.name} cannot have {fault.value:g}: allowed is {allowed_values}')
        if fault.name == 'read_failure' and fault.value not in (0.0, 1.0):
            raise FaultError('value', f'read_failure cannot have {fault.value:g}: allowed is 0 (-pi) or 1 (NaN)')
        if fault.name == 'clock_jump' and fault.value == 0:
            raise FaultError('value', 'clock_jump needs the shift of stamps [s]: give a number other than 0')
        if not math.isfinite(fault.duration) or fault.duration < 0:
            raise FaultError('duration', f'{fault.duration:g} s is no duration: use 0 (for ever) or more')
        if fault.duration and (kind.latches or fault.name == CLEAR):
            raise FaultError('duration', f'{fault.name} does not end by itself: leave it 0')
        return (fault.target,) if fault.target else allowed

    def inject(self, fault: Fault, now_s: float) -> None:
        """Let a fault begin, or, with :data:`CLEAR`, others end.

        :param now_s: this instant, of a steady clock [s].
        :raises FaultError: as :meth:`check`.
        """
        targets = self.check(fault)
        if fault.name == CLEAR:
            for key in [key for key in self._active if key[1] in targets and fault.motor in ('', key[2])]:
                del self._active[key]
            return
        motors = (fault.motor,) if fault.motor or FAULTS[fault.name].of != 'motor' else MOTORS
        for target in targets:
            for motor in motors:
                until = now_s + fault.duration if fault.duration else math.inf
                self._active[fault.name, target, motor] = fault, until

    def expire(self, now_s: float) -> None:
        """End what has lasted its time."""
        for key in [key for key, (_, until) in self._active.items() if now_s >= until]:
            del self._active[key]

    @property
    def quiet(self) -> bool:
        """Whether nothing is in force."""
        return not self._active

    def value(self, name: str, target: str, motor: str = '') -> float | None:
        """Return the value of a fault in force; None where it is not."""
        if not self._active:
            return None
        found = self._active.get((name, target, motor))
        if found is None:
            return None
        return found[0].value or FAULTS[name].default

    def motors(self, name: str, target: str) -> list[int]:
        """Return the indices of an arm's motors that have a fault."""
        return [index for index, motor in enumerate(MOTORS) if (name, target, motor) in self._active]

    def take(self, name: str, target: str) -> list[int]:
        """Return the indices of an arm's motors that a latching fault has struck since the last call."""
        found = self.motors(name, target)
        for index in found:
            del self._active[name, target, MOTORS[index]]
        return found

    def in_force(self) -> list[str]:
        """Return what is in force, in words."""
        return [' '.join(part for part in key if part) for key in sorted(self._active)]


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the complaint about a name that does not exist, with what was probably meant."""
    return f"unknown {what} '{name}': {near(name, known)}"
