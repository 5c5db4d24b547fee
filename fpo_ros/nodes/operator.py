"""The operator's desk: asks a person to reset the scene, and gives their judgement as the task's reward."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from std_srvs.srv import Trigger

from fpo_ros.msg import ControllerStatus, OperatorStatus, TaskReward
from fpo_ros.nodes import qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.logic.health import OK, WARN, Health
from fpo_ros.nodes.logic.operator import OperatorDesk, OperatorState
from fpo_ros.nodes.logic.rivals import Followed
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.running import run_node
from fpo_ros.policy.contract import TASKS
from fpo_ros.srv import ResetScene

#: Rewards per second; the episode manager takes their silence for a lost judge [Hz].
REWARD_RATE_HZ = 50.0
#: Staged reward of a task that is done [0..4].
DONE_STAGE = 4


@dataclass(frozen=True)
class OperatorParameters:
    """Parameters of ``operator``."""

    task: str = param('transfer_cube', 'task of the cell', choices=tuple(TASKS))
    ask_limit: float = param(5.0, 'a reset that nobody asks for again within this time is withdrawn [s]',
                             low=1.0, high=60.0)


class Operator(CellNode):
    """Stands where simulation or an instrumented cell has a judge; :class:`OperatorDesk` decides."""

    NAME = 'operator'
    PARAMETERS = OperatorParameters

    def setup(self) -> None:
        """Offer the services of the scene and of the person."""
        self.desk = OperatorDesk(self.params.task, self.params.ask_limit)
        self.shown: tuple = ()
        self.reward_output = self.add_publisher(TaskReward, 'task_reward', qos.STATUS)
        self.status_output = self.add_publisher(OperatorStatus, '~/status', qos.LATCHED)
        self.followed = Followed()
        self.add_subscription(ControllerStatus, 'controller_status', self._on_status, qos.SENSOR)
        self.add_service(ResetScene, 'reset_scene', self._on_reset)
        self.add_service(Trigger, '~/confirm_reset', self._on_confirm)
        self.add_service(Trigger, '~/mark_success', lambda request, response: self._on_mark(True, response))
        self.add_service(Trigger, '~/mark_failure', lambda request, response: self._on_mark(False, response))
        self.add_timer(1 / REWARD_RATE_HZ, self._tick)
        self.add_timer(1.0, self._publish_status)

    def _on_status(self, message: ControllerStatus) -> None:
        if not self.followed.sent(message.ticks, self.steady_ns()):
            return
        self.desk.follow(message.state in (ControllerStatus.STATE_POLICY, ControllerStatus.STATE_TELEOP))

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        if not self.active:
            response.message = 'the operator node is not active'
            return response
        answer = self.desk.ask_reset(request.task, request.seed, self.steady_ns())
        response.success, response.pending, response.message = answer.success, answer.pending, answer.message
        self._show()
        return response

    def _on_confirm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self.desk.confirm(self.steady_ns())
        return self._said('reset', response)

    def _on_mark(self, success: bool, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self.desk.mark(success)
        return self._said('success' if success else 'failure', response)

    def _said(self, what: str, response: Trigger.Response) -> Trigger.Response:
        text = f'operator: {what}' if response.success else f'operator: {what} refused: {response.message}'
        self.get_logger().info(text)
        self._show()
        return response

    def _tick(self) -> None:
        if not self.active:
            return
        desk = self.desk
        desk.tick(self.steady_ns())
        reward = TaskReward(task=desk.task, stage=DONE_STAGE if desk.success else 0,
                            success=desk.success, failure=desk.failure)
        reward.header.stamp = self.get_clock().now().to_msg()
        self.reward_output.publish(reward)
        self._show()

    def _show(self) -> None:
        """Tell what is wanted, once per change: in the log and as a latched status."""
        desk = self.desk
        now = (desk.state, desk.request, desk.seed)
        if now == self.shown:
            return
        if desk.request and now[1:] != self.shown[1:]:
            self.get_logger().info(f'please {desk.request}')
        self.shown = now
        self._publish_status()

    def _publish_status(self) -> None:
        desk = self.desk
        status = OperatorStatus(state=int(desk.state), request=desk.request, task=desk.task, seed=desk.seed,
                                success=desk.success, failure=desk.failure)
        status.header.stamp = self.get_clock().now().to_msg()
        self.status_output.publish(status)

    def health(self) -> list[Health]:
        """Return what is wanted from the person: a warning while the cell waits for them."""
        desk = self.desk
        waits = desk.state is OperatorState.RESET and bool(desk.request)
        return [Health('operator', WARN if waits else OK, desk.request or desk.state.name.lower(), {'seed': desk.seed})]


def main() -> int:
    """Run the node."""
    return run_node(Operator)


if __name__ == '__main__':
    sys.exit(main())
