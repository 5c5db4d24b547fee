"""The ROS 2 side of :mod:`fpo_ros.hardware.xs_client`: topics and services of the arms' drivers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from interbotix_xs_msgs import srv
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from rclpy.client import Client
from rclpy.node import Node
from sensor_msgs.msg import JointState

from fpo_ros.hardware.xs_types import RawReading
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.configuration import GraphError

_SERVICES = {'torque_enable': srv.TorqueEnable, 'reboot_motors': srv.Reboot, 'get_robot_info': srv.RobotInfo,
             'set_operating_modes': srv.OperatingModes, 'set_motor_pid_gains': srv.MotorGains,
             'set_motor_registers': srv.RegisterValues, 'get_motor_registers': srv.RegisterValues}


class TransportTimeoutError(GraphError, TimeoutError):
    """Nothing came in time; the message says what was awaited."""


class RosXsTransport:
    """Speaks to the drivers of some arms.

    Its methods block: call them from another thread than the one that spins the node.

    :param node: on whose thread replies arrive.
    :param arms: names of the arms, relative to the node's namespace.
    """

    def __init__(self, node: Node, arms: Sequence[str]) -> None:
        self._node, self._lock = node, threading.Lock()
        self._clients: dict[tuple[str, str], Client] = {}
        self._counts = dict.fromkeys(arms, 0)
        self._newest: dict[str, JointState] = {}
        self._outputs = {arm: (node.create_publisher(JointGroupCommand, f'{arm}/commands/joint_group', qos.COMMAND),
                               node.create_publisher(JointSingleCommand, f'{arm}/commands/joint_single', qos.COMMAND))
                         for arm in arms}
        self._inputs = [node.create_subscription(JointState, f'{arm}/joint_states', self._keep(arm), qos.SENSOR)
                        for arm in arms]

    def _keep(self, arm: str) -> Callable[[JointState], None]:
        def keep(message: JointState) -> None:
            with self._lock:
                self._newest[arm] = message
                self._counts[arm] += 1

        return keep

    def reading(self, arm: str, timeout_s: float) -> RawReading:
        """Return a joint_states message that came after this call began."""
        seen = self._counts[arm]
        self.wait_for(lambda: self._counts[arm] > seen, f'{arm}/joint_states', timeout_s)
        with self._lock:
            message = self._newest[arm]
        return RawReading(message.name, message.position, message.velocity, message.effort,
                          convert.nanoseconds(message.header.stamp))

    def send_group(self, arm: str, name: str, values: Sequence[float]) -> None:
        """Publish a command of a group, once the driver listens."""
        self._send(arm, 0, JointGroupCommand(name=name, cmd=list(values)))

    def send_single(self, arm: str, name: str, value: float) -> None:
        """Publish a command of a motor, once the driver listens."""
        self._send(arm, 1, JointSingleCommand(name=name, cmd=value))

    def _send(self, arm: str, which: int, message: Any) -> None:
        output = self._outputs[arm][which]
        if not output.get_subscription_count():
            self.wait_for(output.get_subscription_count, f'the driver of {arm} to listen to {output.topic_name}', 5.0)
        output.publish(message)

    def request(self, arm: str, service: str, timeout_s: float, **fields: Any) -> Any:
        """Call a service of the driver with the fields of its request; return the reply."""
        kind, name = _SERVICES[service], f'{arm}/{service}'
        if (arm, service) not in self._clients:
            self._clients[arm, service] = self._node.create_client(kind, name)
        client = self._clients[arm, service]
        self.wait_for(client.service_is_ready, f'service {name}', timeout_s)
        future = client.call_async(kind.Request(**fields))
        self.wait_for(future.done, f'the answer of service {name}', timeout_s)
        return future.result()

    def close(self) -> None:
        """Leave the topics and services."""
        for output in (output for pair in self._outputs.values() for output in pair):
            self._node.destroy_publisher(output)
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)
        for client in self._clients.values():
            self._node.destroy_client(client)

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        """Wait until a condition holds and return its value.

        :raises TransportTimeoutError: on time-out, saying what was awaited.
        """
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TransportTimeoutError(f'waited {timeout_s:g} s for {what}')
            time.sleep(0.002)
        return value
