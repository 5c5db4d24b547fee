"""A policy that misbehaves on demand, in place of the policy node."""

from __future__ import annotations

import time

import numpy as np
from tiny_releases import STEADY

from fpo_ros.msg import ActionChunk, ControllerStatus, Observation
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.logic.chunk_gate import ChunkGate
from fpo_ros.nodes.ros_client import RosClient
from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.runtime.timeline import Joining

#: Where both waists are sent in turn [rad].
SWING, WIDE_SWING = 0.25, 0.7
_WAISTS = [0, 7]


class StandIn(RosClient):
    """Answers with chunks that turn both waists to and fro, each to its end, as :attr:`mode` says."""

    def __init__(self) -> None:
        super().__init__('policy_stand_in')
        self.driving = False
        self.mode = ''
        self._gate, self._sequence, self._side = ChunkGate(STEADY), 1000, 1.0
        self._answered_ns = 0
        self.output = self.node.create_publisher(ActionChunk, 'action_chunk', qos.COMMAND)
        self.node.create_subscription(ControllerStatus, 'controller_status', self._on_status, qos.SENSOR)
        self.node.create_subscription(Observation, 'observation', self._on_observation, qos.OBSERVATION)

    def _on_status(self, message: ControllerStatus) -> None:
        self._gate.on_status(convert.nanoseconds(message.header.stamp), message.state == ControllerStatus.STATE_POLICY,
                             message.remaining, message.chunk_sequence, message.chunk_delay)

    def _on_observation(self, message: Observation) -> None:
        if self.driving and self.mode != 'silent' and self._gate.question(
                convert.nanoseconds(message.header.stamp), convert.oldest_part_ns(message), Joining.AFTER):
            self._answer(convert.oldest_part_ns(message), np.array(message.joint_positions))

    def _answer(self, measured_ns: int, joints: np.ndarray) -> None:
        mode, rows, observed_ns = self.mode, np.tile(START_JOINTS, (STEADY.horizon, 1)), measured_ns
        if mode != 'wide' or self._sequence % 3 == 0:  # three chunks are needed for a wide one
            self._side = -self._side
        rows[:, _WAISTS] = self._side * (WIDE_SWING if mode == 'wide' else SWING)
        if mode == 'nan':
            rows[4, 2] = np.nan
        elif mode == 'short':
            rows = rows[:-1]
        elif mode == 'stale':
            observed_ns -= 2_000_000_000
        elif mode == 'slow':
            time.sleep(0.3)
        elif mode == 'jump':
            rows[:, _WAISTS] = joints[_WAISTS] + self._side
        elif mode == 'reordered':
            self._send(rows, self._sequence - 1, self._answered_ns)
        self._sequence += 1
        self._send(rows, self._sequence, observed_ns)
        self._answered_ns = observed_ns
        self._gate.sent(self.node.get_clock().now().nanoseconds, measured_ns, self._sequence, rows)

    def _send(self, rows: np.ndarray, sequence: int, observed_ns: int) -> None:
        self.output.publish(convert.chunk_message(
            rows, sequence=sequence, observation_ns=observed_ns, measured_ns=observed_ns,
            now_ns=self.node.get_clock().now().nanoseconds, version='stand-in', period_s=0.02, inference_s=0.0))
