"""What buttons mean, and that none that hangs down does anything but stop."""

from __future__ import annotations

import pytest

from fpo_ros.nodes.logic.gamepad import Buttons, Gamepad, Step

S = 1_000_000_000
BUTTONS = Buttons(stop=0, reset=1, hold=2, wishes={'take_over': 3, 'mark_success': 4})


def down(*numbers: int) -> list[int]:
    return [int(number in numbers) for number in range(5)]


def test_the_stop_is_pressed_as_long_as_it_is_down_from_the_first_message_on() -> None:
    pad = Gamepad(BUTTONS)
    assert [pad.step(down(*numbers), 0).pressed for numbers in ((0,), (0,), (), (0, 3))] == [True, True, False, True]


def test_a_wish_is_passed_on_once_per_press() -> None:
    pad = Gamepad(BUTTONS)
    calls = [pad.step(down(*numbers), 0).calls for numbers in ((), (3,), (3,), (3, 4), (), (3,))]
    assert calls == [(), ('take_over',), (), ('operator/mark_success',), (), ('take_over',)]


def test_what_is_down_when_the_device_appears_counts_once_it_was_up() -> None:
    pad = Gamepad(BUTTONS)
    assert pad.step(down(2, 3), 0) == Step(False, False, ()), 'a taped button lets nothing move'
    assert pad.step(down(), 0) == Step(False, False, ())
    assert pad.step(down(2, 3), 0) == Step(False, True, ('take_over',))


@pytest.mark.parametrize(('states', 'times', 'resets'), [
    ([(), (1,), (1,)], [0, 1, 1.99], 0), ([(), (1,), (1,), (1,)], [0, 1, 2, 4], 1),
    ([(), (1,), (), (1,), (1,)], [0, 1, 1.5, 1.6, 2.5], 0), ([(1,), (1,)], [0, 9], 0),
    ([(), (0, 1), (0, 1), (1,)], [0, 1, 3, 4], 0)],
    ids=['too short', 'once', 'let go between', 'from the start', 'while the stop is down'])
def test_a_reset_takes_a_second_with_the_stop_released(states, times, resets) -> None:
    pad = Gamepad(BUTTONS)
    steps = [pad.step(down(*state), int(at * S)) for state, at in zip(states, times, strict=True)]
    calls = [call for step in steps for call in step.calls]
    assert calls == ['reset_emergency_stop'] * resets


def test_a_button_that_the_device_lacks_is_named_and_none_is_allowed() -> None:
    pad = Gamepad(Buttons(0, 1, -1, {'take_over': 3}))
    step = pad.step([1, 0], 0)
    assert step.problem.startswith('take_over is button 3, and the device has 2') and step.pressed, 'the stop works'
    assert not pad.step([0, 0], 0).pressed
    assert Gamepad(Buttons(2, -1, -1)).step([0, 0], 0).pressed, 'a stop that nobody could press'
    pad = Gamepad(Buttons(-1, -1, -1))
    assert pad.step([1, 1], 0) == Step(False, False, ())


@pytest.mark.ros
@pytest.mark.serial
def test_the_node_repeats_the_stop_and_hold_to_run_and_asks_for_what_is_wished(ros) -> None:
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import Joy
    from std_msgs.msg import Bool

    from fpo_ros.nodes import qos
    from fpo_ros.nodes.gamepad import GamepadNode
    from fpo_ros.nodes.ros_client import RosClient

    node, asked = GamepadNode(parameter_overrides=[Parameter('reset_button', value=30)]), []
    node._call = asked.append
    try:
        with RosClient('gamepad_test') as client:
            stop, hold = (client.latest(Bool, name, qos.SENSOR) for name in ('operator_stop', 'hold_to_run'))
            node.trigger_configure()
            node.trigger_activate()
            client.wait_for(lambda: node.count_subscribers('operator_stop') and node.count_subscribers('hold_to_run'),
                            'the node to be heard', 10.0)
            pressed = [0] * 31
            node._on_joy(Joy(buttons=pressed))
            pressed[1] = pressed[5] = pressed[4] = 1

            def repeated() -> bool:  # as joy_node does
                node._on_joy(Joy(buttons=pressed))
                return bool(stop() and stop().data and hold() and hold().data)

            client.wait_for(repeated, 'stop and hold-to-run', 10.0)
            assert asked == ['take_over'] and node.health()[0].level != 2, 'the last messages may have come slowly'
            node._on_joy(Joy(buttons=[0] * 5))
            assert 'reset is button 30, and the device has 5' in node.health()[0].message
    finally:
        node.destroy_node()
