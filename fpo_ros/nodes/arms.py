"""Sequences of both followers beside their control: prepare, reboot, home, park, rest; the ArmSequence action."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from rclpy.action import CancelResponse, GoalResponse
from std_msgs.msg import Empty

from fpo_ros.action import ArmSequence
from fpo_ros.hardware.modes import load_modes
from fpo_ros.hardware.names import FOLLOWERS, SIDES
from fpo_ros.hardware.xs_client import AlohaClient
from fpo_ros.msg import ControllerStatus
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.goals import conclude
from fpo_ros.nodes.locate import share_path
from fpo_ros.nodes.logic.health import ERROR, OK, Health
from fpo_ros.nodes.logic.rivals import Followed
from fpo_ros.nodes.logic.sequences import SEQUENCES, SequenceError, Sequences
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.running import run_node
from fpo_ros.nodes.xs_transport import RosXsTransport
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.srv import SetControllerState

#: Statuses of the controller that are older than this tell nothing [s].
FRESH_S = 0.5
#: Longest wait for an answer of the controller, and for a motion to end [s].
ANSWER_S, MOTION_S = 5.0, 60.0
#: Time a sequence that is running has to end when the node is deactivated [s].
JOIN_LIMIT_S = 5.0


class _Canceled(Exception):
    """A client does not want the sequence any more."""


@dataclass(frozen=True)
class ArmsParameters:
    """Parameters of ``arms``."""

    left_mode_configs: str = param('', "mode file of the left follower's driver; empty: that of this package")
    right_mode_configs: str = param('', 'the same of the right one')
    hottest: float = param(60.0, 'motors that are hotter are not put to work [degrees Celsius]', low=30.0, high=75.0)


class Arms(CellNode):
    """Carries out one sequence at a time on a thread of its own; :class:`Sequences` knows how."""

    NAME = 'arms'
    PARAMETERS = ArmsParameters

    def setup(self) -> None:
        """Connect to both drivers and to the controller."""
        p = self.params
        names = [FOLLOWERS[side] for side in SIDES]
        self.settings = {FOLLOWERS[side]: load_modes(getattr(p, f'{side}_mode_configs') or share_path(
            f'config/follower_{side}_modes.yaml')) for side in SIDES}
        transport = RosXsTransport(self, names)
        self.on_teardown(transport.close)
        self.drivers = AlohaClient(transport, names).arms
        self.followed = Followed()
        self.status: ControllerStatus | None = None
        self.goal: Any = None
        self.worker: threading.Thread | None = None
        self.canceled = threading.Event()
        self.newest = ('', '')
        self.add_subscription(ControllerStatus, 'controller_status', self._on_status, qos.STATUS)
        self.controller = self.add_client(SetControllerState, 'set_controller_state')
        self.heartbeat = self.add_publisher(Empty, 'episode_heartbeat', qos.SENSOR)
        self.keep_action_server(ArmSequence, 'arm_sequence', goal_callback=self._on_goal,
                                handle_accepted_callback=self._on_accepted, cancel_callback=self._on_cancel)

    def stop(self) -> None:
        """End a running sequence between two of its steps."""
        self.canceled.set()
        if self.worker is not None:
            self.worker.join(JOIN_LIMIT_S)

    def _on_status(self, message: ControllerStatus) -> None:
        if self.followed.sent(message.ticks, self.steady_ns()):
            self.status = message

    def _on_goal(self, request: ArmSequence.Goal) -> GoalResponse:
        reason = 'the node is not active' if not self.active else 'another sequence is running' if self.goal else ''
        if reason:
            self.get_logger().error(f'sequence {request.sequence} refused: {reason}')
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, goal: Any) -> CancelResponse:
        self.canceled.set()
        return CancelResponse.ACCEPT

    def _on_accepted(self, goal: Any) -> None:
        self.goal = goal
        self.canceled.clear()
        self.worker = threading.Thread(target=self._work, args=(goal,), name='sequence', daemon=True)
        self.worker.start()

    def _work(self, goal: Any) -> None:
        name, problem = goal.request.sequence, ''
        sequences = Sequences(self.drivers, self, self.settings, self.params.hottest)
        try:
            for step in sequences.steps(name):
                self.get_logger().info(f'{name}: {step}')
                goal.publish_feedback(ArmSequence.Feedback(step=step))
                if self.canceled.is_set():
                    raise _Canceled
        except _Canceled:
            problem = 'canceled'
        except (RuntimeError, ValueError, TimeoutError) as error:  # SequenceError, XsError, TransportTimeoutError
            problem = str(error)
        if problem:
            self.get_logger().error(f'{name} ended: {problem}')
        self.newest = (name, problem)
        result, self.goal = ArmSequence.Result(success=not problem, message=problem), None
        conclude(goal, result, succeeded=not problem, canceled=problem == 'canceled')

    # ---- the controller, as a sequence sees it

    def state(self) -> ArmState:
        """Return the controller's state."""
        status = self.status
        if status is None or (self.now_ns() - convert.nanoseconds(status.header.stamp)) * 1e-9 > FRESH_S:
            raise SequenceError('nothing is heard of arm_controller: is it running?')
        state = convert.arm_state(status.state)
        if state is None:
            raise SequenceError(f'arm_controller is in state {status.state}, which is unknown here: see that both are '
                                'of the same version')
        return state

    def ask(self, state: ArmState, reason: str) -> None:
        """Ask the controller for a state and wait until it is in it."""
        until = time.monotonic() + ANSWER_S
        self._poll(self.controller.service_is_ready, 'set_controller_state to be served', until)
        future = self.controller.call_async(SetControllerState.Request(
            state=int(state), reason=reason, supervised=True, stamp=self.get_clock().now().to_msg()))
        self._poll(future.done, 'the answer of arm_controller', until)
        if not future.result().success:
            raise SequenceError(f'arm_controller refused {state.name}: {future.result().message}')
        self._poll(lambda: self.state() is state, f'arm_controller to be in {state.name}', until)

    def ended(self, state: ArmState) -> str:
        """Wait until the controller leaves a state; a client who cancels makes the arms hold."""
        try:
            self._poll(lambda: self.state() is not state, f'{state.name} to end', time.monotonic() + MOTION_S,
                       cancelable=True)
        except _Canceled:
            self.ask(ArmState.HOLD, 'sequence canceled')
            raise
        return self.status.reason

    def _poll(self, condition: Any, what: str, until: float, *, cancelable: bool = False) -> None:
        """Wait for something, and be heard meanwhile: arms that this node lets move hold where it is not any more."""
        while not condition():
            self.heartbeat.publish(Empty())
            if cancelable and self.canceled.is_set():
                raise _Canceled
            if time.monotonic() > until:
                raise SequenceError(f'waited in vain for {what}')
            time.sleep(0.02)

    def health(self) -> list[Health]:
        """Return the sequence that runs, or how the newest one ended."""
        goal, (name, problem) = self.goal, self.newest
        if goal is not None:
            return [Health('sequence', OK, f'{goal.request.sequence}: running')]
        return [Health('sequence', ERROR if problem and problem != 'canceled' else OK,
                       f'{name}: {problem or "done"}' if name else 'idle', {'known': ', '.join(SEQUENCES)})]


def main() -> int:
    """Run the node."""
    return run_node(Arms)


if __name__ == '__main__':
    sys.exit(main())
