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
from rclpy.publisher import Publisher
from sensor_msgs.msg import JointState

from fpo_ros.hardware.xs_types import RawReading
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.configuration import GraphError

#: Time in which nodes of the same domain show up [s].
LOOK_S = 5.0
#: A publisher is discovered before the name of its node is, by less than this [s].
_NAMED_S = 0.5
_COMMANDS = ('joint_group', 'joint_single', 'joint_trajectory')
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
        #: Made with the first command: who only reads and sets registers commands nobody.
        self._outputs: dict[tuple[str, str], Publisher] = {}
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

    def check_uncommanded(self, arm: str, look_s: float | None = None) -> None:
        """Refuse an arm that others command, or may at any time: a controller, whatever its state, or any publisher.

        :param look_s: time in which others are looked for, who may not have been discovered yet [s]; :data:`LOOK_S`
            if None.
        :raises GraphError: naming them.
        """
        until, seen = time.monotonic() + (LOOK_S if look_s is None else look_s), 0.0
        while True:
            for topic in ('controller_status', *(f'{arm}/commands/{name}' for name in _COMMANDS)):
                others = self._others(topic)
                if not others:
                    continue
                seen = seen or time.monotonic()
                if not all(others) and time.monotonic() < seen + _NAMED_S:
                    break
                what = 'the arm controller runs' if topic == 'controller_status' else f'{topic} has a publisher'
                names = ', '.join(sorted(name or 'a node without a name' for name in others))
                raise GraphError(f'{arm}: {what} ({names}), which could move the arm while its motors are set: end it '
                                 'first; one that was killed is listed for up to 20 s')
            else:
                if time.monotonic() >= until:
                    return
            time.sleep(0.05)

    def _others(self, topic: str) -> set[str]:
        """Return the nodes that publish a topic, this one aside; empty names for those whose name is not known yet."""
        found = {'' if 'UNKNOWN' in info.node_name else f'{info.node_namespace.rstrip("/")}/{info.node_name}'
                 for info in self._node.get_publishers_info_by_topic(topic)}
        return found - {self._node.get_fully_qualified_name()}

    def send_group(self, arm: str, name: str, values: Sequence[float]) -> None:
        """Publish a command of a group, once the driver listens."""
        self._send(arm, 'joint_group', JointGroupCommand(name=name, cmd=list(values)))

    def send_single(self, arm: str, name: str, value: float) -> None:
        """Publish a command of a motor, once the driver listens."""
        self._send(arm, 'joint_single', JointSingleCommand(name=name, cmd=value))

    def _send(self, arm: str, which: str, message: Any) -> None:
        if (arm, which) not in self._outputs:
            self._outputs[arm, which] = self._node.create_publisher(type(message), f'{arm}/commands/{which}',
                                                                    qos.COMMAND)
        output = self._outputs[arm, which]
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
        for output in self._outputs.values():
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
