"""The graph without ROS 2's launch: started, watched and ended from one Python process."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState

from fpo_ros.nodes.graph import GraphDescription, GraphError, GraphOptions, NodeSpec, check_keys, describe, of_release
from fpo_ros.nodes.processes import NodeProcess, end_all
from fpo_ros.nodes.ros_client import RosClient, domain_of_environment

#: Time in which nodes of another graph in the same domain show up [s].
DISCOVERY_S = 3.0
#: Time a node of such a name is given to answer [s].
ANSWER_S = 2.0


def print_line(node: str, line: str) -> None:
    """Print a line of a node behind its name."""
    print(f'[{node}] {line}', flush=True)


class RunningGraph:
    """The processes of one graph. Use :func:`running_graph`, which also ends them.

    :param description: what runs.
    :param domain: ROS domain.
    :param sink: called with (node, line) for each line a node prints.
    """

    def __init__(self, description: GraphDescription, domain: int, sink: Callable[[str, str], None]) -> None:
        self.description, self.domain = description, domain
        self.namespace = description.nodes[0].namespace
        self._sink = sink
        self._directory = tempfile.TemporaryDirectory(prefix='fpo_ros_graph_')
        self._reported: set[int] = set()
        #: One sentence for each process that did not end in order; filled by :meth:`stop`.
        self.problems: list[str] = []
        self.processes: dict[str, NodeProcess] = {}
        self._probe = RosClient(f'graph_probe_{os.getpid()}', self.namespace, domain)

    def check_domain(self) -> None:
        """Refuse a domain in which nodes of the same names run.

        :raises GraphError: naming one.
        """
        mine = {spec.full_name for spec in self.description.nodes}
        silent: set[str] = set()  # killed nodes are listed until their lease ends
        deadline = time.monotonic() + DISCOVERY_S
        while time.monotonic() < deadline:
            listed = {f'{space.rstrip("/")}/{name}'
                      for name, space in self._probe.node.get_node_names_and_namespaces()}
            for name in sorted(mine & listed - silent):
                if self._answers(name):
                    raise GraphError(f'ROS domain {self.domain} already has a node {name}: end the other graph, '
                                     'or choose another ROS_DOMAIN_ID or namespace')
                silent.add(name)
            time.sleep(0.05)

    def _answers(self, name: str) -> bool:
        """Return whether a node that is listed also lives."""
        client = self._probe.node.create_client(GetState, f'{name}/get_state')
        until = time.monotonic() + ANSWER_S
        try:
            while not client.service_is_ready():
                if time.monotonic() > until:
                    return False
                time.sleep(0.02)
            reply = client.call_async(GetState.Request())
            while not reply.done() and time.monotonic() < until:
                time.sleep(0.02)
            return reply.done()
        finally:
            self._probe.node.destroy_client(client)

    def start(self) -> None:
        """Start every process that does not run."""
        for spec in self.description.nodes:
            if spec.name not in self.processes or not self.processes[spec.name].running:
                self.start_one(spec)

    def start_one(self, spec: NodeSpec) -> None:
        """Start the process of a node that does not run."""
        self.processes[spec.name] = NodeProcess(spec, Path(self._directory.name), self.domain, self._sink)

    def wait_active(self, timeout_s: float = 60.0, without: Collection[str] = ()) -> None:
        """Wait until every node is active.

        :param without: names of nodes that are not awaited, and may have ended.
        :raises GraphError: naming the nodes awaited and their states, or the process that ended.
        """
        deadline = time.monotonic() + timeout_s
        waiting = dict.fromkeys((spec.name for spec in self.description.nodes if spec.name not in without), 'starting')
        watched = [name for name in waiting if name in self.processes]  # others may be started by somebody else
        clients = {name: self._probe.node.create_client(GetState, f'{name}/get_state') for name in waiting}
        try:
            while waiting:
                ended = [self.processes[name].describe_end() for name in watched if not self.processes[name].running]
                if ended:
                    raise GraphError('; '.join(ended))
                if time.monotonic() > deadline:
                    states = ', '.join(f'{name} ({state})' for name, state in waiting.items())
                    raise GraphError(f'waited {timeout_s:g} s for nodes to be active: {states}')
                time.sleep(0.05)
                self._ask_states(waiting, clients)
        finally:
            for client in clients.values():
                self._probe.node.destroy_client(client)

    def _ask_states(self, waiting: dict[str, str], clients: dict) -> None:
        replies = {name: clients[name].call_async(GetState.Request())
                   for name in waiting if clients[name].service_is_ready()}
        until = time.monotonic() + 1.0
        while time.monotonic() < until and not all(reply.done() for reply in replies.values()):
            time.sleep(0.01)
        for name, reply in replies.items():
            if not reply.done():
                clients[name].remove_pending_request(reply)
            elif reply.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                del waiting[name]
            else:
                waiting[name] = reply.result().current_state.label

    def ended(self) -> list[str]:
        """Return one sentence for each process that ended since the last call."""
        new = [process for process in self.processes.values()
               if not process.running and process.popen.pid not in self._reported]
        self._reported |= {process.popen.pid for process in new}
        return [process.describe_end() for process in new]

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a node's process and, if it ends it, wait for that.

        :raises KeyError: for a node that is not part of this graph.
        """
        process = self.processes[name]
        process.popen.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
            process.popen.wait(10.0)

    def restart(self, name: str, timeout_s: float = 60.0) -> None:
        """Start an ended node again and wait until all are active.

        :raises GraphError: if it runs, or does not come up.
        """
        if self.processes[name].running:
            raise GraphError(f'{name} is running: end it before starting it again')
        self.start()
        self.wait_active(timeout_s)

    def stop(self) -> list[str]:
        """End all processes; returns one sentence for each that did not end in order."""
        try:
            self.problems = end_all(list(self.processes.values()))
        finally:
            self._directory.cleanup()
            self._probe.close()
        return self.problems


@contextmanager
def running_graph(options: GraphOptions, *, domain: int | None = None, timeout_s: float = 60.0,
                  sink: Callable[[str, str], None] = print_line) -> Iterator[RunningGraph]:
    """Run the graph for the duration of a ``with`` block; all nodes are active when it begins.

    With a release and no contract in the options, the cell is laid out as the release's contract says.

    :param domain: ROS domain; None: that of the environment.
    :param timeout_s: longest wait until all nodes are active [s].
    :param sink: called with (node, line) for each line a node prints.
    :raises GraphError: when it does not start, saying why; nothing is left running then.
    """
    domain = domain_of_environment() if domain is None else domain
    description = describe(of_release(options))
    check_keys(description)
    graph = RunningGraph(description, domain, sink)
    try:
        graph.check_domain()
        graph.start()
        graph.wait_active(timeout_s)
        yield graph
    finally:
        for problem in graph.stop():
            sink('up', problem)


def up(options: GraphOptions, timeout_s: float = 60.0) -> int:
    """Run the graph until SIGINT or SIGTERM. A node that ends is reported and not started again.

    :returns: exit code: 0, or 1 when a node ended by itself or not in order.
    :raises GraphError: when the graph does not start, saying why.
    """
    stopping = threading.Event()
    started = threading.Event()

    def on_signal(number: int, frame: Any) -> None:
        if not started.is_set() and not stopping.is_set():
            stopping.set()
            raise KeyboardInterrupt
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    code = 0
    try:
        with running_graph(options, timeout_s=timeout_s) as graph:
            started.set()
            for driver in graph.description.drivers:
                print_line('up', f'expects {driver.package} in namespace {driver.namespace}, which this command '
                                 'does not start: see aloha_real.launch.py')
            print_line('up', f'all {len(graph.processes)} nodes are active in ROS domain {graph.domain}; '
                             'Ctrl-C ends them')
            while not stopping.wait(0.2):
                for sentence in graph.ended():
                    code = 1
                    print_line('up', f'{sentence}. It is not started again; the arms hold without it')
        code = 1 if graph.problems else code
    except KeyboardInterrupt:
        print_line('up', 'interrupted while starting')
    return code
