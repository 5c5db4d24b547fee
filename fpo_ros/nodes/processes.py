"""Processes of a graph: started with a prefix on every line, ended in order, never restarted silently."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from fpo_ros.nodes.graph import NodeSpec

#: Name of the variable that lets a node end with its launcher (fpo_ros.nodes.base reads it).
END_WITH_PARENT = 'FPO_ROS_END_WITH_PARENT'
#: Lines kept per process, for the error when it ends.
KEPT_LINES = 40


class NodeProcess:
    """One node in a process of its own.

    :param spec: what to run.
    :param directory: where its parameter file goes.
    :param domain: ROS domain.
    :param print_line: called with (node, line) for each line it prints.
    """

    def __init__(
        self, spec: NodeSpec, directory: Path, domain: int, print_line: Callable[[str, str], None]
    ) -> None:
        self.spec = spec
        self._print = print_line
        self.lines: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)
        file = directory / f'{spec.name}.yaml'
        values = spec.parameters | {'autostart': True}
        file.write_text(yaml.safe_dump({f'/**/{spec.name}': {'ros__parameters': values}}), encoding='utf-8')
        command = [sys.executable, '-m', spec.module, '--ros-args', '--params-file', str(file),
                   '-r', f'__ns:={spec.namespace}']
        environment = os.environ | {
            'ROS_DOMAIN_ID': str(domain), END_WITH_PARENT: '1', 'PYTHONUNBUFFERED': '1',
            'RCUTILS_CONSOLE_OUTPUT_FORMAT': '{severity} {message}', 'RCUTILS_COLORIZED_OUTPUT': '0'}
        environment.setdefault('OMP_NUM_THREADS', '1')
        # A session of its own: Ctrl-C reaches the launcher alone, which then ends the nodes in order.
        self.popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f'log {spec.name}', daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.popen.poll() is None

    def describe_end(self) -> str:
        """Return how the process ended and the last it said."""
        code = self.popen.returncode
        how = (
            f'killed by {signal.Signals(-code).name}'
            if code is not None and code < 0
            else f'exit code {code}'
        )
        self._reader.join(1.0)
        last = next((line for line in reversed(self.lines) if line.startswith(('ERROR', 'FATAL', 'cannot'))),
                    self.lines[-1] if self.lines else 'it said nothing')
        return f'{self.spec.name} ended ({how}): {last}'

    def _read(self) -> None:
        for line in self.popen.stdout:
            line = line.rstrip()
            self.lines.append(line)
            self._print(self.spec.name, line)
        self.popen.stdout.close()


def end_all(processes: list[NodeProcess], patience_s: float = 8.0) -> list[str]:
    """Ask processes to end (SIGINT), kill those that do not.

    :param patience_s: time given to end in order [s].
    :returns: one sentence for each that did not end in order.
    """
    mine = [process for process in processes if process.running]
    for process in mine:
        process.popen.send_signal(signal.SIGINT)
    deadline = time.monotonic() + patience_s
    problems = []
    for process in mine:
        try:
            process.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
            problems.append(f'{process.spec.name} did not end within {patience_s:g} s and was killed')
            continue
        if process.popen.returncode:
            problems.append(process.describe_end())
    return problems
