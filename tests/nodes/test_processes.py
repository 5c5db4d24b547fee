"""Processes of a graph: their output never stops them, their ends are named, and they end in order."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros.nodes.episode_manager import STORE_LIMIT_S  # noqa: E402
from fpo_ros.nodes.graph import NodeSpec  # noqa: E402
from fpo_ros.nodes.processes import PATIENCE_S, NodeProcess, end_all, signal_name  # noqa: E402
from fpo_ros.nodes.running import END_WITH_PARENT, LAST_WORDS_S, RELEASE_LIMIT_S  # noqa: E402

pytestmark = pytest.mark.ros

CHATTER = """
import os, time
for number in range(4000):
    print('x' * 100, number, flush=True)
print('ready', os.environ['FPO_ROS_END_WITH_PARENT'], flush=True)
time.sleep(60)
"""
#: Says when it ends, some time after it was asked to.
ORDERLY = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.3), print('ended', flush=True), sys.exit(0)))
print('ready', flush=True)
time.sleep(60)
"""
#: Locks up in a function, with another thread beside.
STUCK = """
import faulthandler, threading, time
def release():
    time.sleep(60)
print('ERROR of an hour ago', flush=True)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
faulthandler.dump_traceback_later(0.5, exit=True)
release()
"""
DEAF = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print("ready", flush=True); time.sleep(60)'


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a script as a node; whatever still runs at the end of the test is killed."""
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    started: list[NodeProcess] = []

    def run(script: str, sink=lambda node, line: None, name: str = 'node') -> NodeProcess:
        module = f'script_{len(started)}'
        Path(tmp_path, f'{module}.py').write_text(script)
        started.append(NodeProcess(NodeSpec(name, module, '/', {}), tmp_path, 0, sink))
        return started[-1]

    yield run
    for process in started:
        process.popen.kill()
        process.popen.wait()


def until(condition, what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f'waited {timeout_s} s for {what}'
        time.sleep(0.02)


def ready(process: NodeProcess) -> bool:
    return any(line.startswith('ready') for line in list(process.lines))


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), ValueError('write to closed file')])
def test_sink_that_fails_does_not_stop_the_node_and_is_named_once(start, capfd, error) -> None:
    def full(node: str, line: str) -> None:
        raise error

    process = start(CHATTER, full)
    until(lambda: ready(process), 'the node to get through its output')
    assert len(process.lines) == 40, 'the newest lines are kept for the error'
    said = capfd.readouterr().err
    assert said.count('its output goes nowhere from now on') == 1 and str(error) in said


def test_node_knows_its_launcher_and_shares_its_session_but_not_its_group(start) -> None:
    process = start(CHATTER)
    until(lambda: ready(process), 'the node')
    assert process.lines[-1] == f'ready {os.getpid()}' and END_WITH_PARENT == 'FPO_ROS_END_WITH_PARENT'
    pid = process.popen.pid
    assert os.getpgid(pid) == pid != os.getpgid(0), 'Ctrl-C must not reach it'
    assert os.getsid(pid) == os.getsid(0), 'in a session of its own niceness would not count'


def test_ends_are_named_for_real_time_signals_too(start) -> None:
    assert signal_name(9) == 'SIGKILL' and signal_name(signal.SIGRTMIN + 3) == f'signal {signal.SIGRTMIN + 3}'
    process = start(CHATTER)
    process.popen.send_signal(signal.SIGRTMIN + 3)
    process.popen.wait(10.0)
    assert f'killed by signal {signal.SIGRTMIN + 3}' in process.describe_end()


def test_where_a_node_stood_that_locked_up_is_what_is_said_of_its_end(start) -> None:
    process = start(STUCK)
    process.popen.wait(20.0)
    said = process.describe_end()
    assert said.startswith('node ended (exit code 1): it stood still at File "'), said
    assert said.endswith(', line 4 in release')


def test_a_node_has_the_time_to_save_to_release_and_to_say_where_it_stood() -> None:
    assert STORE_LIMIT_S + LAST_WORDS_S + RELEASE_LIMIT_S < PATIENCE_S


def test_what_moves_the_arms_ends_before_what_it_needs(start) -> None:
    said: list[str] = []
    names = ('driver_twin', 'arm_controller', 'episode_manager', 'learner')
    processes = [start(ORDERLY, lambda node, line: said.append(f'{node} {line}'), name) for name in names]
    until(lambda: all(map(ready, processes)), 'all nodes')
    assert end_all(processes) == []
    until(lambda: sum('ended' in line for line in said) == 4, 'their last words')
    order = [line.split()[0] for line in said if 'ended' in line]
    assert set(order[:2]) == {'episode_manager', 'learner'} and order[2:] == ['arm_controller', 'driver_twin']


def test_node_that_does_not_end_is_killed_and_named(start) -> None:
    process = start(DEAF, name='policy')
    until(lambda: ready(process), 'the node')
    assert end_all([process], patience_s=0.3) == ['policy did not end within 0.3 s and was killed']
    assert not process.running
