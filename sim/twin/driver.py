"""One arm's xs_sdk node: the topics, services, names and units of interbotix_xs_sdk. What it does is in arm.py."""

from __future__ import annotations

import array
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand, JointTrajectoryCommand
from interbotix_xs_msgs.srv import MotorGains, OperatingModes, Reboot, RegisterValues, RobotInfo, TorqueEnable
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import JointState

from fpo_ros.hardware import xs
from fpo_ros.hardware.modes import MotorSettings
from fpo_ros.hardware.names import JOINT_STATE_NAMES
from fpo_ros.nodes import qos
from fpo_ros.nodes.running import make_executor
from fpo_ros.sim.twin.physics import TwinPhysics

#: How often a request looks whether a stalled bus goes on [s].
_STALL_LOOK_S = 0.01


class XsDriver(Node):
    """Publishes joint_states and takes commands and services of one arm, on a thread of its own.

    As in the real driver, requests are served one by one, each blocks as long as its registers take, joint_states pause
    meanwhile, and a reply says nothing of success.

    :param arm: name of the arm, such as follower_left, below ``namespace``.
    :param namespace: namespace of the cell.
    :param settings: of the seven motors at the start.
    :param time_scale: factor of what the bus costs; 1 as in reality.
    :param mode_configs: file that the settings come from, shown as the driver's parameter.
    """

    def __init__(self, arm: str, namespace: str, physics: TwinPhysics, settings: Sequence[MotorSettings], *,
                 time_scale: float = 1.0, mode_configs: str = '', **kwargs: Any) -> None:
        # Without the process's arguments: their namespace and name are those of the twin.
        super().__init__('xs_sdk', namespace=f'{namespace.rstrip("/")}/{arm}', use_global_arguments=False,
                         enable_rosout=False, **kwargs)
        for name, value in (('motor_configs', ''), ('mode_configs', mode_configs), ('load_configs', False),
                            ('robot_description', ''), ('xs_driver_logging_level', 'INFO')):
            self.declare_parameter(name, value, ParameterDescriptor(read_only=True))
        self.arm, self.physics, self.settings, self.time_scale = arm, physics, settings, time_scale
        self.core = physics.arms[arm]
        self.core.log = self._log
        self.message = JointState(name=list(JOINT_STATE_NAMES))
        self._publishing, self._turn = threading.Lock(), threading.Lock()
        self._busy = self._due = self._closing = False
        self._thread: threading.Thread | None = None
        self.output = self.create_publisher(JointState, 'joint_states', qos.DRIVER)
        self.create_subscription(JointGroupCommand, 'commands/joint_group', self._on_group, qos.DRIVER)
        self.create_subscription(JointSingleCommand, 'commands/joint_single', self._on_single, qos.DRIVER)
        self.create_subscription(JointTrajectoryCommand, 'commands/joint_trajectory', self._on_trajectory, qos.DRIVER)
        self.create_service(TorqueEnable, 'torque_enable', self._on_torque)
        self.create_service(Reboot, 'reboot_motors', self._on_reboot)
        self.create_service(RobotInfo, 'get_robot_info', self._on_info)
        self.create_service(OperatingModes, 'set_operating_modes', self._on_modes)
        self.create_service(MotorGains, 'set_motor_pid_gains', self._on_gains)
        self.create_service(RegisterValues, 'set_motor_registers', self._on_set_registers)
        self.create_service(RegisterValues, 'get_motor_registers', self._on_get_registers)

    # ---- life

    def ping(self) -> None:
        """Look for the motors and switch their torque off.

        :raises ValueError: naming a motor that does not answer.
        """
        with self.physics.lock:
            self.core.ping()

    def serve(self) -> None:
        """Set the motors up and serve requests, on a thread of its own."""
        self._closing, self._busy = False, True
        self._thread = threading.Thread(target=self._spin, name=f'xs_sdk {self.arm}', daemon=True)
        self._thread.start()

    def rest(self) -> None:
        """Serve no more requests; the motors keep their goals."""
        self._closing = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """End the thread and the node."""
        self.rest()
        self.destroy_node()

    def _spin(self) -> None:
        self._spend(self.core.configure(self.settings))
        executor = make_executor(self.context)
        executor.add_node(self)
        while not self._closing:
            executor.spin_once(timeout_sec=0.1)
        executor.remove_node(self)
        executor.shutdown()

    def _spend(self, work: Iterator[float]) -> None:
        """Do what a request asks for, and block as long as it takes on the bus."""
        with self._turn:
            self._busy = True
        try:
            while not self._closing:
                with self.physics.lock:
                    stalled = self.core.stalled
                    seconds = _STALL_LOOK_S if stalled else next(work, None)
                if seconds is None:
                    break
                time.sleep(seconds if stalled else seconds * self.time_scale)
        finally:
            with self._turn:
                self._busy, due, self._due = False, self._due, False
        if due:
            self._publish(self.get_clock().now())

    # ---- joint states

    def publish(self, stamp: Time) -> None:
        """Publish joint_states measured at an instant; while a request blocks the bus, once it no longer does."""
        with self._turn:
            if self._busy:
                self._due = True
                return
        self._publish(stamp)

    def _publish(self, stamp: Time) -> None:
        with self._publishing:
            with self.physics.lock:
                readout, jump = self.core.read(), self.physics.faults.value('clock_jump', self.arm)
                gone = self.physics.faults.motors('missing_joint', self.arm)
            if readout is None:
                return
            shifted = stamp + Duration(seconds=jump) if jump else stamp
            self.message.header.stamp = shifted.to_msg()
            self.message.name = [name for index, name in enumerate(JOINT_STATE_NAMES) if index not in gone]
            for field in ('position', 'velocity', 'effort'):
                values = getattr(readout, field)
                setattr(self.message, field, array.array('d', [value for index, value in enumerate(values)
                                                               if index not in gone] if gone else values))
            self.output.publish(self.message)

    # ---- commands

    def _on_group(self, message: JointGroupCommand) -> None:
        def work() -> Iterator[float]:
            self.core.group(message.name, message.cmd)
            return iter(())

        self._spend(_later(work))

    def _on_single(self, message: JointSingleCommand) -> None:
        self._spend(self.core.single(message.name, message.cmd))

    def _on_trajectory(self, message: JointTrajectoryCommand) -> None:
        points = message.traj.points
        times = [(point.time_from_start.sec, point.time_from_start.nanosec) for point in points]
        with self.physics.lock:
            self.core.trajectory(message.cmd_type, message.name, times, [point.positions for point in points],
                                 self.physics.time_s)

    # ---- services

    def _on_torque(self, request: TorqueEnable.Request, response: TorqueEnable.Response) -> TorqueEnable.Response:
        self._spend(self.core.torque_enable(request.cmd_type, request.name, request.enable))
        return response

    def _on_reboot(self, request: Reboot.Request, response: Reboot.Response) -> Reboot.Response:
        self._spend(self.core.reboot(request.cmd_type, request.name, request.enable, request.smart_reboot))
        return response

    def _on_modes(self, request: OperatingModes.Request, response: OperatingModes.Response) -> OperatingModes.Response:
        self._spend(self.core.set_modes(request.cmd_type, request.name, request.mode, request.profile_type,
                                        request.profile_velocity, request.profile_acceleration))
        return response

    def _on_gains(self, request: MotorGains.Request, response: MotorGains.Response) -> MotorGains.Response:
        self._spend(self.core.set_gains(request.cmd_type, request.name, [
            request.kp_pos, request.ki_pos, request.kd_pos, request.k1, request.k2, request.kp_vel, request.ki_vel]))
        return response

    def _on_set_registers(self, request: RegisterValues.Request,
                          response: RegisterValues.Response) -> RegisterValues.Response:
        self._spend(self.core.set_registers(request.cmd_type, request.name, request.reg, request.value))
        return response

    def _on_get_registers(self, request: RegisterValues.Request,
                          response: RegisterValues.Response) -> RegisterValues.Response:
        def work() -> Iterator[float]:
            response.values = self.core.get_registers(request.cmd_type, request.name, request.reg)
            return iter(())

        self._spend(_later(work))
        return response

    def _on_info(self, request: RobotInfo.Request, response: RobotInfo.Response) -> RobotInfo.Response:
        chosen, model = xs.motors_of(request.cmd_type, request.name), self.core.model
        if chosen is None:
            self._log(f"unknown {request.cmd_type} '{request.name}'")
            return response
        for motor in map(int, np.flatnonzero(chosen)):
            finger = motor == 6
            low, high = model.fingers_m if finger else model.joints[motor]
            response.joint_names.append('left_finger' if finger else xs.MOTORS[motor])
            response.joint_ids.append(model.ids[motor])
            response.joint_lower_limits.append(float(low))
            response.joint_upper_limits.append(float(high))
            response.joint_velocity_limits.append(1.0 if finger else xs.VELOCITY_LIMIT_RAD_S)
            response.joint_sleep_positions.append(model.sleep_finger_m if finger else model.sleep[motor])
            response.joint_state_indices.append(motor)
        first = int(np.flatnonzero(chosen)[0])
        response.mode, response.profile_type = self.core.motors.modes[first], self.core.motors.profile_types[first]
        response.num_joints = len(response.joint_names)
        response.name = ['arm', 'all'] if request.name == 'all' else [request.name]
        return response

    def _log(self, text: str) -> None:
        self.get_logger().error(text, throttle_duration_sec=1.0)


def _later(work: Any) -> Iterator[float]:
    """Call a function when it is first asked for what it takes, so that it waits for a stalled bus as others do."""
    yield from work()
