"""``fpo-ros up sim`` as a user runs it: starts, says so, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

pytestmark = [pytest.mark.ros, pytest.mark.serial]


class Up:
    """The command in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.popen = subprocess.Popen([sys.executable, '-m', 'fpo_ros.cli', 'up', 'sim', *arguments], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.popen.stdout), daemon=True)
        self._reader.start()

    def wait_for(self, text: str, timeout_s: float) -> None:
        """Wait until a line holds a text."""
        deadline = time.monotonic() + timeout_s
        while not any(text in line for line in list(self.lines)):
            assert time.monotonic() < deadline, f'waited {timeout_s} s for "{text}"; got: {"".join(self.lines)}'
            assert self.popen.poll() is None, f'ended before "{text}": {"".join(self.lines)}'
            time.sleep(0.05)

    def children(self) -> list[psutil.Process]:
        """Return the processes of the nodes."""
        return psutil.Process(self.popen.pid).children(recursive=True)


def _gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout_s)[1]


@pytest.fixture
def keys(tmp_path):
    """A directory with a trusted key."""
    from fpo_ros.releases import generate_keypair

    generate_keypair(tmp_path / 'keys')
    return str(tmp_path / 'keys')


def test_interrupt_ends_every_node_and_exits_zero(keys) -> None:
    up = Up('--trusted-keys', keys, '--no-learner')
    up.wait_for('nodes are active', 60.0)
    children = up.children()
    assert len(children) == 5
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(20.0) == 0, ''.join(up.lines)
    assert not _gone(children, 1.0)
    assert any(line.startswith('[arm_controller] ') for line in up.lines), 'lines must carry the name of their node'


def test_killed_node_is_reported_and_a_killed_launcher_takes_its_nodes_along(keys) -> None:
    up = Up('--trusted-keys', keys, '--no-learner')
    up.wait_for('nodes are active', 60.0)
    children = up.children()
    victim = next(child for child in children if 'fpo_ros.nodes.policy' in child.cmdline())
    victim.kill()
    up.wait_for('policy ended (killed by SIGKILL)', 5.0)
    up.popen.kill()
    up.popen.wait(5.0)
    assert not _gone(children, 10.0), 'nodes must end with their launcher'


def test_start_that_fails_says_why_in_one_line_and_exits_one(tmp_path) -> None:
    done = subprocess.run([sys.executable, '-m', 'fpo_ros.cli', 'up', 'sim', '--no-learner'], text=True,
                          capture_output=True, timeout=60, env=os.environ)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and 'trusted_keys is empty' in errors[0]
