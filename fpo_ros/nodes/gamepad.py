"""A gamepad or pedal at the cell: emergency stop, hold to run, and the operator's wishes, from sensor_msgs/Joy."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from sensor_msgs.msg import Joy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from fpo_ros.nodes import qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.logic.gamepad import WISHES, Buttons, Gamepad
from fpo_ros.nodes.logic.health import Health, StreamMonitor
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.running import run_node

#: Messages per second: the autorepeat_rate of joy_node [Hz].
RATE_HZ = 20.0
#: Silence of the device that is a fault [s].
SILENCE_S = 0.5


@dataclass(frozen=True)
class GamepadParameters:
    """Parameters of ``gamepad``: numbers of buttons, -1 for none. The defaults are those of an Xbox pad."""

    stop_button: int = param(1, 'emergency stop, as long as it is down (B)', low=-1, high=63)
    reset_button: int = param(7, 'held for a second, resets a latched emergency stop (menu)', low=-1, high=63)
    hold_button: int = param(5, 'arms may move only while it is down, where arm_controller has a hold_to_run_limit '
                             '(right bumper)', low=-1, high=63)
    take_over_button: int = param(4, 'an operator takes the arms over by the leaders (left bumper)', low=-1, high=63)
    hand_back_button: int = param(6, 'and gives them back (view)', low=-1, high=63)
    confirm_reset_button: int = param(3, 'the scene is reset (Y)', low=-1, high=63)
    mark_success_button: int = param(0, 'the episode is a success (A)', low=-1, high=63)
    mark_failure_button: int = param(2, 'the episode is a failure (X)', low=-1, high=63)


class GamepadNode(CellNode):
    """Passes on what the device's buttons mean; :class:`Gamepad` decides."""

    NAME = 'gamepad'
    PARAMETERS = GamepadParameters

    def setup(self) -> None:
        """Connect to the device and to those who take its word."""
        p = self.params
        self.buttons = Buttons(p.stop_button, p.reset_button, p.hold_button,
                               {name: getattr(p, f'{name}_button') for name in WISHES})
        self.gamepad = Gamepad(self.buttons)
        self.monitor = StreamMonitor('joy', RATE_HZ, SILENCE_S)
        self.stop_output = self.add_publisher(Bool, 'operator_stop', qos.EVENT)
        self.hold_output = self.add_publisher(Bool, 'hold_to_run', qos.COMMAND)
        self.wishes = {name: self.add_client(Trigger, name) for name in (*WISHES.values(), 'reset_emergency_stop')}
        self.add_subscription(Joy, 'joy', self._on_joy, qos.SENSOR)

    def start(self) -> None:
        """Begin anew: buttons that are down now count once they were up."""
        self.gamepad = Gamepad(self.buttons)

    def _on_joy(self, message: Joy) -> None:
        if not self.active:
            return
        self.monitor.arrived(self.steady_ns())
        step = self.gamepad.step(message.buttons, self.steady_ns())
        if step.problem:
            self.monitor.reject(step.problem)
            self.get_logger().error(step.problem, throttle_duration_sec=5.0)
        self.stop_output.publish(Bool(data=step.pressed))
        self.hold_output.publish(Bool(data=step.held))
        for name in step.calls:
            self._call(name)

    def _call(self, name: str) -> None:
        client = self.wishes[name]
        if not client.service_is_ready():
            self.get_logger().error(f'{name}: nobody serves it')
            return

        def answered(future: object) -> None:
            reply = future.result()
            self.get_logger().info(f'{name}: {"done" if reply.success else f"refused: {reply.message}"}')

        client.call_async(Trigger.Request()).add_done_callback(answered)

    def health(self) -> list[Health]:
        """Return the stream of the device."""
        return [self.monitor.health(self.steady_ns())]


def main() -> int:
    """Run the node."""
    return run_node(GamepadNode)


if __name__ == '__main__':
    sys.exit(main())
