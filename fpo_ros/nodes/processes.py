"""Processes of a graph: started with a prefix on every line, ended in order, never restarted silently."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fpo_ros.nodes.graph import NodeSpec
from fpo_ros.nodes.running import END_WITH_PARENT
from fpo_ros.nodes.transport import profile_variables, sends_images

#: Lines kept per process, for the error when it ends.
KEPT_LINES = 40
#: Time a node is given to end in order: longer than the slowest, which closes a trainer or commits an episode [s].
PATIENCE_S = 25.0
#: Who ends before the others: what moves the arms or writes to the disk needs the rest to do it in order.
FIRST_TO_END = (('episode_manager', 'learner'), ('policy', 'arm_controller'))


#: Arguments of Popen for a process group of its own.
OWN_GROUP: dict[str, Any] = {'process_group': 0} if sys.version_info >= (3, 11) else {'preexec_fn': os.setpgrp}


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
            'ROS_DOMAIN_ID': str(domain), END_WITH_PARENT: str(os.getpid()), 'PYTHONUNBUFFERED': '1',
            'RCUTILS_CONSOLE_OUTPUT_FORMAT': '{severity} {message}', 'RCUTILS_COLORIZED_OUTPUT': '0'}
        environment.setdefault('OMP_NUM_THREADS', '1')
        environment |= profile_variables(os.environ) if sends_images(spec) else {}
        # A process group of its own: Ctrl-C reaches the launcher alone, which then ends the nodes in order. Not a
        # session: the kernel shares time between sessions first, so the trainer's niceness would count for nothing.
        self.popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            **OWN_GROUP,
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
        how = f'killed by {signal_name(-code)}' if code is not None and code < 0 else f'exit code {code}'
        self._reader.join(1.0)
        lines = list(self.lines)
        last = _where_it_stood(lines) or next(
            (line for line in reversed(lines) if line.startswith(('ERROR', 'FATAL', 'cannot'))),
            lines[-1] if lines else 'it said nothing')
        return f'{self.spec.name} ended ({how}): {last}'

    def _read(self) -> None:
        """Pass lines on until the process ends. A sink that fails must not fill the pipe, which would stop the node."""
        sink_works = True
        for line in self.popen.stdout:
            line = line.rstrip()
            self.lines.append(line)
            if not sink_works:
                continue
            try:
                self._print(self.spec.name, line)
            except (OSError, ValueError) as error:  # a full disk, a closed file
                sink_works = False
                with contextlib.suppress(OSError, ValueError):
                    print(f'[{self.spec.name}] its output goes nowhere from now on: {error}', file=sys.stderr,
                          flush=True)
        self.popen.stdout.close()


def _where_it_stood(lines: list[str]) -> str:
    """Return where the main thread was in what ``faulthandler`` printed at the end; empty where it printed nothing."""
    heads = [index for index, line in enumerate(lines) if line.endswith('(most recent call first):')]
    if not heads or not all(line.startswith('  ') for line in lines[heads[-1] + 1:]) or heads[-1] + 1 == len(lines):
        return ''
    return f'it stood still at {lines[heads[-1] + 1].strip()}'


def signal_name(number: int) -> str:
    """Return the name of a signal; real-time signals have none but their number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'


def end_all(processes: list[NodeProcess], patience_s: float = PATIENCE_S) -> list[str]:
    """Ask processes to end (SIGINT) in the order of :data:`FIRST_TO_END`; kill those that do not.

    :param patience_s: time given to each step of the order [s].
    :returns: one sentence for each that did not end in order.
    """
    left = [process for process in processes if process.running]
    problems = []
    for names in (*FIRST_TO_END, None):
        step = [process for process in left if names is None or process.spec.name in names]
        left = [process for process in left if process not in step]
        problems += _end(step, patience_s)
    return problems


def _end(step: list[NodeProcess], patience_s: float) -> list[str]:
    for process in step:
        process.popen.send_signal(signal.SIGINT)
    deadline = time.monotonic() + patience_s
    problems = []
    for process in step:
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
