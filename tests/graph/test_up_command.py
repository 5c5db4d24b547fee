"""``fpo-ros up sim`` as a user runs it: starts, says so, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

pytestmark = [pytest.mark.ros, pytest.mark.serial]


class Up:
    """The command in a process of its own, which a test may leave in whatever state."""

    def __init__(self, *arguments: str) -> None:
        self._seen: dict[int, psutil.Process] = {}
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
        found = psutil.Process(self.popen.pid).children(recursive=True) if self.popen.poll() is None else []
        self._seen |= {child.pid: child for child in found}
        return found

    def kill(self) -> None:
        """Leave nothing behind: the command, and its nodes, which have process groups of their own."""
        self.children()
        for process in (*self._seen.values(), self.popen):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self.popen.wait(5.0)


def _gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout_s)[1]


@pytest.fixture
def start():
    """Start the command; whatever happens in the test, nothing of it lives on."""
    started: list[Up] = []

    def run(*arguments: str) -> Up:
        started.append(Up(*arguments))
        return started[-1]

    yield run
    for up in started:
        up.kill()


@pytest.fixture
def keys(tmp_path):
    """A directory with a trusted key."""
    from fpo_ros.releases import generate_keypair

    generate_keypair(tmp_path / 'keys')
    return str(tmp_path / 'keys')


def places() -> set[Path]:
    """Return where releases of one run are, of any process of this machine."""
    return set(Path(tempfile.gettempdir()).glob('fpo_ros-trial-*'))


def test_a_policy_of_the_package_drives_simulated_arms_by_its_name(start) -> None:
    before = places()
    up = start('--policy', 'sft_state', '--no-learner')
    up.wait_for('making a release of sft_state for this run', 30.0)
    up.wait_for('nodes are active', 90.0)
    assert any('serving v000001' in line for line in list(up.lines)), ''.join(up.lines)
    made = places() - before
    assert made
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(30.0) == 0, ''.join(up.lines)
    assert not any(place.exists() for place in made), 'its release and its key are gone'


def test_a_run_terminated_while_its_release_is_made_leaves_none(start) -> None:
    before = places()
    up = start('--policy', 'sft_state', '--no-learner')
    deadline = time.monotonic() + 60.0
    while not (made := places() - before):
        assert time.monotonic() < deadline, f'no release was begun within 60 s: {"".join(up.lines)}'
        time.sleep(0.01)
    up.popen.send_signal(signal.SIGTERM)
    assert up.popen.wait(60.0) == 130, ''.join(up.lines)
    assert not any(place.exists() for place in made) and not any('Traceback' in line for line in up.lines)


def test_a_policy_of_the_package_is_no_release_of_a_real_cell_and_needs_no_key(start, keys) -> None:
    up = start('--policy', 'sft_state', '--trusted-keys', keys)
    assert up.popen.wait(60.0) == 1
    up._reader.join(5.0)
    assert any('leave --trusted-keys out' in line for line in up.lines), ''.join(up.lines)


def test_interrupt_ends_every_node_and_exits_zero(start, keys) -> None:
    up = start('--trusted-keys', keys, '--no-learner')
    up.wait_for('nodes are active', 60.0)
    children = up.children()
    assert len(children) == 5
    up.popen.send_signal(signal.SIGINT)
    assert up.popen.wait(60.0) == 0, ''.join(up.lines)
    assert not _gone(children, 1.0)
    assert any(line.startswith('[arm_controller] ') for line in up.lines), 'lines must carry the name of their node'


def test_killed_node_is_reported_and_a_killed_launcher_takes_its_nodes_along(start, keys) -> None:
    up = start('--trusted-keys', keys, '--no-learner')
    up.wait_for('nodes are active', 60.0)
    children = up.children()
    victim = next(child for child in children if 'fpo_ros.nodes.policy' in child.cmdline())
    victim.kill()
    up.wait_for('policy ended (killed by SIGKILL)', 5.0)
    up.popen.kill()
    up.popen.wait(5.0)
    assert not _gone(children, 10.0), 'nodes must end with their launcher'


def test_node_that_does_not_end_in_order_is_reported_and_exits_one(start, keys) -> None:
    up = start('--trusted-keys', keys, '--no-learner')
    up.wait_for('nodes are active', 60.0)
    victim = next(child for child in up.children() if 'fpo_ros.nodes.driver_twin' in child.cmdline())
    controller = next(child for child in up.children() if 'fpo_ros.nodes.arm_controller' in child.cmdline())
    victim.suspend()
    up.popen.send_signal(signal.SIGINT)
    assert not _gone([controller], 20.0), 'the others end in order meanwhile'
    victim.send_signal(signal.SIGKILL)  # what the launcher would do when its patience ends
    assert up.popen.wait(60.0) == 1, ''.join(up.lines)
    assert any('driver_twin ended (killed by SIGKILL)' in line for line in up.lines)


@pytest.mark.parametrize('verb', ['sim', 'real'])
def test_start_without_keys_says_what_to_name_and_starts_nothing(verb) -> None:
    done = subprocess.run([sys.executable, '-m', 'fpo_ros.cli', 'up', verb], text=True, capture_output=True, timeout=60,
                          env=os.environ)
    assert done.returncode == 1 and done.stdout == ''
    errors = done.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith('fpo-ros: no trusted keys') and '--trusted-keys' in errors[0]


def test_node_that_refuses_its_configuration_is_the_reason_in_one_line(keys, tmp_path) -> None:
    config = tmp_path / 'mine.yaml'
    config.write_text('/**/arm_controller: {ros__parameters: {horizon: 10, execute: 20}}')
    done = subprocess.run([sys.executable, '-m', 'fpo_ros.cli', 'up', 'sim', '--trusted-keys', keys, '--no-learner',
                           '--config', str(config)], text=True, capture_output=True, timeout=90, env=os.environ)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith('fpo-ros: ')]
    assert len(errors) == 1 and 'arm_controller ended (exit code 1)' in errors[0] and 'execute' in errors[0]
