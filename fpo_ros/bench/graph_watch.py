"""What passes through a running graph, noted with the instants of its arrival."""

from __future__ import annotations

import threading
from typing import Any

from interbotix_xs_msgs.msg import JointGroupCommand
from sensor_msgs.msg import JointState

from fpo_ros.bench.graph_figures import Chunk, Tick
from fpo_ros.hardware.names import group_command_topic, joint_states_topic
from fpo_ros.msg import ActionChunk, ControllerStatus, Observation
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.client import EpisodeClient
from fpo_ros.runtime.controller_config import ArmState

#: The arm whose commands and joint states are looked at.
SIDE = 'left'


class Watch:
    """Subscribes to the graph of a client and notes what comes."""

    def __init__(self, client: EpisodeClient) -> None:
        self._clock, self._lock = client.node.get_clock(), threading.Lock()
        self._command_ns = 0
        self._observations: dict[int, int] = {}
        self._ticks: list[Tick] = []
        self._chunks: list[Chunk] = []
        self._joints_ns = 0
        node = client.node
        node.create_subscription(JointGroupCommand, group_command_topic(SIDE), self._on_command, qos.SENSOR)
        node.create_subscription(ControllerStatus, 'controller_status', self._on_status, qos.STATUS)
        node.create_subscription(Observation, 'observation', self._on_observation, qos.SENSOR)
        node.create_subscription(ActionChunk, 'action_chunk', self._on_chunk, qos.COMMAND)
        node.create_subscription(JointState, joint_states_topic(SIDE), self._on_joints, qos.SENSOR)

    @property
    def joints_ns(self) -> int:
        """Stamp of the newest joint states [ns]."""
        return self._joints_ns

    def ticks(self, since: int = 0) -> list[Tick]:
        """Return the control periods seen from the one with that number in this list on."""
        with self._lock:
            return self._ticks[since:]

    def seen(self) -> tuple[list[Tick], list[Chunk], dict[int, int]]:
        """Return periods, chunks, and when observations arrived by their stamps, so far."""
        with self._lock:
            return list(self._ticks), list(self._chunks), dict(self._observations)

    def _now_ns(self) -> int:
        return self._clock.now().nanoseconds

    def _on_command(self, message: JointGroupCommand) -> None:
        self._command_ns = self._now_ns()

    def _on_status(self, message: ControllerStatus) -> None:
        stamp = convert.nanoseconds(message.header.stamp)
        sent = self._command_ns if self._command_ns >= stamp else None
        tick = Tick(message.ticks, stamp, message.missed_ticks, ArmState(message.state), message.remaining,
                    message.chunk_sequence, tuple(message.command), sent)
        with self._lock:
            self._ticks.append(tick)

    def _on_observation(self, message: Observation) -> None:
        stamp, now = convert.nanoseconds(message.header.stamp), self._now_ns()
        with self._lock:
            self._observations[stamp] = now

    def _on_chunk(self, message: Any) -> None:
        chunk = Chunk(message.sequence, convert.nanoseconds(message.observation_stamp),
                      convert.nanoseconds(message.header.stamp), self._now_ns(), round(message.inference_time * 1e9))
        with self._lock:
            self._chunks.append(chunk)

    def _on_joints(self, message: JointState) -> None:
        self._joints_ns = convert.nanoseconds(message.header.stamp)
