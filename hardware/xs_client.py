"""A client of the arms' drivers that confirms what their empty replies do not. Without ROS: a transport carries it.

xs_sdk answers every request alike, whether it succeeded or not. So each change is read back, from the registers of the
motors themselves, and an error names arm, motor, register, what was wanted and what was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpo_ros.hardware import xs
from fpo_ros.hardware.names import ARM_GROUP, FOLLOWERS, GRIPPER_NAME, JOINT_STATE_NAMES, LEADERS
from fpo_ros.hardware.xs_types import ArmReading, RobotInfo, XsError, XsTransport

#: Every arm of an ALOHA cell → its kind.
ARMS = {**dict.fromkeys(FOLLOWERS.values(), xs.FOLLOWER), **dict.fromkeys(LEADERS.values(), xs.LEADER)}
#: How near to a goal counts as there [rad].
TOLERANCE_RAD = 0.05
#: Angles that a raw zero of a failed read becomes are this close to -pi [rad].
_ZERO_RAW = 1e-3


class XsClient:
    """One arm.

    :param transport: to its driver.
    :param arm: key of :data:`ARMS`.
    :param timeout_s: longest wait for one reply [s]; a reboot or a change of mode gets what it costs on top.
    :raises XsError: for an unknown arm.
    """

    def __init__(self, transport: XsTransport, arm: str, timeout_s: float = 5.0) -> None:
        if arm not in ARMS:
            raise XsError(f"unknown arm '{arm}': an ALOHA cell has {', '.join(ARMS)}")
        self.transport, self.arm, self.model, self.timeout_s = transport, arm, ARMS[arm], timeout_s

    # ---- reading

    def read(self) -> ArmReading:
        """Return what the arm measures now.

        :raises XsError: for missing entries, and for what a failed read leaves: NaN, or -pi in every joint.
        """
        raw = self.transport.reading(self.arm, self.timeout_s)
        names = list(raw.names) or list(JOINT_STATE_NAMES)
        rows = []
        for name in JOINT_STATE_NAMES:
            if name not in names:
                raise XsError(f"{self.arm}: joint_states lacks '{name}': it has {', '.join(names)}")
            rows.append(names.index(name))
        if len(raw.position) != len(names):
            raise XsError(f'{self.arm}: joint_states has {len(names)} names but {len(raw.position)} positions')
        position = np.asarray(raw.position, np.float64)[rows]
        for name, value in zip(JOINT_STATE_NAMES, position, strict=True):
            if not math.isfinite(value):
                raise XsError(f'{self.arm}: {name} reads {value}: the driver cannot read its motors, check the cables')
        if (np.abs(position[:7] + math.pi) < _ZERO_RAW).all():
            raise XsError(f'{self.arm}: every motor reads -pi: the driver cannot read its motors, check the cables')
        velocity, effort = (np.asarray(part, np.float64)[rows] if len(part) == len(names) else np.full(9, np.nan)
                            for part in (raw.velocity, raw.effort))
        return ArmReading(position[:6], float(position[6]), float(position[7]), velocity[:7], effort[:7], raw.stamp_ns)

    def info(self, name: str = ARM_GROUP) -> RobotInfo:
        """Return what the driver says of a group or motor."""
        reply = self._request('get_robot_info', name)
        return RobotInfo(reply.mode, reply.profile_type, tuple(reply.joint_names), tuple(reply.joint_ids),
                         tuple(reply.joint_lower_limits), tuple(reply.joint_upper_limits))

    def register(self, name: str, register: str) -> dict[str, int]:
        """Return motor → value of a register of a group or motor.

        :raises XsError: for a name that Dynamixel's control table does not have, or too few values.
        """
        self._check_register(register)
        motors = self._motors(name)
        values = list(self._request('get_motor_registers', name, reg=register, value=0).values)
        if len(values) != len(motors):
            raise XsError(f'{self.arm}: {register} of {name} has {len(values)} values for {len(motors)} motors')
        return dict(zip(motors, values, strict=True))

    def temperatures_c(self) -> dict[str, int]:
        """Return motor → temperature [deg C].

        :raises XsError: for a motor that reads 0: the driver leaves that of one that does not answer.
        """
        found = self.register('all', 'Present_Temperature')
        for motor, value in found.items():
            if value == 0:
                raise XsError(f'{self.arm}: {motor} does not answer: check its cables, and restart the driver')
        return found

    def current_limits_ma(self) -> dict[str, float]:
        """Return motor → Current_Limit [mA]."""
        return {motor: counts * xs.CURRENT_UNIT_MA for motor, counts in self.register('all', 'Current_Limit').items()}

    def errors(self) -> dict[str, tuple[str, ...]]:
        """Return motor → names of its hardware errors, of those that have any."""
        return {motor: xs.errors_of(status) for motor, status in
                self.register('all', 'Hardware_Error_Status').items() if status}

    def torques(self) -> dict[str, bool]:
        """Return motor → whether its torque is on."""
        return {motor: bool(value) for motor, value in self.register('all', 'Torque_Enable').items()}

    # ---- commands

    def send_arm(self, joints: Sequence[float]) -> None:
        """Send (6,) joint targets in the unit of the arm's mode [rad].

        :raises XsError: for a wrong length or a value that is not finite; the driver would not look.
        """
        values = np.asarray(joints, np.float64)
        if values.shape != (6,) or not np.isfinite(values).all():
            raise XsError(f'{self.arm}: a command of the arm is 6 finite numbers, got {values}')
        self.transport.send_group(self.arm, ARM_GROUP, values.tolist())

    def send_gripper(self, value: float) -> None:
        """Send the gripper a target in the unit of its mode: rad, m (linear_position), mA or PWM.

        :raises XsError: for a value that is not finite.
        """
        self.send_motor(GRIPPER_NAME, value)

    def send_motor(self, motor: str, value: float) -> None:
        """Send one motor a target in the unit of its mode.

        :raises XsError: for an unknown motor or a value that is not finite.
        """
        if motor not in xs.MOTORS or not math.isfinite(value):
            raise XsError(f"{self.arm}: a command is a finite number for one of {', '.join(xs.MOTORS)}, got {value} "
                          f"for '{motor}'")
        self.transport.send_single(self.arm, motor, float(value))

    def reach(self, joints: Sequence[float], timeout_s: float, tolerance_rad: float = TOLERANCE_RAD) -> ArmReading:
        """Send joint targets and wait until the arm stands there.

        :raises XsError: naming the joint that is farthest from its target when time is up.
        """
        wanted = np.asarray(joints, np.float64)
        self.send_arm(wanted)
        last: list[ArmReading] = []

        def there() -> bool:
            last[:] = [self.read()]
            return bool(np.abs(last[0].joints - wanted).max() <= tolerance_rad)

        try:
            self.transport.wait_for(there, f'{self.arm} to reach its targets', timeout_s)
        except TimeoutError as error:
            if not last:
                raise
            row = int(np.abs(last[0].joints - wanted).argmax())
            raise XsError(f'{self.arm}: {xs.MOTORS[row]} did not reach its target within {timeout_s:g} s: wanted '
                          f'{wanted[row]:.3f} rad, found {last[0].joints[row]:.3f} rad') from error
        return last[0]

    # ---- settings, each read back

    def set_torque(self, name: str, enable: bool) -> None:
        """Switch the torque of a group or motor.

        :raises XsError: naming the motor that did not follow.
        """
        self._request('torque_enable', name, enable=enable, cost_s=0.1)
        self._confirm(name, 'Torque_Enable', int(enable))

    def reboot(self, name: str, enable: bool = True, only_in_error: bool = False) -> None:
        """Reboot motors, which ends a latched shutdown, and switch their torque as wanted.

        :raises XsError: naming the motor that is still in error or did not switch.
        """
        before = self.torques() if only_in_error else {}
        broken = self.errors() if only_in_error else {}
        self._request('reboot_motors', name, enable=enable, smart_reboot=only_in_error,
                      cost_s=1.2 * len(self._motors(name)))
        self._confirm(name, 'Hardware_Error_Status', 0)
        for motor in self._motors(name):
            rebooted = motor in broken or not only_in_error
            self._confirm(motor, 'Torque_Enable', int(enable if rebooted else before[motor]))

    def set_mode(self, name: str, mode: str, profile_type: str = 'velocity', profile_velocity: int = 0,
                 profile_acceleration: int = 0) -> None:
        """Change the operating mode. The motors are without torque for a moment, and have it afterwards.

        :param profile_velocity: [0.229 rpm], or [ms] with profile_type 'time'; 0 for no limit.
        :param profile_acceleration: [214.577 rev/min^2], or [ms].
        :raises XsError: for an unknown mode, and naming the motor and register that did not follow.
        """
        if mode not in xs.MODES or profile_type not in xs.PROFILE_TYPES:
            raise XsError(f"{self.arm}: unknown mode '{mode}' or profile type '{profile_type}': there are "
                          f'{", ".join(xs.MODES)} and {", ".join(xs.PROFILE_TYPES)}')
        self._request('set_operating_modes', name, mode=mode, profile_type=profile_type,
                      profile_velocity=profile_velocity, profile_acceleration=profile_acceleration,
                      cost_s=0.1 * len(self._motors(name)))
        for register, wanted in (('Operating_Mode', xs.MODES[mode]), ('Profile_Velocity', profile_velocity),
                                 ('Profile_Acceleration', profile_acceleration), ('Torque_Enable', 1)):
            self._confirm(name, register, wanted)
        found = self.info(name)
        if (found.mode, found.profile_type) != (mode, profile_type):
            raise XsError(f'{self.arm}: mode of {name}: wanted {mode} with profile {profile_type}, found {found.mode} '
                          f'with {found.profile_type}')

    def set_gains(self, name: str, gains: Mapping[str, int]) -> None:
        """Set gains; those that are not named become what motors are delivered with, as the driver writes all seven.

        :param gains: key of ``xs.GAINS`` → value.
        :raises XsError: for an unknown gain, and naming the motor and register that did not follow.
        """
        for gain in gains:
            if gain not in xs.GAINS:
                raise XsError(f"{self.arm}: unknown gain '{gain}': there are {', '.join(xs.GAINS)}")
        values = xs.GAINS | dict(gains)
        fields = dict(zip(('kp_pos', 'ki_pos', 'kd_pos', 'k1', 'k2', 'kp_vel', 'ki_vel'), values.values(), strict=True))
        self._request('set_motor_pid_gains', name, cost_s=0.1 * len(self._motors(name)), **fields)
        for register, value in values.items():
            self._confirm(name, register, value)

    def set_register(self, name: str, register: str, value: int) -> None:
        """Write a register. Those of the EEPROM take a value only while the torque is off.

        :raises XsError: for a name that the control table lacks, and naming the motor that did not follow.
        """
        self._check_register(register)
        self._request('set_motor_registers', name, reg=register, value=value, cost_s=0.1)
        self._confirm(name, register, value)

    # ---- helpers

    def _motors(self, name: str) -> tuple[str, ...]:
        chosen = xs.motors_of(self._kind(name), name)
        if chosen is None:
            raise XsError(f"{self.arm}: unknown group or motor '{name}': there are arm, all, {', '.join(xs.MOTORS)}")
        return tuple(np.array(xs.MOTORS)[chosen].tolist())

    @staticmethod
    def _kind(name: str) -> str:
        return 'group' if name in (ARM_GROUP, 'all') else 'single'

    def _request(self, service: str, name: str, cost_s: float = 0.0, **fields: Any) -> Any:
        self._motors(name)
        return self.transport.request(self.arm, service, self.timeout_s + cost_s, cmd_type=self._kind(name), name=name,
                                      **fields)

    def _check_register(self, register: str) -> None:
        if register not in xs.REGISTERS:
            raise XsError(f"{self.arm}: unknown register '{register}': the driver passes over names that differ from "
                          "Dynamixel's in spelling or case")

    def _confirm(self, name: str, register: str, wanted: int) -> None:
        for motor, found in self.register(name, register).items():
            if found != wanted:
                status = self.register(motor, 'Hardware_Error_Status')[motor] if register != 'Hardware_Error_Status' \
                    else found
                why = f' (shut down: {", ".join(xs.errors_of(status))}; reboot it)' if status else ''
                raise XsError(f'{self.arm}: {motor}: register {register}: wanted {wanted}, found {found}{why}')


class AlohaClient:
    """The arms of a cell.

    :param transport: to their drivers.
    :param arms: which of :data:`ARMS` there are.
    """

    def __init__(self, transport: XsTransport, arms: Sequence[str] = tuple(ARMS), timeout_s: float = 5.0) -> None:
        self.arms = {arm: XsClient(transport, arm, timeout_s) for arm in arms}

    def __getitem__(self, arm: str) -> XsClient:
        if arm not in self.arms:
            raise XsError(f"the cell has no arm '{arm}': it has {', '.join(self.arms)}")
        return self.arms[arm]
