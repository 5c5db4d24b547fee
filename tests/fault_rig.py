"""A running cell in which things break: what strikes it, what its arms truly do, what it says."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from fault_policy import StandIn
from interbotix_xs_msgs.srv import Reboot
from sensor_msgs.msg import JointState
from tiny_releases import Releases

from fpo_ros.msg import ControllerStatus
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.client import EpisodeClient
from fpo_ros.nodes.graph import GraphOptions
from fpo_ros.nodes.processes import NodeProcess
from fpo_ros.nodes.up import RunningGraph, running_graph
from fpo_ros.policy.contract import GRIPPER_COLUMNS, START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.srv import InjectFault

#: joint_speed of the configuration [rad/s], and what a servo may add to it while it catches up with a turn.
SPEED, OVERSHOOT = 2.0, 1.25
#: A joint slower than this stands [rad/s]: what is left of 2 rad/s is a servo that creeps to its goal.
STANDS = 0.2
#: What the controller says where joint states stand still, as on a machine that is too busy for a moment.
STALL = r'joint states are [01]\.\d+ s old'
#: What such a moment may do to an episode before a fault strikes, and how often that may be.
BUSY, TRIES = rf'{STALL}|the request is \d\.\d s old|settling took longer|no chunk for', 3
#: Limits are compared with means over so many samples of 10 ms, rest is looked for in fewer.
LONG, SHORT = 20, 2
_ARMS = [column for column in range(14) if column not in GRIPPER_COLUMNS]


@dataclass(frozen=True)
class Motion:
    """What the arms did, from the twin's physics.

    :param at_s: (n,) instants [s].
    :param positions: (n, 12) [rad].
    :param speeds: (n, 12) mean speeds over the :data:`LONG` before [rad/s].
    :param short: (n, 12) the same over the :data:`SHORT` before.
    """

    at_s: np.ndarray
    positions: np.ndarray
    speeds: np.ndarray
    short: np.ndarray

    def last_s(self, joints: list[int]) -> float:
        """Return the instant at which the last of some joints came to rest [s]."""
        moving = (self.short[:, joints] > STANDS).any(axis=1)
        return float(self.at_s[moving][-1]) if moving.any() else float(self.at_s[0])


class FaultRig:
    """A graph whose policy swings both waists all the time, and everything it says.

    :param graph: the processes.
    :param client: of its services.
    :param lines: (instant [s], node, line) of each line that a node prints.
    """

    def __init__(self, graph: RunningGraph, client: EpisodeClient, stand_in: StandIn,
                 lines: list[tuple[float, str, str]], store: Path) -> None:
        self.graph, self.client, self.stand_in, self.lines, self.store = graph, client, stand_in, lines, store
        self._directory = store.parent / 'second'
        self.handle: Any = None
        self.end: Any = None
        self._truth: list[tuple[int, np.ndarray]] = []
        self.health_lines: list[tuple[float, str]] = []
        #: (instant [s], status) of each control period.
        self.statuses: list[tuple[float, ControllerStatus]] = []
        node = client.node
        node.create_subscription(ControllerStatus, 'controller_status', lambda m: self.statuses.append(
            (time.time(), m)), qos.STATUS)
        node.create_subscription(JointState, 'driver_twin/ground_truth', lambda m: self._truth.append(
            (convert.nanoseconds(m.header.stamp), np.array(m.position))), qos.DRIVER)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_health, qos.DIAGNOSTICS)

    def _on_health(self, message: DiagnosticArray) -> None:
        for line in message.status:
            values = ' '.join(f'{value.key}={value.value}' for value in line.values)
            self.health_lines.append((time.time(), f'{line.name}: {line.message} [{values}]'))

    # ---- what is seen

    def motion(self, since_s: float) -> Motion:
        """Return what the arms did since an instant of the clock [s]."""
        truth = [sample for sample in list(self._truth) if sample[0] * 1e-9 >= since_s - 0.01 * (LONG + 1)]
        at_s = np.array([stamp for stamp, _ in truth]) * 1e-9
        positions = np.array([position for _, position in truth])
        if len(truth) <= LONG:
            return Motion(np.empty(0), *[np.empty((0, 12))] * 3)

        def speeds(window: int) -> np.ndarray:
            seconds = np.maximum(at_s[window:] - at_s[:-window], 0.01 * window)  # a late sample is not a fast arm
            return (np.abs(positions[window:] - positions[:-window]) / seconds[:, None])[LONG - window:]

        return Motion(at_s[LONG:], positions[LONG:], speeds(LONG), speeds(SHORT))

    def health(self, pattern: str, since_s: float, timeout_s: float = 4.0) -> None:
        """Wait until /diagnostics say something since an instant."""
        self.client.wait_for(lambda: [text for at, text in list(self.health_lines) if at >= since_s and re.search(
            pattern, text)], f'/diagnostics to say "{pattern}"', timeout_s)

    def said(self, pattern: str, since_s: float) -> list[str]:
        """Return the lines in the log, since an instant, that match."""
        texts = [f'{node}: {line}' for at, node, line in list(self.lines) if at >= since_s]
        return [text for text in texts if re.search(pattern, text)]

    def check_limits(self, since_s: float, free: tuple[int, ...] = ()) -> None:
        """Assert that no joint but those without power left its position limits or was faster than its target may be.

        :param free: columns of the twelve joints whose motor has no torque.
        """
        motion, limits = self.motion(since_s), JointLimits()
        driven = [joint for joint in range(12) if joint not in free]
        assert motion.speeds[:, driven].max() <= SPEED * OVERSHOOT, motion.speeds[:, driven].max(axis=0)
        low, high = limits.lower[_ARMS][driven] - 0.02, limits.upper[_ARMS][driven] + 0.02
        assert (motion.positions[:, driven] >= low).all() and (motion.positions[:, driven] <= high).all()

    def stalled(self, since_s: float) -> bool:
        """Return whether the arms have held, since an instant, because the machine was too busy for joint states."""
        return any(at >= since_s and re.search(STALL, status.reason) for at, status in list(self.statuses))

    # ---- what drives

    def drive(self, stand_in: bool = False) -> None:
        """See to it that an episode runs in which the policy, or what stands in for it, moves the arms."""
        if stand_in != self.stand_in.driving:
            self.end_episode()
        self._choose(stand_in)
        self.stand_in.mode = ''
        for _ in range(TRIES):
            if self._drives():
                return
            message = self.outcome().message
            assert re.search(BUSY, message), f'the episode ended early: {message}'
        raise AssertionError(f'{TRIES} episodes ended before the fault: the machine is too busy')

    def _drives(self) -> bool:
        """Wait until the arms move in an episode, which is started if none runs; returns False where it ends first."""
        if self.ended:
            self.end_episode()
        if self.handle is None:
            self.handle = self.client.start_episode(3, max_steps=100_000, timeout_s=40.0)
            self.end = self.handle.get_result_async()
        begun = time.time()

        def moving() -> bool:
            if self.ended:
                return True
            if self.client.controller_status(20.0).state != ArmState.POLICY:
                return False
            motion = self.motion(max(begun, time.time() - 0.5))
            return len(motion.at_s) > 0 and motion.speeds[-1, 0] > 0.5

        self.client.wait_for(moving, 'the policy to move the arms', 30.0)
        return not self.ended

    @property
    def ended(self) -> bool:
        """Whether the episode that was started has come to its end."""
        return self.handle is not None and self.end.done()

    def _choose(self, stand_in: bool) -> None:
        policy = self.graph.processes['policy']
        if stand_in and policy.running:
            self.graph.signal('policy', signal.SIGKILL)
            self.graph.ended()
        if stand_in:
            self.client.wait_for(self.stand_in.output.get_subscription_count,
                                 'the controller to find the stand-in', 10.0)
        ended = {name for name, process in self.graph.processes.items() if not process.running}
        self.stand_in.driving = stand_in
        if ended - ({'policy'} if stand_in else set()):
            self.start(skip='policy' if stand_in else '')

    def start(self, skip: str = '') -> None:
        """Start what has ended, but for one node, and wait until all others are active."""
        nodes = self.graph.description.nodes
        for spec in nodes:
            if spec.name != skip and not self.graph.processes[spec.name].running:
                self.graph.start_one(spec)
        self.graph.wait_active(60.0, without=(skip,))

    def end_episode(self) -> None:
        """Cancel a running episode."""
        handle, self.handle = self.handle, None
        if handle is None or not self.graph.processes['episode_manager'].running:
            return
        if not self.end.done():
            with contextlib.suppress(Exception):
                self.client.cancel(handle)
            self.client.finish_episode(handle, 20.0)

    def outcome(self, timeout_s: float = 10.0) -> Any:
        """Wait for the end of the running episode."""
        outcome = self.client.finish_episode(self.handle, timeout_s)
        self.handle = None
        return outcome

    # ---- what strikes

    def kill(self, name: str) -> None:
        """kill -9; the launcher's report of it goes to the log."""
        self.graph.signal(name, signal.SIGKILL)
        for sentence in self.graph.ended():
            self.lines.append((time.time(), 'up', sentence))

    def fault(self, fault: str, **fields: Any) -> None:
        """Let something of the simulated drivers break, or mend it."""
        reply = self.client.call(InjectFault, 'driver_twin/inject_fault', InjectFault.Request(fault=fault, **fields))
        assert reply.success, reply.message

    def mend(self) -> None:
        """End all faults of the drivers."""
        self.fault('clear')

    def reboot(self, arm: str, motor: str) -> None:
        """Reboot a motor, which then holds where it is."""
        self.client.call(Reboot, f'{arm}/reboot_motors',
                         Reboot.Request(cmd_type='single', name=motor, enable=True), 10.0)

    def another(self, name: str) -> NodeProcess:
        """Start a second process of a node."""
        spec = next(spec for spec in self.graph.description.nodes if spec.name == name)
        self._directory.mkdir(exist_ok=True)
        return NodeProcess(spec, self._directory, self.graph.domain,
                           lambda node, line: self.lines.append((time.time(), f'second {node}', line)))


@contextlib.contextmanager
def fault_rig(directory: Path) -> Iterator[FaultRig]:
    """Run the cell with two small cameras and a policy that swings both waists while a ``with`` block runs."""
    releases = Releases.make(directory)
    target = np.array(START_JOINTS)
    target[[0, 7]] = 0.2
    releases.publish(target, swing=0.6)
    store = directory / 'episodes'
    options = GraphOptions(
        policy=str(releases.path / 'v000001'), trusted_keys=str(releases.keys), releases=str(releases.path),
        record_dir=str(store), cameras='cam_high,cam_low',
        parameters={'driver_twin': {'camera_rate': 10.0, 'image_height': 48, 'image_width': 64, 'ground_truth': True},
                    'camera_ingest': {'image_height': 48, 'image_width': 64},
                    'arm_controller': {'starve_limit': 1.0, 'max_lead': 0.5, 'homing_joint_speed': 2.0,
                                       'temperature_period': 0.1}})
    lines: list[tuple[float, str, str]] = []
    with running_graph(options, sink=lambda node, line: lines.append((time.time(), node, line))) as graph:
        with EpisodeClient() as client, StandIn() as stand_in:
            rig = FaultRig(graph, client, stand_in, lines, store)
            try:
                yield rig
            finally:
                rig.end_episode()
