"""What every node of the graph shares: lifecycle, parameters, diagnostics, threads."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.action import ActionServer
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from fpo_ros.nodes import parameters, qos
from fpo_ros.nodes.logic.health import OK, Health
from fpo_ros.nodes.logic.news import News


class CellNode(LifecycleNode):
    """A lifecycle node: subclasses fill :meth:`setup`, :meth:`start`, :meth:`stop` and :meth:`teardown`.

    Publishers, subscriptions, timers, services and clients made in :meth:`setup` through the ``add_*``
    methods are destroyed on cleanup. A set-up that raises is undone, logged once and refused.
    """

    NAME: ClassVar[str]
    #: Frozen dataclass of :func:`fpo_ros.nodes.parameters.param` fields.
    PARAMETERS: ClassVar[type]

    def __init__(self, **kwargs: Any) -> None:
        self._action_servers: dict[str, ActionServer] = {}  # first: rclpy destroys what could not be made, too
        super().__init__(self.NAME, **kwargs)
        self.declare_parameter('autostart', False, parameters.ParameterDescriptor(
            description='configure and activate by itself at the start', read_only=True))
        parameters.declare(self, self.PARAMETERS)
        self.params: Any = None
        self.active = False
        #: Why the process must end with an error; empty while all is well.
        self.failure = ''
        self._undo: list[Callable[[], Any]] = []
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._news = News()
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.DIAGNOSTICS)
        self._diagnostics_timer = self.create_timer(1.0, self._publish_diagnostics, clock=self._steady)

    # ---- for subclasses

    def setup(self) -> None:
        """Allocate, load, validate and connect; ``self.params`` is set. Raise to refuse."""

    def start(self) -> None:
        """Begin to act."""

    def stop(self) -> None:
        """Stop safely."""

    def teardown(self) -> None:
        """Release what :meth:`setup` made beyond ROS entities; may follow a set-up that failed half-way."""

    def health(self) -> list[Health]:
        """Return the lines this node adds to /diagnostics while configured."""
        return []

    @property
    def finalized(self) -> bool:
        """The lifecycle has ended: the node cannot be used again."""
        return self._state_machine.current_state[1] == 'finalized'

    def fail(self, reason: str) -> None:
        """End the process with exit code 1 after an orderly shutdown. May be called from any thread."""
        self.get_logger().fatal(reason)
        self.failure = reason

    def now_ns(self) -> int:
        """Return ROS time [ns]."""
        return self.get_clock().now().nanoseconds

    def steady_ns(self) -> int:
        """Return an instant of a clock that nobody sets [ns], for what must not depend on ROS time."""
        return self._steady.now().nanoseconds

    def error_once(self, sentence: str) -> None:
        """Log an error that is reported again and again while it lasts, once."""
        if self._news.fresh(sentence, self.steady_ns()):
            self.get_logger().error(sentence)

    def warn_once(self, sentence: str) -> None:
        """Log a warning that is reported again and again while it lasts, once."""
        if self._news.fresh(sentence, self.steady_ns()):
            self.get_logger().warning(sentence)

    def add_publisher(self, *args: Any, **kwargs: Any) -> Any:
        """Create a publisher that lives until cleanup."""
        entity = self.create_publisher(*args, **kwargs)
        self._undo.append(lambda: self.destroy_publisher(entity))
        return entity

    def add_subscription(self, *args: Any, **kwargs: Any) -> Any:
        """Create a subscription that lives until cleanup."""
        entity = self.create_subscription(*args, **kwargs)
        self._undo.append(lambda: self.destroy_subscription(entity))
        return entity

    def add_timer(self, period_s: float, callback: Callable[[], Any]) -> Any:
        """Create a timer that lives until cleanup, paced by the steady clock [s]."""
        entity = self.create_timer(period_s, callback, clock=self._steady)
        self._undo.append(lambda: self.destroy_timer(entity))
        return entity

    def add_service(self, *args: Any, **kwargs: Any) -> Any:
        """Create a service that lives until cleanup."""
        entity = self.create_service(*args, **kwargs)
        self._undo.append(lambda: self.destroy_service(entity))
        return entity

    def add_client(self, *args: Any, **kwargs: Any) -> Any:
        """Create a service client that lives until cleanup."""
        entity = self.create_client(*args, **kwargs)
        self._undo.append(lambda: self.destroy_client(entity))
        return entity

    def keep_action_server(self, action_type: type, name: str, **callbacks: Callable[..., Any]) -> None:
        """Create an action server on the first call; it lives as long as the node, whose goal callback refuses.

        rclpy's events executor crashes the process when an action server is destroyed while goals arrive.

        :param callbacks: ``goal_callback``, ``handle_accepted_callback`` and ``cancel_callback`` of rclpy.
        """
        if name not in self._action_servers:
            self._action_servers[name] = ActionServer(self, action_type, name, execute_callback=lambda goal: None,
                                                      result_timeout=60, **callbacks)

    def on_teardown(self, undo: Callable[[], Any]) -> None:
        """Call a function on cleanup, in the reverse order of registration."""
        self._undo.append(undo)

    def destroy_node(self) -> None:
        """Destroy the node, its action servers and its state; nothing may spin it any more, or ask for its state."""
        while self._action_servers:
            self._action_servers.popitem()[1].destroy()
        super().destroy_node()
        # It holds the node as well, and so the participant, until it is collected as garbage: at exit perhaps never.
        self._state_machine.destroy_when_not_in_use()

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and set up."""
        try:
            self.params = parameters.read(self, self.PARAMETERS)
            self.setup()
        except Exception as error:
            self._complain('cannot configure', error)
            self._tear_down()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to act."""
        try:
            self.start()
        except Exception as error:
            self._complain('cannot activate', error)
            self._guarded('stop', self.stop)
            return TransitionCallbackReturn.FAILURE
        self.active = True
        self.get_logger().info('active')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop safely."""
        self._deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything set up."""
        self._tear_down()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop safely and release everything."""
        self._deactivate()
        self._tear_down()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop safely and release everything."""
        return self.on_shutdown(state)

    def _deactivate(self) -> None:
        if self.active:
            self.active = False
            self._guarded('stop', self.stop)

    def _tear_down(self) -> None:
        self._guarded('teardown', self.teardown)
        while self._undo:
            self._guarded('teardown', self._undo.pop())

    def _guarded(self, what: str, call: Callable[[], Any]) -> None:
        """Run one step of an orderly end; a failure is logged and the next steps still run."""
        try:
            call()
        except Exception as error:
            self._complain(f'{what} failed', error)

    def _complain(self, what: str, error: Exception) -> None:
        self.get_logger().error(f'{what}: {error}')
        if not isinstance(error, (ValueError, OSError)):
            self.get_logger().error(traceback.format_exc())

    # ---- diagnostics

    def _publish_diagnostics(self) -> None:
        state = self._state_machine.current_state[1]
        lines = [Health('lifecycle', OK, state)]
        if self.params is not None and state in ('inactive', 'active'):
            lines += self.health()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        for line in lines:
            status = DiagnosticStatus(level=bytes([line.level]), name=f'{self.get_name()}: {line.part}',
                                      message=line.message, hardware_id=line.hardware_id)
            status.values = [KeyValue(key=key, value=str(value)) for key, value in line.values.items()]
            message.status.append(status)
        self._diagnostics.publish(message)
