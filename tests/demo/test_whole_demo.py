"""The whole demo, as small as it gets: interrupted while the arms move, resumed, on a machine without GL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

#: The quick demo with numbers that prove even less.
TINY = """
import sys
from dataclasses import replace
from fpo_ros import cli
from fpo_ros.demo import config, numbers
quick = config.demo_config('state', True)
tiny = replace(quick, demonstrations=4, sft=replace(quick.sft, steps=10, warmup=2), evaluation_episodes=20,
               fpo=replace(quick.fpo, episodes=4, epochs=1, critic=replace(quick.fpo.critic, steps=5)), iterations=1,
               graph_episodes=1)
numbers.RATE_TOLERANCE = 0.5  # the machine may be busy
config.demo_config = lambda observation, quick: tiny
cli.main(['demo', '--quick', '--check', *sys.argv[1:]])
"""


def start(work: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, '-c', TINY, '--dir', str(work), *arguments],
                            env={**os.environ, 'MUJOCO_GL': 'disabled', 'PYTHONUNBUFFERED': '1'}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until_the_arms_move(demo: subprocess.Popen, log: Path, limit_s: float = 240.0) -> None:
    deadline = time.monotonic() + limit_s
    while not (log.exists() and '-> POLICY' in log.read_text()):
        assert demo.poll() is None, demo.stderr.read()
        assert time.monotonic() < deadline, 'the graph did not come to its first episode'
        time.sleep(0.1)


def go_on(work: Path) -> tuple[int, str, str]:
    """Resume a demo to its end; anew where a busy machine made the arms hold. Return exit code, output and errors."""
    for _ in range(3):
        demo = start(work, '--resume', '--json')
        try:
            out, err = demo.communicate(timeout=240)
        finally:
            demo.kill()
        if 'ended early (' not in err:
            break
    return demo.returncode, out, err


@pytest.mark.ros
@pytest.mark.timeout(900)
def test_a_demo_interrupted_in_the_graph_ends_its_nodes_and_goes_on_without_gl(tmp_path):
    work = tmp_path / 'demo'
    demo = start(work)
    try:
        wait_until_the_arms_move(demo, work / 'graph.log')
        nodes = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=120)
    finally:
        demo.kill()
    assert demo.returncode == 130 and 'Traceback' not in err, err
    assert f'--dir {work} --resume' in out and out.count('no films') == 1
    assert len(nodes) >= 5 and not any(node.is_running() for node in nodes)
    log = (work / 'graph.log').read_text().splitlines()
    problems = [line for line in log if line.startswith('[up] ')]  # of nodes that did not end in order
    assert not problems, (problems, log[-40:])

    code, out, err = go_on(work)
    assert code == 0, err
    found = json.loads(out)
    assert found['graph']['episodes'] == 2 and found['graph']['swaps'] == 1 and found['graph']['ticks'] > 600
    assert found['peak_memory_bytes'] is None
    assert json.loads((work / 'report.json').read_text()) == found
    page = (work / 'report.html').read_text()
    assert 'No film: ' in page and 'MUJOCO_GL=disabled' in page and 'data:video' not in page
