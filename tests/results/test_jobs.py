"""``fpo-ros results run --jobs``: seeds side by side, whose ends are told apart, and which end with their parent."""

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
from tiny_rows import TINY
from typer.testing import CliRunner

from fpo_ros.demo.display import Display
from fpo_ros.results import cli, running
from fpo_ros.results.jobs import Jobs, JobsError
from fpo_ros.results.rows import row_named

#: A stand-in for ``python -m fpo_ros.cli``: what it was asked for, then an end by seed, or none.
PROGRAM = """
import json, os, pathlib, sys, time
row, seed = sys.argv[sys.argv.index('run') + 1], int(sys.argv[sys.argv.index('--seeds') + 1])
place = pathlib.Path(sys.argv[sys.argv.index('--results') + 1])
print('begins', flush=True)
(place / f'{row}-{seed}.asked').write_text(json.dumps([sys.argv[1:], os.environ['OMP_NUM_THREADS']]))
if seed == 7:
    time.sleep(600)
if seed == 1:
    sys.exit('the disk is full')
"""


@pytest.fixture
def program(tmp_path, monkeypatch) -> Path:
    """Let jobs run :data:`PROGRAM`; return where results go."""
    (tmp_path / 'fpo_ros').mkdir()
    (tmp_path / 'fpo_ros' / '__init__.py').touch()
    (tmp_path / 'fpo_ros' / 'cli.py').write_text(PROGRAM)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_seed_is_run_and_those_that_fail_are_named_with_their_last_words(program, capsys):
    row = row_named('awr')
    with pytest.raises(JobsError, match=r'^awr 1 ended with code 1 \(the disk is full\): what is done stays'):
        Jobs(2, 3, program / 'work', program, Display()).run([(row, seed) for seed in range(4)])
    asked = {seed: json.loads((program / f'awr-{seed}.asked').read_text()) for seed in range(4)}
    assert asked[2] == [['results', 'run', 'awr', '--seeds', '2', '--threads', '3', '--dir', str(program / 'work'),
                         '--results', str(program)], '3']
    printed = capsys.readouterr().out
    assert all(f'awr {seed}: begins' in printed for seed in range(4)) and 'awr 1: the disk is full' in printed


@pytest.mark.parametrize(('how', 'deaf'), [(signal.SIGINT, False), (signal.SIGKILL, False), (signal.SIGKILL, True)])
def test_a_parent_that_ends_takes_its_seeds_along(program, how, deaf):
    # Who is started in the background of a script ignores SIGINT, and so do its children.
    begin = 'import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); ' if deaf else ''
    code = ('from pathlib import Path; from fpo_ros.demo.display import Display; '
            'from fpo_ros.results.jobs import Jobs; from fpo_ros.results.rows import row_named; '
            "Jobs(2, 1, Path('work'), Path('.'), Display()).run([(row_named('awr'), 7), (row_named('ppo'), 7)])")
    # The stand-in is for the children alone.
    plain = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    parent = subprocess.Popen([sys.executable, '-P' if sys.version_info >= (3, 11) else '-I', '-c',
                               f"import os; os.environ['PYTHONPATH'] = {str(program)!r}; {begin}{code}"], env=plain,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asked = [program / f'{row}-7.asked' for row in ('awr', 'ppo')]
        deadline = time.monotonic() + 60
        while not all(path.exists() for path in asked):
            assert time.monotonic() < deadline, 'waited 60 s for two seeds to begin'
            time.sleep(0.05)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) == 2
        parent.send_signal(how)
        assert parent.wait(20) != 0
    finally:
        parent.kill()
    assert not psutil.wait_procs(children, 20)[1], 'seeds must end with their parent'


def test_what_is_finished_is_checked_and_what_seeds_share_is_made_once(tiny, monkeypatch):
    work, results = tiny
    begun: list = []
    monkeypatch.setattr('fpo_ros.results.jobs.Jobs.run', lambda jobs, tasks: begun.extend(tasks))
    running.run_seed(TINY, 0, work, results, Display(), 1)
    found = CliRunner().invoke(cli.app, ['run', 'tiny', '--seeds', '0,1', '--jobs', '2', '--dir', str(work),
                                         '--results', str(results)])
    assert found.exit_code == 0, found.output
    assert begun == [(TINY, 1)] and len(list((work / 'starts').glob('*/evaluation-*.json'))) == 1
    path = results / 'tiny-0.json'
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {'settings': known['settings'] | {'gamma': 0.5}}))
    found = CliRunner().invoke(cli.app, ['run', 'tiny', '--seeds', '0', '--jobs', '2', '--dir', str(work),
                                         '--results', str(results)])
    assert 'gamma was 0.5' in str(found.exception)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr('fpo_ros.learning.parallel.Group.from_environment', classmethod(lambda kind: kind(0, 2, 2)))
    monkeypatch.setattr('fpo_ros.learning.parallel.Group.__enter__', lambda group: group)
    refused = CliRunner().invoke(cli.app, ['run', 'tiny', '--jobs', '2'])
    assert refused.exit_code == 2 and 'torchrun starts several processes for one seed' in refused.output
