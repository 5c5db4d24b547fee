"""Directories and stages of the demo."""

from __future__ import annotations

import json

import pytest

from fpo_ros.demo.config import demo_config
from fpo_ros.demo.run import DemoError, StageLog, _numbers, prepare


def test_a_new_directory_is_made_and_marked(tmp_path):
    prepare(tmp_path / 'a' / 'demo', 'state', True, False)
    assert json.loads((tmp_path / 'a' / 'demo' / 'demo.json').read_text()) == {
        'observation': 'state',
        'quick': True,
    }


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    for resume in (False, True):
        with pytest.raises(DemoError, match='holds other files'):
            prepare(tmp_path, 'state', True, resume)
    assert [entry.name for entry in tmp_path.iterdir()] == ['thesis.tex']


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    file = tmp_path / 'file'
    file.write_text('x')
    with pytest.raises(DemoError, match='directory'):
        prepare(file, 'state', True, False)


def test_a_demo_starts_afresh_unless_it_resumes(tmp_path):
    work = tmp_path / 'demo'
    prepare(work, 'state', True, False)
    (work / 'old').write_text('x')
    prepare(work, 'state', True, True)
    assert (work / 'old').exists()
    prepare(work, 'state', True, False)
    assert not (work / 'old').exists() and (work / 'demo.json').exists()


@pytest.mark.parametrize(('observation', 'quick'), [('pixels', True), ('state', False)])
def test_a_demo_of_other_settings_is_not_resumed(tmp_path, observation, quick):
    prepare(tmp_path / 'demo', 'state', True, False)
    with pytest.raises(DemoError, match='other settings'):
        prepare(tmp_path / 'demo', observation, quick, True)


def test_finished_stages_are_skipped_and_failed_ones_repeated(tmp_path):
    calls = []

    def stage() -> dict:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError('interrupted')
        return {'value': len(calls)}

    log = StageLog(tmp_path)
    assert log.run('first', stage) == ({'value': 1}, False)
    with pytest.raises(RuntimeError):
        log.run('second', stage)
    again = StageLog(tmp_path)
    assert again.run('first', stage) == ({'value': 1}, True)
    assert again.run('second', stage) == ({'value': 3}, False)
    assert len(calls) == 3 and set(again.seconds) == {'first', 'second'}
    assert again.seconds['first'] == log.seconds['first']
    assert not list((tmp_path / 'stages').glob('*.new'))


def test_quick_numbers_are_smaller_and_take_the_same_path():
    for observation in ('state', 'pixels'):
        full, quick = demo_config(observation, False), demo_config(observation, True)
        assert quick.contract == full.contract
        for name in ('evaluation_episodes', 'iterations', 'graph_episodes'):
            assert 0 < getattr(quick, name) < getattr(full, name)
        assert quick.sft.steps < full.sft.steps and quick.fpo.episodes < full.fpo.episodes
        assert full.gate_max_drop == 0


def test_unknown_observations_are_refused():
    with pytest.raises(ValueError, match='state or pixels'):
        demo_config('smell', True)


def test_reported_numbers_leave_out_the_single_runs():
    rate = {
        'successes': 3,
        'episodes': 4,
        'wilson_low': 0.3,
        'wilson_high': 0.9,
        'success_strict_rate': 0.5,
        'x': 1,
    }
    rate['zero_sampling'] = dict(rate)
    numbers = _numbers(
        {'sft_evaluation': rate, 'fpo_evaluation': rate, 'graph': {'runs': [1], 'swaps': 1}},
        {'sft': 2.0, 'graph': 3.0},
    )
    assert numbers['graph'] == {'swaps': 1} and numbers['wall_s'] == 5.0
    assert 'x' not in numbers['sft'] and numbers['fpo']['zero_sampling']['successes'] == 3
    json.dumps(numbers)
