"""Where the controller's commands go: to the followers' drivers or, in a dry run, into the log alone."""

from __future__ import annotations

import array
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand

from fpo_ros.hardware.gripper import GripperCalibration
from fpo_ros.hardware.joints import split_command
from fpo_ros.hardware.names import ARM_GROUP, GRIPPER_NAME, SIDES, group_command_topic, single_command_topic
from fpo_ros.nodes import qos
from fpo_ros.nodes.configuration import LOG_ONLY, SEND
from fpo_ros.nodes.logic.health import WARN, Health
from fpo_ros.policy.contract import JOINT_NAMES

#: Values of the parameter ``commands``.
COMMANDS = (SEND, LOG_ONLY)
#: What a dry run says of itself.
NOTHING_LEAVES = 'log_only: no command is sent'
#: Time between two log lines with targets [s].
_LOGGED_EVERY_S = 1.0


class Drivers:
    """Publishes commands to both followers' drivers.

    :param node: whose publishers these are.
    :param grippers: side → calibration.
    """

    def __init__(self, node: Any, grippers: Mapping[str, GripperCalibration]) -> None:
        self._grippers = grippers
        self._group, self._single = JointGroupCommand(name=ARM_GROUP), JointSingleCommand(name=GRIPPER_NAME)
        self._outputs = {side: (node.add_publisher(JointGroupCommand, group_command_topic(side), qos.COMMAND),
                                node.add_publisher(JointSingleCommand, single_command_topic(side), qos.COMMAND))
                         for side in SIDES}

    def __call__(self, command: np.ndarray) -> None:
        """Send a (14,) command [rad, grippers 0..1]."""
        for side, part in split_command(command, self._grippers).items():
            group, single = self._outputs[side]
            self._group.cmd = array.array('f', part.arm.tobytes())
            self._single.cmd = part.gripper_rad
            group.publish(self._group)
            single.publish(self._single)

    def reason(self, reason: str) -> str:
        """Return the reason of a state as the status says it."""
        return reason

    def health(self) -> list[Health]:
        """Return no line: what is sent shows in the status."""
        return []


class Log:
    """Logs commands now and then; there is no publisher through which one could leave.

    :param logger: of the node.
    """

    def __init__(self, logger: Any) -> None:
        self._logger, self._newest = logger, None
        logger.warning(f'DRY RUN, {NOTHING_LEAVES}. Targets are computed and limited as ever, and the arms count as '
                       'standing where they were last sent; set commands to send, and start anew, to move them')

    def __call__(self, command: np.ndarray) -> None:
        """Show a (14,) command [rad, grippers 0..1]."""
        self._newest = command
        left, right = (', '.join(f'{value:.3f}' for value in half) for half in np.split(command, 2))
        self._logger.info(f'log_only, not sent: left [{left}], right [{right}]',
                          throttle_duration_sec=_LOGGED_EVERY_S)

    def reason(self, reason: str) -> str:
        """Return the reason of a state as the status says it."""
        return f'{reason} ({NOTHING_LEAVES})'

    def health(self) -> list[Health]:
        """Return a warning with the newest target of each joint [rad, grippers 0..1]."""
        targets = {} if self._newest is None else {
            name: round(float(value), 4) for name, value in zip(JOINT_NAMES, self._newest, strict=True)}
        return [Health('commands', WARN, NOTHING_LEAVES, targets)]


def commands_of(node: Any, how: str, grippers: Mapping[str, GripperCalibration]) -> Drivers | Log:
    """Return where commands go.

    :param how: one of :data:`COMMANDS`.
    """
    make: dict[str, Callable[[], Drivers | Log]] = {
        SEND: lambda: Drivers(node, grippers), LOG_ONLY: lambda: Log(node.get_logger())}
    return make[how]()
