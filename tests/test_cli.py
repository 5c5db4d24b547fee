"""The command line: help, exit codes, one line per failure, and a small path through every learning verb."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from fpo_ros import cli
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning import rollout
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0

VERBS = [
    'demo',
    'train',
    'train sft',
    'train fpo',
    'eval',
    'export',
    'record',
    'doctor',
    'episodes',
    'releases',
]


@pytest.fixture
def fpo_ros(capsys, monkeypatch):
    """Return a function that runs a command line in this process: exit code, output, errors."""
    monkeypatch.setenv('COLUMNS', '200')

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        code = end.value.code
        captured = capsys.readouterr()
        return 0 if code is None else code, captured.out, captured.err

    return run


def plain(text: str) -> str:
    """Return text without colours."""
    return re.sub(r'\x1b\[[0-9;]*m', '', text)


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_explains_itself(fpo_ros, verb):
    code, out, err = fpo_ros(*verb.split(), '--help')
    assert code == 0 and not err
    assert f'Usage: fpo-ros {verb}' in plain(out)
    assert len(out.splitlines()) > 5


def test_the_list_of_verbs_is_complete(fpo_ros):
    code, out, _ = fpo_ros('--help')
    assert code == 0
    for verb in ('demo', 'train', 'eval', 'export', 'record', 'doctor', 'episodes', 'releases'):
        assert re.search(rf'^\W*{verb}\s', plain(out), re.MULTILINE), verb


@pytest.mark.ros
def test_the_graph_explains_itself(fpo_ros):
    for words in (('up', '--help'), ('up', 'sim', '--help')):
        code, out, _ = fpo_ros(*words)
        assert code == 0 and 'sim' in out


@pytest.mark.parametrize(
    'arguments',
    [
        ['dance'],
        ['train', 'dance'],
        ['eval'],
        ['eval', '--policy', 'x', '--episodes', '0'],
        ['demo', '--fast'],
        ['record', '--store', 'x', '--noise', '-1'],
        ['train', 'fpo', '--run', 'x', '--iterations', 'many'],
        ['train', 'sft', '--demonstrations', 'x'],
    ],
)
def test_wrong_usage_is_code_two(fpo_ros, arguments):
    code, out, err = fpo_ros(*arguments)
    assert code == 2 and not out and 'Usage' in plain(err)


FAILURES = {
    'unknown observation of a demo': (
        ['demo', '--observation', 'smell', '--dir', '{new}'],
        'state or pixels',
    ),
    'foreign directory': (['demo', '--dir', '{foreign}'], 'holds other files'),
    'foreign directory, resumed': (
        ['demo', '--resume', '--quick', '--dir', '{foreign}'],
        'holds other files',
    ),
    'file for a directory': (['demo', '--dir', '{foreign}/thesis.tex'], 'directory'),
    'no policy to evaluate': (['eval', '--policy', '{new}'], 'does not exist'),
    'no policy to export': (['export', '--policy', '{new}', '--out', '{out}'], 'does not exist'),
    'no store to learn from': (['train', 'sft', '--demonstrations', '{new}', '--out', '{out}'], '{new}'),
    'empty store': (
        ['train', 'sft', '--demonstrations', '{empty}', '--out', '{out}'],
        'record demonstrations first',
    ),
    'unknown observation of training': (
        ['train', 'sft', '--demonstrations', '{empty}', '--out', '{out}', '--observation', 'smell'],
        'state or pixels',
    ),
    'nothing to start from': (['train', 'fpo', '--run', '{new}'], '--policy'),
    'nothing to resume': (['train', 'fpo', '--run', '{new}', '--resume'], '--policy'),
    'no start policy': (['train', 'fpo', '--run', '{out}', '--policy', '{new}'], 'does not exist'),
    'unknown observation to record': (
        ['record', '--store', '{new}', '--observation', 'smell'],
        'state or pixels',
    ),
    'foreign store': (['record', '--store', '{foreign}', '--episodes', '1'], '{foreign}'),
    'missing store': (['episodes', 'list', '{new}'], '{new}'),
    'no trusted key': (['releases', 'list', '{new}', '--trusted', '{foreign}'], 'holds no trusted key'),
}


@pytest.mark.parametrize('case', FAILURES)
def test_a_failure_is_code_one_and_one_line_that_says_what_to_do(fpo_ros, tmp_path, case):
    places = {name: str(tmp_path / name) for name in ('new', 'foreign', 'empty', 'out')}
    (tmp_path / 'foreign').mkdir()
    (tmp_path / 'foreign' / 'thesis.tex').write_text('years of work')
    EpisodeStore.create_or_open(tmp_path / 'empty')
    arguments, words = FAILURES[case]
    code, out, err = fpo_ros(*(argument.format(**places) for argument in arguments))
    assert (code, out) == (1, ''), err
    assert len(err.strip().splitlines()) == 1 and err.startswith('fpo-ros: ') and 'Traceback' not in err
    assert words.format(**places) in err
    assert not (tmp_path / 'new').exists(), 'a refused command leaves nothing'
    assert not (tmp_path / 'out').exists()
    assert (tmp_path / 'foreign' / 'thesis.tex').read_text() == 'years of work'


def test_a_demo_stops_at_a_failed_stage_and_resumes_behind_the_finished_ones(fpo_ros, tmp_path, monkeypatch):
    from fpo_ros.demo import run as demo

    calls: list[str] = []

    def stages(config, work, display, results):
        def stage(name: str):
            def work_() -> dict:
                calls.append(name)
                if calls == ['first', 'second']:
                    raise RuntimeError('the disk is full: free some space')
                return {'name': name}

            return name, f'Stage {name}', work_

        return [stage('first'), stage('second')]

    monkeypatch.setattr(demo, '_stages', stages)
    monkeypatch.setattr(demo, '_numbers', lambda results, seconds: {'names': list(seconds)})
    monkeypatch.setattr(demo, 'write_report', lambda path, *_: path.write_text('page'))
    code, out, err = fpo_ros('demo', '--quick', '--dir', tmp_path / 'demo')
    assert code == 1 and err.strip() == 'fpo-ros: the disk is full: free some space' and 'Stage second' in out
    code, out, err = fpo_ros('demo', '--quick', '--resume', '--json', '--dir', tmp_path / 'demo')
    assert code == 0 and calls == ['first', 'second', 'second']
    assert 'done before' in err, 'with --json, words go to standard error'
    numbers = json.loads(out)
    assert numbers['names'] == ['first', 'second', 'report'] and numbers['peak_memory_bytes'] > 50e6
    assert json.loads((tmp_path / 'demo' / 'report.json').read_text()) == json.loads(out)


def test_an_interrupted_command_says_so_and_that_it_can_go_on(fpo_ros, tmp_path, monkeypatch):
    def interrupted(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr('fpo_ros.demo.run.run_demo', interrupted)
    code, _, err = fpo_ros('demo', '--dir', tmp_path / 'demo')
    assert code == 130 and '--resume' in err and 'Traceback' not in err


@pytest.fixture
def short():
    """Cap simulated episodes at two decisions."""
    with mock.patch.dict(rollout.MAX_STEPS, {'transfer_cube': 40}):
        yield


def test_record_train_fine_tune_export_and_evaluate(fpo_ros, tmp_path, short):
    work = tmp_path
    code, out, err = fpo_ros('record', '--store', work / 'store', '--episodes', 2, '--noise', 0.0)
    assert (code, err) == (0, '') and '2 of them successful' in ' '.join(out.split())
    code, out, _ = fpo_ros(
        'train', 'sft', '--demonstrations', work / 'store', '--out', work / 'sft', '--steps', 2, '--batch', 8
    )
    assert code == 0 and '2 episodes' in ' '.join(out.split())
    code, out, _ = fpo_ros(
        'train',
        'fpo',
        '--run',
        work / 'fpo',
        '--policy',
        work / 'sft',
        '--episodes',
        2,
        '--iterations',
        1,
        '--demonstrations',
        work / 'store',
    )
    assert code == 0 and 'iteration 1' in out
    code, _, err = fpo_ros('train', 'fpo', '--run', work / 'fpo', '--policy', work / 'sft', '--episodes', 2)
    assert code == 1 and '--resume' in err
    code, out, err = fpo_ros(
        'train', 'fpo', '--run', work / 'fpo', '--episodes', 2, '--iterations', 1, '--resume'
    )
    assert code == 0, err
    code, out, err = fpo_ros('export', '--policy', work / 'fpo' / 'best', '--out', work / 'onnx')
    assert code == 0 and 'ONNX differs from torch' in ' '.join(out.split())
    assert {'prefix.onnx', 'denoise.onnx', 'vectors.npz', 'contract.json', 'norm_stats.json'} == {
        entry.name for entry in (work / 'onnx').iterdir()
    }
    code, out, err = fpo_ros(
        'eval', '--policy', work / 'fpo' / 'best', '--episodes', 2, '--sampling', 'zero', '--json'
    )
    assert code == 0
    result = json.loads(out)
    assert (
        result['episodes'] == 2
        and 0 <= result['wilson_low'] <= result['success_rate'] <= result['wilson_high']
    )


def test_an_interrupt_signal_ends_training_cleanly(tmp_path):
    """Ctrl-C in a real process: one line, code 130, and the run directory is whole."""
    contract = PolicyContract()
    stats = NormStats(np.zeros(21), np.ones(21), START_JOINTS, np.full(14, 0.1))
    (tmp_path / 'policy').mkdir()
    FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats).save(tmp_path / 'policy')
    command = [
        sys.executable,
        '-m',
        'fpo_ros.cli',
        'train',
        'fpo',
        '--run',
        str(tmp_path / 'run'),
        '--policy',
        str(tmp_path / 'policy'),
        '--episodes',
        '2',
        '--iterations',
        '1000',
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONUNBUFFERED': '1'},
    )
    try:
        for line in process.stdout:
            if 'iteration 1' in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and '--resume' in err and 'Traceback' not in err
    assert (tmp_path / 'run' / 'best' / 'policy.json').exists()
