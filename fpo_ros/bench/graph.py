"""The whole graph with simulated arms beside bare nodes: pace of commands, latency by stages, cameras, holding."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from fpo_ros.bench import graph_cameras
from fpo_ros.bench.graph_figures import (
    MEANING,
    STAGES,
    answers,
    hold_after_joints,
    hold_after_rows,
    latencies,
    percentile,
)
from fpo_ros.bench.graph_peers import Peer
from fpo_ros.bench.graph_watch import SIDE, Watch
from fpo_ros.demo.display import Display
from fpo_ros.demo.pace import ControlPeriods
from fpo_ros.hardware.names import FOLLOWERS
from fpo_ros.nodes.client import EpisodeClient
from fpo_ros.nodes.graph import GraphError, GraphOptions, describe, of_release
from fpo_ros.nodes.ros_client import domain_of_environment
from fpo_ros.nodes.up import running_graph
from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.srv import InjectFault

#: Longest episode, as in training [control periods].
MAX_STEPS = 300
#: How often each loss is tried, and how long the arms are watched after it [s].
LOSSES, WATCHED_S = 3, 0.7
#: How long the joint states of an arm stay away [s].
SILENCE_S = 1.5
#: Time in which the policy drives after an episode was asked for, and in which one ends [s].
_DRIVING_LIMIT_S, _END_LIMIT_S = 30.0, 20.0


@dataclass(frozen=True)
class Measured:
    """What a run gave.

    :param figures: with the keys ``graph_figures.KEYS``.
    :param stages: of every chunk [ms].
    :param chunk_rate_hz: chunks while the policy drove [Hz].
    :param bare_transport_p99_ms: of the bare nodes [ms].
    :param bare_drop_fraction: of camera frames, at the bare subscriber.
    :param priority: whether the controller's thread has real-time priority.
    """

    figures: dict[str, Any]
    stages: list[dict[str, float]]
    chunk_rate_hz: float
    bare_transport_p99_ms: float
    bare_drop_fraction: float
    priority: bool


def measure(seconds: float, release: Path, keys: Path, display: Display, losses: int = LOSSES) -> Measured:
    """Run a graph with a release, then the cameras, each for so long, and return the figures.

    :param seconds: [s].
    :param release: directory of a release of a policy of states, signed with one of ``keys``.
    :param losses: how often chunks, and how often joint states, are made to stay away.
    :raises fpo_ros.nodes.graph.GraphError: when the graph does not start, or an episode does not run.
    :raises RuntimeError: when a bare node ends.
    """
    domain, namespace = domain_of_environment(), f'/bench_{os.getpid()}'
    lines: list[str] = []
    options = of_release(GraphOptions(policy=str(release), trusted_keys=str(keys), learner=False, namespace=namespace,
                                      parameters={'policy': {'require_promotion': False}}))
    display.line('starting the graph and bare nodes')
    with running_graph(options, domain=domain, sink=lambda node, line: lines.append(line)), \
            EpisodeClient(namespace, domain) as client:
        run = GraphRun(client, options)
        figures, stages, chunk_rate, bare_p99 = of_running(run, seconds, losses, display)
    with tempfile.TemporaryDirectory(prefix='fpo_ros-bench-') as directory, \
            display.bar('seconds of four cameras, the graph stopped', round(seconds)) as bar:
        cameras = graph_cameras.measure(seconds, namespace, domain, Path(directory), lambda s: bar.update(round(s)))
    bare_drop = cameras.pop('bare_drop_fraction')
    priority = not any('no real-time priority' in line for line in lines)
    return Measured(figures | cameras | {'seconds': seconds}, stages, chunk_rate, bare_p99, bare_drop, priority)


def of_running(run: GraphRun, seconds: float, losses: int,
               display: Display) -> tuple[dict[str, Any], list[dict[str, float]], float, float]:
    """Measure a graph that runs, beside bare nodes; its policy must be active, and no episode run.

    :returns: figures but those of cameras, stages of chunks [ms], chunks per second, and p99 of bare transport [ms].
    """
    client = run.client
    environment, namespace = os.environ | {'ROS_DOMAIN_ID': str(client.domain)}, client.node.get_namespace()
    with contextlib.ExitStack() as stack:
        loop, echo = (stack.enter_context(contextlib.closing(Peer(role, (namespace,), environment)))
                      for role in ('loop', 'echo'))
        with display.bar('seconds of the running graph', round(seconds)) as bar:
            found = _run(run, loop, echo, seconds, bar.update)
    display.line(f'{losses} losses of chunks and of joint states')
    found[0]['hold_reaction_ms'] = max(max(run.lose_chunks(), run.lose_joints()) for _ in range(losses))
    return found


def _run(run: GraphRun, loop: Peer, echo: Peer, seconds: float,
         update: Callable[[int], None]) -> tuple[dict[str, Any], list[dict[str, float]], float, float]:
    """Run episodes for so long; return figures, stages of chunks, chunks per second, and p99 of bare transport."""
    episodes = run.episodes()
    next(episodes)
    loop.ask()
    echo.ask()
    first, begun = len(run.watch.ticks()), time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        update(round(passed))
        next(episodes)
    bare, transport = loop.ask(), echo.ask()
    ticks, chunks, observations = run.watch.seen()
    episodes.close()
    ours, baseline = ControlPeriods(1 / CONTROL_RATE_HZ), ControlPeriods(1 / CONTROL_RATE_HZ)
    for tick in ticks[first:]:
        ours.add(tick.ticks, tick.stamp_ns, tick.missed)
    for one in bare:
        baseline.add(*one)
    if not transport:
        raise RuntimeError('no message came back from the bare nodes: is the machine overloaded?')
    ours, baseline = ours.summary(), baseline.summary()
    bare_ms = percentile(transport, 50)
    stages = answers(chunks, observations, ticks[first:])
    driven_s = sum(tick.state is ArmState.POLICY for tick in ticks[first:]) / CONTROL_RATE_HZ
    figures = {name: ours[name] for name in ('command_rate_hz', 'command_jitter_p99_ms', 'missed_ticks')}
    figures |= latencies(stages, bare_ms)
    figures |= {'bare_rate_hz': baseline['command_rate_hz'], 'bare_jitter_p99_ms': baseline['command_jitter_p99_ms'],
                'bare_missed_ticks': baseline['missed_ticks'], 'bare_transport_p50_ms': bare_ms}
    return figures, stages, len(stages) / max(driven_s, 1e-9), percentile(transport, 99)


class GraphRun:
    """A graph whose episodes are run, and whose policy and joint states are made to stay away.

    :param client: of the graph.
    :param options: what was started.
    """

    def __init__(self, client: EpisodeClient, options: GraphOptions) -> None:
        self.client, self.watch, self._seed = client, Watch(client), 0
        controller = next(spec for spec in describe(options).nodes if spec.name == 'arm_controller')
        self._joint_limit_s = controller.parameters['max_joint_age']

    def episodes(self) -> Iterator[None]:
        """Run an episode after another; gives once the policy drives, and then every tenth of a second."""
        while True:
            with self._driving() as ended:
                while not ended():
                    yield
                    time.sleep(0.1)

    @contextlib.contextmanager
    def _driving(self) -> Iterator[Callable[[], bool]]:
        """Run an episode, which is canceled if it has not ended; gives what says whether it has."""
        self._seed += 1
        handle = self.client.start_episode(self._seed, max_steps=MAX_STEPS, record=False)
        end = handle.get_result_async()

        def follows() -> bool:
            status = self.client.controller_status()
            if end.done():
                raise GraphError(f'an episode did not run: {end.result().result.message}')
            return status.state == ArmState.POLICY and status.chunk_sequence > 0

        self.client.wait_for(follows, 'the policy to drive', _DRIVING_LIMIT_S)
        try:
            yield end.done
        finally:
            if not end.done():
                self.client.cancel(handle)
            self.client.finish_episode(handle, _END_LIMIT_S)

    def lose_chunks(self) -> float:
        """Deactivate the policy while it drives and return the time from its last row to the command that stays [ms].

        :raises GraphError: where the arms did not come to rest.
        """
        with self._driving():
            first = len(self.watch.ticks())
            self._change(Transition.TRANSITION_DEACTIVATE)
            try:
                self.client.wait_for(lambda: not self.watch.ticks()[-1].remaining, 'the last row of a chunk', 5.0)
                time.sleep(WATCHED_S)
                held = hold_after_rows(self.watch.ticks(first))
            finally:
                self._change(Transition.TRANSITION_ACTIVATE)
        return _seen(held, 'chunks')

    def lose_joints(self) -> float:
        """Silence an arm while the policy drives; return the time from when its joint states are too old to HOLD [ms].

        :raises GraphError: where the arms did not hold.
        """
        with self._driving():
            first = len(self.watch.ticks())
            reply = self.client.call(InjectFault, 'driver_twin/inject_fault', InjectFault.Request(
                fault='usb_stall', target=FOLLOWERS[SIDE], duration=SILENCE_S))
            if not reply.success:
                raise GraphError(f'joint states were not silenced: {reply.message}')
            self.client.wait_for(lambda: self.watch.ticks()[-1].state is ArmState.HOLD, 'the arms to hold', 5.0)
            newest = self.watch.joints_ns
            held = hold_after_joints(self.watch.ticks(first), newest, self._joint_limit_s)
        time.sleep(SILENCE_S)
        return _seen(held, 'joint states')

    def _change(self, transition: int) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        if not self.client.call(ChangeState, 'policy/change_state', request).success:
            raise GraphError(f'the policy node refused transition {transition}')


def _seen(held_ms: float | None, what: str) -> float:
    if held_ms is None:
        raise GraphError(f'the arms were not seen to hold without {what}')
    return held_ms


def in_words(run: Measured) -> list[str]:
    """Return what no bound names: latency by stages, rates and transports."""
    found, columns = run.figures, {stage: [one[stage] for one in run.stages] for stage in STAGES}
    lines = [f'{len(run.stages)} chunks, {run.chunk_rate_hz:.1f} a second while the policy drove; observation to '
             f'command p50 {found["observation_to_command_p50_ms"]:.1f} ms, p99 '
             f'{found["observation_to_command_p99_ms"]:.1f} ms:']
    lines += [f'  {stage:<10} p50 {percentile(values, 50):6.2f} ms  p99 {percentile(values, 99):6.2f} ms  '
              f'{MEANING[stage]}' for stage, values in columns.items()]
    return [*lines, f'bare transport of the same messages p50 {found["bare_transport_p50_ms"]:.2f} ms, p99 '
            f'{run.bare_transport_p99_ms:.2f} ms', f'frames lost by the bare subscriber {run.bare_drop_fraction:.3%}',
            'the control thread has real-time priority, the bare loop has none' if run.priority else
            'the control thread has no real-time priority here, as the bare loop has none']
