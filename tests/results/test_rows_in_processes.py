"""``fpo-ros results run`` under torchrun: process 0 keeps the result, the others train with it and end with it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from launched import environment, launcher
from tiny_rows import TINY

from fpo_ros.demo.display import Display
from fpo_ros.results import running
from fpo_ros.results.report import main_table

#: For two processes to start, train 200 steps and evaluate; or to end [s].
LIMIT_S = 120
pytestmark = pytest.mark.timeout(300)


def launch(work: Path, results: Path) -> subprocess.CompletedProcess:
    program = str(Path(__file__).parent / 'tiny_rows.py')
    return subprocess.run([*launcher('--standalone'), '2', program, str(work), str(results)], env=environment(),
                          timeout=LIMIT_S, capture_output=True, text=True)


def test_a_row_trained_in_two_processes_is_what_one_process_makes_of_it(tiny, tmp_path):
    work, results = tiny
    done = launch(work, results)
    assert not done.returncode, done.stderr
    found = json.loads((results / 'tiny-0.json').read_text())
    alone = running.run_seed(TINY, 0, tmp_path / 'alone', tmp_path / 'results alone', Display(), 1)
    assert found['finished'] and (found['processes'], alone['processes']) == (2, 1)
    assert [one['control_steps'] for one in found['evaluations']] == [one['control_steps'] for one in
                                                                      alone['evaluations']]
    for one, other in zip(found['curve'], alone['curve'], strict=True):
        for name in ('control_steps', 'rewarded_rate', 'success_rate'):
            assert one[name] == other[name], name
        assert one['chunk_spread'] == pytest.approx(other['chunk_spread'], rel=1e-3)
    assert f'{found["minutes"]:.0f} min in 2 processes' in '\n'.join(main_table(TINY, [found]))
    assert 'processes' not in '\n'.join(main_table(TINY, [alone]))


def test_processes_end_with_process_0_when_it_refuses(tiny):
    work, results = tiny
    found = running.run_seed(TINY, 0, work, results, Display(), 1)
    other = json.dumps(found | {'finished': False, 'settings': found['settings'] | {'gamma': 0.5}})
    (results / 'tiny-0.json').write_text(other)
    done = launch(work, results)
    assert done.returncode and 'gamma was 0.5' in done.stderr, done.stderr
    assert (results / 'tiny-0.json').read_text() == other
