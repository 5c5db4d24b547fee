"""One arm's xs_sdk without ROS: what it does with each request and how long that blocks it.

Methods that take time yield it, in seconds of a real driver; what they do happens between. Source: interbotix_ros_core
xs_sdk_obj.cpp, interbotix_xs_driver, dynamixel_workbench: a register written alone costs 10 ms, a reboot 1 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fpo_ros.hardware import xs
from fpo_ros.hardware.modes import MotorSettings
from fpo_ros.hardware.names import ARM_GROUP, GRIPPER_NAME
from fpo_ros.sim.twin.faults import FaultState
from fpo_ros.sim.twin.motors import POSITION, Drive, Measured, Motors

WRITE_S, REBOOT_S = 0.010, 1.0
#: Writes after the torque is off and before it is on again when a mode changes: drive mode, operating mode, profile
#: type, profile velocity, profile acceleration.
_MODE_WRITES = 5
#: How far from its start a trajectory may be before the driver warns [rad].
_START_TOLERANCE = 0.01


class Gripper(Protocol):
    """How the twin's normalised gripper, motor and finger belong together."""

    def finger_position(self, angle: float) -> float:
        """Return the left finger's position [m] at an angle of the motor [rad]."""


class Plant(Protocol):
    """The joints that the motors move."""

    def positions(self) -> np.ndarray:
        """Return the (7,) angles of the motors [rad]."""

    def measure(self) -> Measured:
        """Return angles, velocities and torques of the motors."""


@dataclass(frozen=True)
class Readout:
    """The nine entries of joint_states: six joints, gripper motor, two fingers.

    :param position: [rad, fingers m].
    :param velocity: [rad/s, fingers 0].
    :param effort: motor currents [mA, fingers 0].
    """

    position: list[float]
    velocity: list[float]
    effort: list[float]


class XsArm:
    """Answers what the driver of one arm is asked. Not thread-safe: its owner holds a lock between two yields.

    :param name: of the arm, such as follower_left.
    :param gripper: finger position of a motor angle.
    :param plant: what the motors measure.
    :param faults: of the cell.
    """

    def __init__(self, name: str, model: xs.ArmModel, motors: Motors, gripper: Gripper,
                 plant: Plant, faults: FaultState) -> None:
        self.name, self.model, self.motors, self.gripper = name, model, motors, gripper
        self._plant, self.faults = plant, faults
        #: Takes what the real driver would log as an error.
        self.log: Callable[[str], None] = _ignore
        self._dice = np.random.default_rng(0)
        self._trajectory: _Trajectory | None = None
        self._read: Readout | None = None

    def measure(self) -> Measured:
        """Return what the motors report: their positions have Homing_Offset added."""
        measured, offsets = self._plant.measure(), self.motors.offsets
        return measured if offsets is None else replace(measured, positions=measured.positions + offsets)

    # ---- start

    def ping(self) -> None:
        """Look for every motor and switch its torque off, as the driver does when it starts.

        :raises ValueError: naming a motor that does not answer.
        """
        self._mark_missing()
        for index in np.flatnonzero(self.motors.missing):
            raise ValueError(f'{self.name}: motor {xs.MOTORS[index]} (ID {self.model.ids[index]}) does not answer: '
                             'check its cable; the driver does not start without it')
        self.motors.torque[:] = False

    def configure(self, settings: Sequence[MotorSettings]) -> Iterator[float]:
        """Give the motors modes, profiles and torque as the mode file says; takes time."""
        for index, one in enumerate(settings):
            yield from self._change_mode(index, one.mode, one.profile_type, one.profile_velocity,
                                         one.profile_acceleration)
            self.motors.set_torque(index, one.torque, self._positions())

    # ---- topics

    def group(self, name: str, values: Sequence[float]) -> None:
        """Take a group command; drop it where name or length are wrong."""
        motors = self._addressed('group', name)
        if motors is None or self._lost():
            return
        if len(values) != len(motors):
            self.log(f"dropped a command of {len(values)} values: group '{name}' has {len(motors)} joints")
            return
        for index, value in zip(motors, values, strict=True):
            self._complain(self.motors.command(index, float(value)))

    def single(self, name: str, value: float) -> Iterator[float]:
        """Take a command of one motor; takes the time of a write."""
        motors = self._addressed('single', name)
        if motors is None or self._lost():
            return
        yield WRITE_S
        self._complain(self.motors.command(motors[0], float(value)))

    def trajectory(self, cmd_type: str, name: str, times: Sequence[tuple[int, int]],
                   points: Sequence[Sequence[float]], now_s: float) -> None:
        """Begin a trajectory as the driver does: not while one runs, without its first point, and with the whole
        seconds of every time lost.

        :param times: (seconds, nanoseconds) of each point from the start.
        :param points: positions of each [rad].
        """
        motors = self._addressed(cmd_type, name)
        if motors is None or self._lost():
            return
        if self._trajectory is not None or len(points) < 2 or any(len(point) != len(motors) for point in points):
            self.log(f"rejected a trajectory of {len(points)} points for '{name}': one runs already, or it needs two "
                     f'points or more of {len(motors)} positions each')
            return
        if np.abs(np.array(points[0]) - self._positions()[motors]).max() > _START_TOLERANCE:
            self.log('a trajectory starts elsewhere than the arm stands')
        waits = [nanoseconds * 1e-9 for _, nanoseconds in times]
        gaps = [max(0.0, after - before) for before, after in zip(waits, waits[1:], strict=False)]
        self._trajectory = _Trajectory(motors, [list(map(float, point)) for point in points[1:]],
                                       (now_s + np.cumsum(gaps)).tolist())

    # ---- services

    def torque_enable(self, cmd_type: str, name: str, enable: bool) -> Iterator[float]:
        """Switch motors."""
        for index in self._addressed(cmd_type, name) or ():
            yield WRITE_S
            self._complain(self.motors.set_torque(index, enable, self._positions()))

    def reboot(self, cmd_type: str, name: str, enable: bool, smart: bool) -> Iterator[float]:
        """Reboot motors, with ``smart`` those in error alone."""
        for index in self._addressed(cmd_type, name) or ():
            if smart and not self.motors.errors[index]:
                continue
            self.motors.reboot(index, self._positions())
            yield REBOOT_S
            if enable:
                yield WRITE_S
                self._complain(self.motors.set_torque(index, True, self._positions()))

    def set_modes(self, cmd_type: str, name: str, mode: str, profile_type: str, velocity: int,
                  acceleration: int) -> Iterator[float]:
        """Change the operating mode: each motor loses its torque for a moment and then has it, whatever was before."""
        motors = self._addressed(cmd_type, name) or ()
        if mode not in xs.MODES or profile_type not in xs.PROFILE_TYPES:
            self.log(f"unknown mode '{mode}' or profile type '{profile_type}'")
            return
        for index in motors:
            if mode == 'linear_position' and index != 6:
                self.log(f'{xs.MOTORS[index]} is no gripper: linear_position is for grippers')
                continue
            yield from self._change_mode(index, mode, profile_type, velocity, acceleration)
            yield WRITE_S
            self._complain(self.motors.set_torque(index, True, self._positions()))

    def _change_mode(self, index: int, mode: str, profile_type: str, velocity: int,
                     acceleration: int) -> Iterator[float]:
        self.motors.torque[index] = False
        yield _MODE_WRITES * WRITE_S
        if not self.motors.missing[index]:
            self.motors.set_mode(index, mode, profile_type, velocity, acceleration)

    def set_gains(self, cmd_type: str, name: str, values: Sequence[int]) -> Iterator[float]:
        """Write the seven gains; the position P gain has an effect, the others are kept and read back."""
        for index in self._addressed(cmd_type, name) or ():
            for register, value in zip(xs.GAINS, values, strict=True):
                yield WRITE_S
                self._complain(self.motors.write(index, register, int(value), self._positions()))

    def set_registers(self, cmd_type: str, name: str, register: str, value: int) -> Iterator[float]:
        """Write a register of motors; what they ignore is logged alone."""
        for index in self._addressed(cmd_type, name) or ():
            yield WRITE_S
            self._complain(self.motors.write(index, register, value, self._positions()))

    def get_registers(self, cmd_type: str, name: str, register: str) -> list[int]:
        """Return a register of motors; 0 for what cannot be read."""
        measured, values = self.measure(), []
        for index in self._addressed(cmd_type, name) or ():
            value = self.motors.read(index, register, measured)
            if value is None:
                self.log(f"cannot read '{register}' of {xs.MOTORS[index]}")
            values.append(0 if value is None else value)
        return values

    # ---- time

    def advance(self, period_s: float, now_s: float) -> Drive:
        """Let a tick pass: faults strike, a trajectory goes on, motors move their references."""
        motors, faults, rates = self.motors, self.faults, np.zeros(7)
        self._mark_missing()
        if not faults.quiet:
            for index in faults.take('overload', self.name):
                motors.latch(index, 'overload')
            for index in faults.motors('overheating', self.name):
                rates[index] = faults.value('overheating', self.name, xs.MOTORS[index]) or math.inf
        motors.warm(rates, period_s)
        return self._move(period_s, now_s)

    def _move(self, period_s: float, now_s: float) -> Drive:
        motors, positions = self.motors, self._positions()
        if self._trajectory is not None:
            for point in self._trajectory.due(now_s):
                for index, value in zip(self._trajectory.motors, point, strict=True):
                    self._complain(motors.command(index, value))
            if self._trajectory.ended:
                self._trajectory = None
        drive, offsets = motors.advance(period_s, positions), motors.offsets
        if offsets is None:
            return drive
        return replace(drive, values=drive.values - np.where(drive.kinds == POSITION, offsets, 0.0))

    def read(self) -> Readout | None:
        """Return what joint_states hold now; None while the bus stalls."""
        if self.stalled:
            return None
        failure = self.faults.value('read_failure', self.name)
        if failure is not None or self.motors.missing.any():
            # One sync read serves all motors: if it fails, it fails for all. Raw zeros are -pi.
            value = math.nan if failure else -math.pi
            return Readout([value] * 7 + [value if failure else 0.0] * 2, [0.0] * 9, [0.0] * 9)
        if self._read is not None and self.faults.value('frozen_read', self.name) is not None:
            return self._read
        measured = self.measure()
        finger = float(self.gripper.finger_position(measured.positions[6]))
        self._read = Readout([*map(float, measured.positions), finger, -finger],
                             [*map(float, measured.velocities), 0.0, 0.0],
                             [*map(float, measured.currents_ma), 0.0, 0.0])
        return self._read

    @property
    def stalled(self) -> bool:
        """Whether the bus stands still: nothing is read, requests wait."""
        return self.faults.value('usb_stall', self.name) is not None

    # ---- helpers

    def _mark_missing(self) -> None:
        if self.faults.quiet and not self.motors.missing.any():
            return
        gone = np.zeros(7, bool)
        gone[self.faults.motors('missing_motor', self.name)] = True
        self.motors.torque[gone] = False  # without its cable it has no power
        self.motors.missing = gone

    def _positions(self) -> np.ndarray:
        positions, offsets = self._plant.positions(), self.motors.offsets
        return positions if offsets is None else positions + offsets

    def _lost(self) -> bool:
        share = self.faults.value('dropped_commands', self.name)
        return share is not None and bool(self._dice.random() < share)

    def _addressed(self, cmd_type: str, name: str) -> list[int] | None:
        motors = xs.motors_of(cmd_type, name)
        if motors is None:
            self.log(f"unknown {cmd_type or 'type'} '{name}': there are groups '{ARM_GROUP}' and 'all', and singles "
                     f'{xs.MOTORS[0]} to {GRIPPER_NAME}')
            return None
        return np.flatnonzero(motors).tolist()

    def _complain(self, text: str) -> None:
        if text:
            self.log(text)


def _ignore(text: str) -> None:
    """Log nothing: there is no driver yet that could."""


class _Trajectory:
    """Points that are still to come."""

    def __init__(self, motors: list[int], points: list[list[float]], times: list[float]) -> None:
        self.motors = motors
        self._left = list(zip(times, points, strict=True))

    @property
    def ended(self) -> bool:
        return not self._left

    def due(self, now_s: float) -> list[list[float]]:
        found = [point for time, point in self._left if time <= now_s]
        self._left = self._left[len(found):]
        return found
