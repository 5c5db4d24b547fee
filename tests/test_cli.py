"""The command line: help, exit codes, one line per failure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from fpo_ros import cli
from fpo_ros.episodes.store import EpisodeStore

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


def test_the_exit_codes_are_explained(fpo_ros):
    _, out, _ = fpo_ros('--help')
    words = ' '.join(out.split())
    for text in ('0 done', '1 failed', '2 wrong usage', '130 interrupted by Ctrl-C'):
        assert text in words, text


@pytest.mark.ros
def test_the_graph_explains_itself(fpo_ros):
    for words in (('up', '--help'), ('up', 'sim', '--help')):
        code, out, _ = fpo_ros(*words)
        assert code == 0 and 'sim' in out


@pytest.mark.parametrize(('verb', 'unit'), [
    ('record', '[m]'),
    pytest.param('up sim', '[s]', marks=pytest.mark.ros),
    ('releases promote', '[%]'),
])
def test_help_keeps_units_in_brackets(fpo_ros, verb, unit):
    _, out, _ = fpo_ros(*verb.split(), '--help')
    assert unit in out


def test_a_group_explains_itself_in_its_own_words(fpo_ros):
    from fpo_ros.episodes.cli import app as episodes

    _, out, _ = fpo_ros('episodes', '--help')
    assert ' '.join(episodes.info.help.split()) in ' '.join(out.split())


def test_the_promises_of_a_demo_are_explained(fpo_ros):
    words = ' '.join(fpo_ros('demo', '--help')[1].split())
    for text in ('--check', 'hot swap', '35 minutes', '6 GB', '49 to 51', 'runs/demo-quick'):
        assert text in words, text


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
    'unknown task to evaluate': (
        ['eval', '--policy', 'fpo_state', '--task', 'juggling'],
        "unknown task 'juggling': use transfer_cube or insertion",
    ),
    'policy of another task': (
        ['eval', '--policy', 'fpo_state', '--task', 'insertion'],
        'fpo_state is a policy of transfer_cube, not of insertion: leave --task out',
    ),
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


@pytest.fixture
def any_machine(monkeypatch):
    """Pass over what the last stages of a demo need of the machine."""
    monkeypatch.setattr('fpo_ros.demo.machine.prepare_machine', lambda contract, display: '')


def test_a_demo_stops_at_a_failed_stage_and_resumes_behind_the_finished_ones(
        fpo_ros, tmp_path, monkeypatch, any_machine):
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
    monkeypatch.setattr(demo, 'numbers', lambda results, seconds, wall_s, memory: {
        'names': list(seconds), 'wall_s': wall_s, 'memory': memory})
    monkeypatch.setattr(demo, 'verdict', lambda found: ('FPO beats SFT', 'swapped'))
    monkeypatch.setattr(demo, 'write_report', lambda path, *_: path.write_text('page'))
    code, out, err = fpo_ros('demo', '--quick', '--dir', tmp_path / 'demo')
    assert code == 1 and err.strip() == 'fpo-ros: the disk is full: free some space' and 'Stage second' in out
    code, out, err = fpo_ros('demo', '--quick', '--resume', '--json', '--dir', tmp_path / 'demo')
    assert code == 0 and calls == ['first', 'second', 'second']
    assert 'done before' in err and 'FPO beats SFT' in err, 'with --json, words go to standard error'
    found = json.loads(out)
    assert found['names'] == ['first', 'second', 'report'] and found['memory'] is None
    assert json.loads((tmp_path / 'demo' / 'report.json').read_text()) == found


@pytest.mark.parametrize('as_json', [False, True])
def test_a_broken_promise_is_code_one_only_where_it_was_asked_for(fpo_ros, tmp_path, monkeypatch, any_machine, as_json):
    from fpo_ros.demo import run as demo

    rate = {'successes': 9, 'episodes': 40, 'wilson_low': 0.1, 'wilson_high': 0.4}
    found = {'sft': rate, 'fpo': rate, 'disjoint_intervals': False, 'gate_refusal': '', 'wall_s': 100.0,
             'peak_memory_bytes': 1, 'graph': {'swaps': 1, 'episodes': 4, 'command_rate_hz': 50.0}}
    monkeypatch.setattr(demo, 'run_demo', lambda *_: found)
    arguments = ['demo', '--quick', '--dir', tmp_path / 'demo', *(['--json'] if as_json else [])]
    code, out, err = fpo_ros(*arguments, '--check')
    assert (code, err) == (0, '')
    found['wall_s'] = 500.0
    assert fpo_ros(*arguments)[0] == 0
    code, out, err = fpo_ros(*arguments, '--check')
    assert code == 1 and len(err.splitlines()) == 1 and '500 s, more than 360 s' in err
    assert not as_json or json.loads(out) == found


def test_a_demo_that_cannot_end_well_does_not_begin(fpo_ros, tmp_path, monkeypatch):
    """Earlier results stay where they are, too."""
    monkeypatch.setenv('MUJOCO_GL', 'disabled')
    monkeypatch.setattr('fpo_ros.demo.machine.prepare_ros', lambda: None)
    (tmp_path / 'demo').mkdir()
    (tmp_path / 'demo' / 'demo.json').write_text('{}')
    code, out, err = fpo_ros('demo', '--observation', 'pixels', '--dir', tmp_path / 'demo')
    assert (code, out) == (1, '') and len(err.splitlines()) == 1 and 'GL' in err and 'apt-get install' in err
    assert [entry.name for entry in tmp_path.iterdir()] == ['demo']


def full_disk(path: str | None) -> OSError:
    """Return the error of a full disk; that of a write has no path."""
    return OSError(28, 'No space left on device', path)


@pytest.mark.parametrize(('error', 'words'), [
    (full_disk('/data/[lab]/x'), '/data/[lab]/x: disk full'),
    (full_disk(None), 'free some space or choose another disk'),
    (PermissionError(13, 'Permission denied', '/data/x'), '/data/x: Permission denied'),
    (OSError('a cable is loose'), 'a cable is loose'),
    (RuntimeError('first line\nsecond line'), 'first line second line'),
    (ModuleNotFoundError("No module named 'torch'"), 'fpo-ros doctor'),
])
def test_errors_of_the_system_come_with_advice_in_one_line(fpo_ros, monkeypatch, error, words):
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr('fpo_ros.doctor.doctor', failing)
    code, out, err = fpo_ros('doctor')
    assert (code, out) == (1, '') and len(err.splitlines()) == 1 and words in err, err


def test_a_damaged_tensor_file_is_one_line(fpo_ros, monkeypatch, tmp_path):
    from safetensors.torch import load_file

    (tmp_path / 'policy.safetensors').write_bytes(b'not a tensor file')
    monkeypatch.setattr('fpo_ros.doctor.doctor', lambda as_json: load_file(tmp_path / 'policy.safetensors'))
    code, out, err = fpo_ros('doctor')
    assert (code, out) == (1, '') and len(err.splitlines()) == 1 and err.startswith('fpo-ros: ')


def test_a_process_of_its_own_is_set_up_before_anything_else(monkeypatch):
    done: list[str] = []
    for name in ('isolate', 'write_below_checkout', '_mount'):
        monkeypatch.setattr(cli, name, lambda *_, name=name: done.append(name))
    monkeypatch.setattr(sys, 'argv', ['fpo-ros', 'episodes', '--help'])
    monkeypatch.setattr(cli, '_guarded', lambda work: 0)
    for arguments in (None, ['episodes', '--help']):
        with pytest.raises(SystemExit):
            cli.main(arguments)
    assert done == ['isolate', 'write_below_checkout', '_mount', '_mount']


def test_the_command_line_loads_nothing_heavy(tmp_path):
    code = ('import sys; from fpo_ros import cli\n'
            'try: cli.main(["episodes", "list", "/nowhere"])\n'
            'except SystemExit: print(sorted({"torch", "safetensors", "mujoco", "rclpy"} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_an_interrupted_command_says_so_and_that_it_can_go_on(fpo_ros, tmp_path, monkeypatch, any_machine):
    def interrupted(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr('fpo_ros.demo.run.run_demo', interrupted)
    code, _, err = fpo_ros('demo', '--dir', tmp_path / 'demo')
    assert code == 130 and '--resume' in err and 'Traceback' not in err


@pytest.mark.parametrize('chosen, spin', [({}, cli.SPIN), ({'GOMP_SPINCOUNT': '7'}, '7'),
                                          ({'OMP_WAIT_POLICY': 'PASSIVE'}, None)])
def test_threads_look_for_work_for_a_moment_before_they_sleep_unless_told_otherwise(fpo_ros, monkeypatch, chosen, spin):
    for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'):
        monkeypatch.setenv(name, '')  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert fpo_ros('--help')[0] == 0
    assert os.environ.get('GOMP_SPINCOUNT') == spin
