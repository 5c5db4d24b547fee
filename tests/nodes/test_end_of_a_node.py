"""A node's process ends: its participant with it, and within a limit where releasing it never would."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

pytestmark = pytest.mark.ros

NODE = """
    import ctypes, gc, os, signal, sys, threading
    from dataclasses import dataclass
    from pathlib import Path
    from fpo_ros.nodes import running
    from fpo_ros.nodes.base import CellNode

    @dataclass(frozen=True)
    class Parameters:
        pass

    class Node(CellNode):
        NAME, PARAMETERS = 'ending', Parameters

        def setup(self):
            pass

        def start(self):
            gc.collect()
            gc.freeze()
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    def threads():
        return sorted(path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm'))
"""

FREED = NODE + """
    there = []
    Node.stop = lambda self: there.extend(threads())
    code = running.run_node(Node, ['--ros-args', '-p', 'autostart:=true'])
    assert any(name.startswith('dds.ev') for name in there), there
    left = [name for name in threads() if name.startswith('dds.ev')]
    assert not left, left
    sys.exit(code)
"""

LOCKED_UP = NODE + """
    class Stuck(Node):
        def destroy_node(self):
            ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock

    running.RELEASE_LIMIT_S = 1.0
    running.run_node(Stuck, ['--ros-args', '-p', 'autostart:=true'])
"""


def run(text: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-c', textwrap.dedent(text)], timeout=60, capture_output=True, text=True,
                          check=False)


def test_a_node_that_ended_left_its_domain_though_nothing_was_collected_as_garbage() -> None:
    done = run(FREED)
    assert done.returncode == 0, done.stderr


def test_a_node_that_locks_up_while_it_releases_ends_and_says_where() -> None:
    done = run(LOCKED_UP)
    assert done.returncode == 1
    assert 'Timeout' in done.stderr and 'in destroy_node' in done.stderr and 'in run_node' in done.stderr
