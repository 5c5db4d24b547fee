"""Stages of the demo, its numbers and its promises."""

from __future__ import annotations

import json
import re

import pytest

from fpo_ros.demo import run as demo
from fpo_ros.demo.config import demo_config
from fpo_ros.demo.directory import DemoError, default_directory, program
from fpo_ros.demo.display import Display
from fpo_ros.demo.numbers import broken_promises, numbers, verdict
from fpo_ros.demo.run import StageLog, resume_command, run_demo


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
    assert sorted(entry.name for entry in (tmp_path / 'stages').iterdir()) == ['first.json', 'second.json']
    assert again.resumed and not log.resumed


@pytest.mark.parametrize('text', ['', '{"seconds": 1.0, "resu', '[]', '{"seconds": 1.0}',
                                  '{"seconds": "x", "result": {}}'])
def test_a_damaged_result_is_named_with_what_to_do(tmp_path, text):
    log = StageLog(tmp_path)
    log.run('first', dict)
    (tmp_path / 'stages' / 'first.json').write_text(text)
    with pytest.raises(DemoError, match=r'stages/first\.json is .*remove it and pass --resume') as failure:
        StageLog(tmp_path).run('first', dict)
    assert len(str(failure.value).splitlines()) == 1
    (tmp_path / 'stages' / 'first.json').unlink()
    assert StageLog(tmp_path).run('first', lambda: {'value': 1}) == ({'value': 1}, False)


def test_quick_numbers_are_smaller_and_take_the_same_path():
    for observation in ('state', 'pixels'):
        full, quick = demo_config(observation, False), demo_config(observation, True)
        assert quick.contract == full.contract
        for name in ('evaluation_episodes', 'iterations', 'graph_episodes'):
            assert 0 < getattr(quick, name) < getattr(full, name)
        assert quick.sft.steps < full.sft.steps and quick.fpo.episodes < full.fpo.episodes
        assert full.gate_max_drop == 0
        assert quick.gate_max_drop >= 100, 'no difference of success rates is refused'


def test_unknown_observations_are_refused():
    with pytest.raises(ValueError, match='state or pixels'):
        demo_config('smell', True)


def rate(successes: int, episodes: int, low: float, high: float) -> dict:
    one = {'successes': successes, 'episodes': episodes, 'wilson_low': low, 'wilson_high': high,
           'success_strict_rate': 0.5, 'success_rate': successes / episodes, 'x': 1}
    return {**one, 'zero_sampling': dict(one)}


def results(episodes: int = 200, graph_episodes: int = 20, refusal: str = '', **graph: object) -> dict:
    """Return the results of a demo that keeps every promise, but for what is given."""
    return {'sft_evaluation': rate(20, episodes, 0.05, 0.2), 'fpo_evaluation': rate(120, episodes, 0.5, 0.7),
            'release': {'refusal': refusal},
            'graph': {'runs': [1], 'swaps': 1, 'episodes': graph_episodes, 'command_rate_hz': 50.0} | graph}


def test_the_reported_numbers_are_those_promised():
    found = numbers(results(), {'sft': 2.0, 'graph': 3.0}, 5.5, 10**9)
    assert {'sft', 'fpo', 'graph', 'stages', 'wall_s'} <= set(found)
    assert 'runs' not in found['graph'] and found['wall_s'] == 5.5 and found['stages'] == {'sft': 2.0, 'graph': 3.0}
    assert 'x' not in found['sft'] and found['fpo']['zero_sampling']['successes'] == 120
    assert found['disjoint_intervals'] is True and found['peak_memory_bytes'] == 10**9
    json.dumps(found)


@pytest.mark.parametrize(('sft', 'fpo', 'words', 'disjoint'), [
    ((20, 0.05, 0.2), (120, 0.5, 0.7), 'FPO beats SFT: 60.0% against 10.0% of 200', True),
    ((20, 0.05, 0.55), (120, 0.5, 0.7), 'not shown that FPO beats SFT', False),
    ((120, 0.5, 0.7), (20, 0.05, 0.2), 'FPO is worse than SFT', False),
])
def test_whether_fpo_beats_sft_is_said(sft, fpo, words, disjoint):
    both = {'sft_evaluation': rate(sft[0], 200, *sft[1:]), 'fpo_evaluation': rate(fpo[0], 200, *fpo[1:])}
    found = numbers(results() | both, {}, 1.0, 1)
    assert verdict(found)[0].startswith(words) and found['disjoint_intervals'] is disjoint


def test_whether_the_policy_was_swapped_is_said():
    assert 'was swapped' in verdict(numbers(results(), {}, 1.0, 1))[1]
    refused = verdict(numbers(results(swaps=0, refusal='v000002 is worse'), {}, 1.0, 1))[1]
    assert 'not swapped' in refused and 'v000002 is worse' in refused


FULL, QUICK = demo_config('state', False), demo_config('state', True)
BROKEN = {
    'no swap': (results(swaps=0, refusal='v000002 is worse'), 60.0, 1, 'no hot swap.*v000002 is worse'),
    'graph cut short': (results(graph_episodes=19), 60.0, 1, '19 episodes in the graph instead of 20'),
    'evaluation cut short': (results(episodes=150), 60.0, 1, 'sft evaluated on 150 scenes instead of 200'),
    'too slow': (results(), 2101.0, 1, '2101 s, more than 2100 s'),
    'too large': (results(), 60.0, 6_100_000_000, '6.1 GB of memory, more than 6 GB'),
    'commands too slow': (results(command_rate_hz=48.9), 60.0, 1, '48.90 Hz instead of 50 Hz'),
    'commands too fast': (results(command_rate_hz=51.1), 60.0, 1, '51.10 Hz instead of 50 Hz'),
    'no proof': (results() | {'fpo_evaluation': rate(30, 200, 0.1, 0.25)}, 60.0, 1, 'not shown that FPO beats SFT'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_promise_is_one_sentence(case):
    found, wall_s, memory, words = BROKEN[case]
    broken = broken_promises(numbers(found, {}, wall_s, memory), FULL, False)
    assert re.search(words, broken[0])
    assert len(broken) == (2 if case == 'evaluation cut short' else 1)


def test_a_demo_that_keeps_its_promises_passes():
    assert broken_promises(numbers(results(), {}, 2099.0, 5_900_000_000), FULL, False) == []


def test_a_quick_demo_has_less_time_and_proves_nothing():
    found = results(episodes=40, graph_episodes=4) | {'fpo_evaluation': rate(1, 40, 0.0, 0.1)}
    assert broken_promises(numbers(found, {}, 359.0, 1), QUICK, True) == []
    assert broken_promises(numbers(found, {}, 361.0, 1), QUICK, True) == ['361 s, more than 360 s']


def test_a_full_demo_from_pixels_proves_nothing_in_half_an_hour():
    found = numbers(results() | {'fpo_evaluation': rate(30, 200, 0.1, 0.25)}, {}, 60.0, 1)
    assert broken_promises(found, demo_config('pixels', False), False) == []


def test_memory_that_was_not_measured_breaks_nothing():
    assert broken_promises(numbers(results(), {}, 60.0, None), FULL, False) == []


@pytest.fixture
def short(monkeypatch):
    """A demo of two stages whose results keep every promise."""
    values = results(40, 6)

    def stages(config, work, display, found):
        return [('first', 'First', lambda: {'a': 1}), ('second', 'Second', lambda: found.update(values) or {'b': 2})]

    monkeypatch.setattr(demo, '_stages', stages)
    return monkeypatch


def test_the_numbers_are_written_before_the_films_are_made(short, tmp_path):
    """Whatever ends the making of films, the results of half an hour are there."""
    def no_disk(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    short.setattr(demo, 'write_report', no_disk)
    with pytest.raises(DemoError, match=r'disk full.*free some space.*--resume'):
        run_demo(tmp_path / 'demo', 'state', True, False, Display())
    assert json.loads((tmp_path / 'demo' / 'report.json').read_text())['graph']['swaps'] == 1


def test_memory_of_a_resumed_demo_is_not_known(short, tmp_path):
    short.setattr(demo, 'write_report', lambda path, *_: path.write_text('page'))
    found = run_demo(tmp_path / 'demo', 'state', True, False, Display())
    assert found['peak_memory_bytes'] > 10e6
    (tmp_path / 'demo' / 'stages' / 'second.json').unlink()
    found = run_demo(tmp_path / 'demo', 'state', True, True, Display())
    assert found['peak_memory_bytes'] is None


def test_a_resumed_demo_counts_the_time_of_finished_stages(short, tmp_path):
    short.setattr(demo, 'write_report', lambda path, *_: path.write_text('page'))
    run_demo(tmp_path / 'demo', 'state', True, False, Display())
    file = tmp_path / 'demo' / 'stages' / 'first.json'
    file.write_text(json.dumps({'seconds': 1000.0, 'result': {}}))
    (tmp_path / 'demo' / 'stages' / 'second.json').unlink()
    assert 1000.0 < run_demo(tmp_path / 'demo', 'state', True, True, Display())['wall_s'] < 1010.0


def test_an_interrupted_demo_says_how_to_go_on(short, tmp_path, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    short.setattr(demo, 'write_report', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / 'my demo', 'state', True, False, Display())
    out = capsys.readouterr().out
    assert f"demo --quick --dir '{tmp_path / 'my demo'}' --resume\n" in out


def test_the_command_that_goes_on_repeats_what_was_chosen(tmp_path):
    assert resume_command(default_directory(False), 'state', False) == f'{program()} demo --resume'
    assert resume_command(default_directory(True), 'pixels', True) == (
        f'{program()} demo --quick --observation pixels --resume')
