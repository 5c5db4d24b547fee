"""A plain node with its own context on a background thread: what tools use to talk to a graph."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rclpy.task import Future

from fpo_ros.nodes.graph import GraphError
from fpo_ros.nodes.running import make_executor

T = TypeVar('T', bound='RosClient')
#: Fast DDS maps domains above this to ports that do not exist (DDSI-RTPS, default port mapping).
LARGEST_DOMAIN = 232


def domain_of_environment() -> int:
    """Return ROS_DOMAIN_ID, 0 if unset.

    :raises GraphError: if it is not 0..232.
    """
    text = os.environ.get('ROS_DOMAIN_ID') or '0'
    if not text.isdecimal() or int(text) > LARGEST_DOMAIN:
        raise GraphError(f"ROS_DOMAIN_ID is '{text}': use a number from 0 to {LARGEST_DOMAIN}")
    return int(text)


def as_bytes(message: Any) -> bytes:
    """Return a message as it travels, which every publisher of its type takes, too."""
    return serialize_message(message)


class RosClient:
    """A node that is spun on its own thread while the caller's thread waits for things, each with a time-out.

    :param name: name of the node.
    :param namespace: namespace of the cell.
    :param domain: ROS domain; None: that of the environment.
    """

    def __init__(self, name: str, namespace: str = '/', domain: int | None = None) -> None:
        self.domain = domain_of_environment() if domain is None else domain
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=self.domain,
                   signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self.node = Node(name, namespace=namespace, context=self.context, start_parameter_services=False,
                         enable_rosout=False)
        self._closing = False
        self._changed = threading.Condition()
        self._connect()
        self._executor = make_executor(self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _connect(self) -> None:
        """Make what the thread must not see half made, such as rclpy's action clients."""

    def _disconnect(self) -> None:
        """Destroy what rclpy must not lose while the thread spins: an answer to a destroyed action client is fatal."""

    def close(self) -> None:
        """End the thread and leave the graph."""
        if self._closing:
            return
        self._closing = True
        self._thread.join()
        self._disconnect()
        self.node.destroy_node()
        self._executor.shutdown()
        self.context.try_shutdown()

    def latest(self, message_type: type, topic: str, qos: QoSProfile) -> Callable[[], Any]:
        """Subscribe a topic; the returned function gives its newest message, or None."""
        held: list[Any] = [None]

        def keep(message: Any) -> None:
            with self._changed:
                held[0] = message
                self._changed.notify_all()

        self.node.create_subscription(message_type, topic, keep, qos)
        return lambda: held[0]

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
        """Wait until a condition is true and return its value.

        :param what: what is awaited, for the error.
        :param timeout_s: longest wait [s].
        :raises GraphError: on time-out, saying what was awaited.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (value := condition()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise GraphError(f'waited {timeout_s:g} s for {what}')
                self._changed.wait(min(left, 0.05))
        return value

    def result(self, future: Future, what: str, timeout_s: float) -> Any:
        """Wait for a future.

        :raises GraphError: on time-out, saying what was awaited.
        """
        self.wait_for(future.done, what, timeout_s)
        return future.result()

    def call(self, service_type: type, name: str, request: Any, timeout_s: float = 5.0) -> Any:
        """Call a service once and return its response.

        :param request: or what makes it as soon as the service is there, for one that says when it was asked.

        :raises GraphError: when it is absent or silent for ``timeout_s`` [s].
        """
        client = self.node.create_client(service_type, name)
        try:
            self.wait_for(client.service_is_ready, f'service {name}', timeout_s)
            future = client.call_async(request() if callable(request) else request)
            return self.result(future, f'the answer of service {name}', timeout_s)
        finally:
            self.node.destroy_client(client)

    def _spin(self) -> None:
        while not self._closing:
            self._executor.spin_once(timeout_sec=0.05)
