"""One follower's xs_sdk node: the topics, services, names and units of interbotix_xs_sdk."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from interbotix_xs_msgs.srv import MotorGains, OperatingModes, Reboot, RegisterValues, RobotInfo, TorqueEnable
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import JointState

from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.joints import joint_state_positions
from fpo_ros.hardware.names import ARM_GROUP, FOLLOWERS, GRIPPER_NAME, JOINT_STATE_NAMES
from fpo_ros.nodes import qos
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim.twin.physics import TwinPhysics

#: The seven motors, in the order of joint_states.
MOTORS = JOINT_STATE_NAMES[:7]
#: Sleep pose of the arm (aloha_vx300s.yaml) [rad].
SLEEP = (0.0, -2.05, 1.7, 0.0, -2.0, 0.0)
#: Velocity limit of every motor (aloha_vx300s.urdf) [rad/s].
VELOCITY_LIMIT = 3.14159


class XsDriver(Node):
    """Publishes joint_states and takes commands and services of one follower.

    As the real driver, it drops a command of a wrong length or name with a log line, answers services
    with empty replies, and checks neither limits nor NaN of its own, except that MuJoCo must stay finite.

    :param side: 'left' or 'right'.
    :param namespace: namespace of the cell; the follower's own is added.
    """

    def __init__(self, side: str, namespace: str, physics: TwinPhysics, gripper: GripperCalibration,
                 **kwargs: Any) -> None:
        # Without the process's arguments: their namespace and name are those of the twin.
        super().__init__(
            'xs_sdk',
            namespace=f'{namespace.rstrip("/")}/{FOLLOWERS[side]}',
            start_parameter_services=False,
            use_global_arguments=False,
            enable_rosout=False,
            **kwargs,
        )
        self.side, self.physics, self.gripper = side, physics, gripper
        self.mode = {
            ARM_GROUP: ('position', 'velocity'),
            GRIPPER_NAME: ('current_based_position', 'velocity'),
        }
        self.registers: dict[tuple[str, str], int] = {}
        self.message = JointState(name=list(JOINT_STATE_NAMES))
        self.output = self.create_publisher(JointState, 'joint_states', qos.DRIVER)
        self.create_subscription(JointGroupCommand, 'commands/joint_group', self._on_group, qos.DRIVER)
        self.create_subscription(JointSingleCommand, 'commands/joint_single', self._on_single, qos.DRIVER)
        self.create_service(TorqueEnable, 'torque_enable', self._on_torque)
        self.create_service(Reboot, 'reboot_motors', self._on_reboot)
        self.create_service(RobotInfo, 'get_robot_info', self._on_info)
        self.create_service(OperatingModes, 'set_operating_modes', self._on_modes)
        self.create_service(MotorGains, 'set_motor_pid_gains', self._on_gains)
        self.create_service(RegisterValues, 'set_motor_registers', self._on_set_registers)
        self.create_service(RegisterValues, 'get_motor_registers', self._on_get_registers)

    def publish(self, stamp: Time) -> None:
        """Publish joint_states measured at an instant."""
        state = self.physics.follower(self.side)
        self.message.header.stamp = stamp.to_msg()
        self.message.position = array.array('d', joint_state_positions(state.positions, self.gripper))
        self.message.velocity = array.array('d', [*state.velocities, 0.0, 0.0, 0.0])
        self.message.effort = array.array('d', [*state.currents_ma, 0.0, 0.0, 0.0])
        self.output.publish(self.message)

    def _on_group(self, message: JointGroupCommand) -> None:
        values = np.asarray(message.cmd, np.float64)
        if message.name != ARM_GROUP or values.shape != (6,) or not np.isfinite(values).all():
            self._log(f"dropped a command of {len(values)} values for group '{message.name}': "
                      f"the twin takes 6 finite values for '{ARM_GROUP}'")
            return
        self.physics.set_arm(self.side, values)

    def _on_single(self, message: JointSingleCommand) -> None:
        if message.name != GRIPPER_NAME or not np.isfinite(message.cmd):
            self._log(f"dropped a command for motor '{message.name}': the twin takes '{GRIPPER_NAME}' [rad]")
            return
        self.physics.set_gripper(self.side, float(self.gripper.normalise_joint(message.cmd)))

    def _motors(self, cmd_type: str, name: str) -> np.ndarray:
        """Return which of the seven motors a request addresses; none, with a log line, if unknown."""
        motors = np.zeros(len(MOTORS), bool)
        if cmd_type == 'group' and name in ('all', ARM_GROUP):
            motors[:7 if name == 'all' else 6] = True
        elif cmd_type == 'single' and name in MOTORS:
            motors[MOTORS.index(name)] = True
        else:
            self._log(f"unknown {cmd_type} '{name}'")
        return motors

    def _on_torque(
        self, request: TorqueEnable.Request, response: TorqueEnable.Response
    ) -> TorqueEnable.Response:
        self.physics.set_torque(self.side, self._motors(request.cmd_type, request.name), request.enable)
        return response

    def _on_reboot(self, request: Reboot.Request, response: Reboot.Response) -> Reboot.Response:
        motors = self._motors(request.cmd_type, request.name)
        if not request.smart_reboot:  # no motor of the twin is ever in error
            self.physics.set_torque(self.side, motors, request.enable)
        return response

    def _on_info(self, request: RobotInfo.Request, response: RobotInfo.Response) -> RobotInfo.Response:
        motors = np.flatnonzero(self._motors(request.cmd_type, request.name))
        limits = JointLimits()
        group = GRIPPER_NAME if len(motors) == 1 and motors[0] == 6 else ARM_GROUP
        response.mode, response.profile_type = self.mode[group]
        for motor in map(int, motors):
            finger = motor == 6
            low, high = ((self.gripper.finger_closed_m, self.gripper.finger_open_m) if finger
                         else (limits.lower[motor], limits.upper[motor]))
            response.joint_names.append('left_finger' if finger else MOTORS[motor])
            response.joint_ids.append((1, 2, 4, 6, 7, 8, 9)[motor])
            response.joint_lower_limits.append(float(low))
            response.joint_upper_limits.append(float(high))
            response.joint_velocity_limits.append(1.0 if finger else VELOCITY_LIMIT)
            response.joint_sleep_positions.append(float(high) if finger else SLEEP[motor])
            response.joint_state_indices.append(motor)
        response.num_joints = len(motors)
        response.name = ['arm', 'all'] if request.name == 'all' else [request.name]
        return response

    def _on_modes(self, request: OperatingModes.Request,
                  response: OperatingModes.Response) -> OperatingModes.Response:
        motors = self._motors(request.cmd_type, request.name)
        if request.mode not in ('position', 'ext_position', 'current_based_position'):
            self._log(f"mode '{request.mode}' is not simulated: position modes are")
            return response
        for part, chosen in ((ARM_GROUP, motors[:6].any()), (GRIPPER_NAME, motors[6])):
            if chosen:
                self.mode[part] = (request.mode, request.profile_type)
        self.physics.set_torque(self.side, motors, True)  # a mode change leaves the torque on
        return response

    def _on_gains(self, request: MotorGains.Request, response: MotorGains.Response) -> MotorGains.Response:
        self._motors(request.cmd_type, request.name)
        self._log('motor gains are not simulated: the model keeps its own')
        return response

    def _on_set_registers(self, request: RegisterValues.Request,
                          response: RegisterValues.Response) -> RegisterValues.Response:
        for motor in np.flatnonzero(self._motors(request.cmd_type, request.name)):
            self.registers[MOTORS[motor], request.reg] = request.value
        return response

    def _on_get_registers(self, request: RegisterValues.Request,
                          response: RegisterValues.Response) -> RegisterValues.Response:
        response.values = [self.registers.get((MOTORS[motor], request.reg), 0)
                           for motor in np.flatnonzero(self._motors(request.cmd_type, request.name))]
        return response

    def _log(self, text: str) -> None:
        self.get_logger().error(text, throttle_duration_sec=5.0)
