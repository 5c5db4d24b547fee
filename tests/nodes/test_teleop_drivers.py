"""What the node teleop asks the leaders' drivers, and what it makes of their answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.hardware.names import ARM_GROUP, GRIPPER_NAME  # noqa: E402
from fpo_ros.hardware.xs import MODES, MOTORS  # noqa: E402
from fpo_ros.nodes.logic.leaders import Order  # noqa: E402
from fpo_ros.nodes.teleop import Teleop  # noqa: E402

pytestmark = pytest.mark.ros


class Driver:
    """A leader's driver with torque, whose motors are in one mode."""

    def __init__(self, mode: str) -> None:
        self.mode, self.asked = mode, []

    def register(self, name: str, register: str) -> dict[str, int]:
        assert (name, register) == (ARM_GROUP, 'Operating_Mode')
        return dict.fromkeys(MOTORS[:6], MODES[self.mode])

    def errors(self) -> dict[str, tuple[str, ...]]:
        return {}

    def torques(self) -> dict[str, bool]:
        return dict.fromkeys(MOTORS, True)

    def set_mode(self, name: str, mode: str, *profile: Any) -> None:
        self.mode = mode
        self.asked.append(('mode', name, mode))

    def set_torque(self, name: str, enable: bool) -> None:
        self.asked.append(('torque', name, enable))


@pytest.fixture
def node():
    """The node's part that talks to drivers; no gravity compensation runs."""
    words: list[str] = []
    found = SimpleNamespace(drivers={'left': Driver('position'), 'right': Driver('position')}, words=words,
                            _compensated=lambda side: False, _without_angles=Teleop._without_angles,
                            get_logger=lambda: SimpleNamespace(warning=words.append))
    return found


def test_leaders_that_gravity_compensation_left_in_current_mode_get_angles_before_torque(node) -> None:
    node.drivers['left'].mode = 'current'
    for side in ('left', 'right'):
        Teleop._carry_out(node, Order.ENGAGE, side)
    assert node.drivers['left'].asked == [('mode', ARM_GROUP, 'position'), ('torque', ARM_GROUP, True),
                                          ('torque', GRIPPER_NAME, False)]
    assert node.drivers['right'].asked == [('torque', ARM_GROUP, True), ('torque', GRIPPER_NAME, False)]
    assert len(node.words) == 1 and 'leader_left: waist, shoulder' in node.words[0]


def test_a_leader_that_sags_in_current_mode_was_not_grabbed(node) -> None:
    Teleop._look(node)
    node.drivers['right'].mode = 'current'
    with pytest.raises(RuntimeError, match='leader_right is not let go, and does not take over: waist takes no angles'):
        Teleop._look(node)
