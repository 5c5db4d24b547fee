"""Rows of the results, their runs, and the page made of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_task
import torch
from typer.testing import CliRunner

from fpo_ros.demo.display import Display
from fpo_ros.learning import finetune as finetuning
from fpo_ros.results import cli, report, running
from fpo_ros.results.report import ResultsError, compared_table, load_results, main_table, write_page
from fpo_ros.results.rows import GROUPS, REFERENCE, ROWS, STATE, Row, row_named

torch.set_num_threads(1)

TINY = Row('tiny', 'main', 'Tiny', STATE, 200, (60, 200), seeds=(0,), episodes=3)


def test_every_row_is_a_setting_that_can_be_run():
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.group in GROUPS and row.config() is not None, row.name
        assert list(row.marks) == sorted(set(row.marks)) and row.marks[-1] == row.control_steps
        assert len(row.seeds) >= 3 and row.episodes >= 500
        assert row.start.contract.horizon % 5 == 0, 'pi0_tiny has five steps per token'
    for group in GROUPS[1:]:
        budgets = {row.control_steps for row in ROWS if row.group == group}
        assert len(budgets) == 1 and budgets <= set(row_named(REFERENCE).marks), 'compared at one budget'


def test_rows_that_are_compared_differ_from_the_default_in_one_thing():
    default = row_named(REFERENCE)
    same = [row.name for row in ROWS if row.group != 'main' and row.config() == default.config()
            and row.start == default.start]
    assert not same and not default.settings
    with pytest.raises(ValueError, match="unknown row 'none': known are transfer_state"):
        row_named('none')


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Run rows on the tiny task; return where work and results go."""
    monkeypatch.setattr(running, 'start_policy', lambda start, work, display: tiny_task.policy())
    monkeypatch.setattr(Row, 'config', lambda row: tiny_task.config())
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        yield tmp_path / 'work', tmp_path / 'results'


def test_a_seed_that_was_interrupted_goes_on_to_the_same_result(tiny, monkeypatch, tmp_path):
    work, results = tiny
    whole = running.run_seed(TINY, 0, tmp_path / 'other', tmp_path / 'whole', Display(), 1)
    plain = finetuning.CheckpointDirectory.save
    saved = []

    def killed(checkpoints, *arguments):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(plain(checkpoints, *arguments))

    with monkeypatch.context() as patch:
        patch.setattr(finetuning.CheckpointDirectory, 'save', killed)
        with pytest.raises(KeyboardInterrupt):
            running.run_seed(TINY, 0, work, results, Display(), 1)
    found = running.run_seed(TINY, 0, work, results, Display(), 1)
    for name in ('evaluations', 'zero', 'best', 'finished', 'alarms', 'start_sha256'):
        assert found[name] == whole[name], name
    assert [entry['mark'] for entry in found['evaluations']] == [0, 60, 200]
    assert all(len(entry['gym']) == len(entry['strict']) == 3 for entry in found['evaluations'])
    assert found['finished'] and found == json.loads((results / 'tiny-0.json').read_text())
    monkeypatch.setattr(running, 'start_policy', None)
    assert running.run_seed(TINY, 0, work, results, Display(), 1) == found, 'what is done is not done again'


def test_another_start_policy_begins_the_result_anew(tiny, monkeypatch, tmp_path):
    work, results = tiny
    old = running.run_seed(TINY, 0, work, results, Display(), 1)
    (results / 'tiny-0.json').write_text(json.dumps(old | {'finished': False}))
    monkeypatch.setattr(running, 'start_policy', lambda *_: tiny_task.policy(seed=1))
    found = running.run_seed(TINY, 0, tmp_path / 'other', results, Display(), 1)
    assert found['start_sha256'] != old['start_sha256'] and len(found['evaluations']) == 3


def entry(mark: int, gym: str, strict: str) -> dict:
    return {'mark': mark, 'control_steps': mark + 7, 'sampling': 'random', 'episodes': len(gym), 'gym': gym,
            'strict': strict}


def result(row: str, seed: int, last: str, **more) -> dict:
    """Return a finished result whose final successes are given."""
    half = '1' * 8 + '0' * 2
    *before, end = (0, *row_named(row).marks)
    evaluations = [*(entry(mark, half, half) for mark in before), entry(end, last, last)]
    evaluations[0] = entry(0, '1100000000', '1000000000')
    return {'row': row, 'seed': seed, 'date': '2026-01-02', 'evaluations': evaluations, 'finished': True,
            'zero': entry(0, last, last), 'best': entry(0, half, half), 'minutes': 3.2, 'restored': 0,
            'alarms': ['steps_too_small'],
            'curve': [{'control_steps': steps, 'rewarded_rate': 0.5} for steps in (10, 20)]} | more


def test_the_table_of_a_main_row_by_hand():
    seeds = [result('transfer_state', seed, '1111110000') for seed in (0, 1)]
    lines = main_table(row_named('transfer_state'), seeds)
    assert '| 0 M | 20.0 (10.0) | 20.0 % (5.7 to 51.0) | 10.0 % (1.8 to 40.4) |' in lines
    assert '| 6 M | 60.0 (60.0), 60.0 (60.0) | 60.0 % (38.7 to 78.1) | 60.0 % (38.7 to 78.1) |' in lines
    text = '\n'.join(lines)
    assert 'The end lies below the best evaluation by 20.0, 20.0 points' in text and 'took 3, 3 min' in text
    assert 'Alarms: steps_too_small; the best policy was restored 0 times' in text


def at_its_budget(seed: int, last: str) -> dict:
    """Return a result of the default that goes on behind the budget of the relatives, where its successes are given."""
    whole, mark = result(REFERENCE, seed, '0' * 10), row_named('awr').control_steps
    return whole | {'evaluations': [entry(mark, last, last) if one['mark'] == mark else one
                                    for one in whole['evaluations']]}


def test_rows_are_compared_scene_by_scene_with_the_default_of_the_same_seed():
    found = {REFERENCE: [at_its_budget(0, '1111111100'), at_its_budget(1, '1111111111')],
             'awr': [result('awr', 0, '1111000000'), result('awr', 1, '1111111111')],
             'ppo': [result('ppo', 0, '0000000000', finished=False)]}
    lines = compared_table('relatives', found)
    assert len(lines) == 5 and 'FPO, the default' in lines[2], 'unfinished rows are left out'
    cells = [cell.strip() for cell in lines[3].split('|')]
    assert cells[2:4] == ['0.8 M', '2'] and cells[4].startswith('20.0 %'), 'its start'
    assert cells[5].startswith('70.0 %') and cells[7].startswith('+20.0'), '16 and 20 of 20 less 4'
    assert cells[8] == '0.12', '4 scenes against none: 2 / 2^4'


def test_parts_are_compared_with_the_default_at_their_own_budget():
    found = {REFERENCE: [result(REFERENCE, 0, '1111111111')], 'no_clip': [result('no_clip', 0, '1111110000')]}
    default, part = ([cell.strip() for cell in line.split('|')] for line in compared_table('ablations', found)[2:4])
    assert default[1:4] == ['FPO, the default', '0.4 M', '1'] and default[5].startswith('80.0 %'), 'not its end'
    assert part[1] == 'no trust region' and part[7].startswith('+20.0')
    assert compared_table('pairs', found) == []


def test_rows_of_one_start_share_its_evaluation_and_only_main_rows_look_further(tiny, monkeypatch):
    work, results = tiny
    plain, asked = running.measured, []
    monkeypatch.setattr(running, 'measured', lambda *a: asked.append(a[4]) or plain(*a))
    whole = running.run_seed(TINY, 0, work, results, Display(), 1)
    part = running.run_seed(replace(TINY, name='part', group='ablations'), 0, work, results, Display(), 1)
    assert len(asked) == 3 + 2 + 2 and part['evaluations'][0] == whole['evaluations'][0]
    assert 'zero' in whole and 'best' in whole and 'zero' not in part and 'best' not in part


def test_the_page_holds_what_is_there_and_is_the_same_again(tmp_path):
    (tmp_path / 'results').mkdir()
    for row in (REFERENCE, 'awr'):
        (tmp_path / 'results' / f'{row}-0.json').write_text(json.dumps(result(row, 0, '1' * 10)))
    made = []
    for name in ('one', 'two'):
        write_page(tmp_path / 'results', tmp_path / f'{name}.md', tmp_path / name)
        made.append([(tmp_path / f'{name}.md').read_bytes(),
                     *(path.read_bytes() for path in sorted((tmp_path / name).iterdir()))])
    assert made[0] == made[1] and len(made[0]) == 3
    text = made[0][0].decode()
    assert '## Main results' in text and '## FPO and its relatives' in text and '## Pairs per decision' not in text
    assert 'images/results_transfer_state.svg' in text


@pytest.mark.parametrize('text', ['', '[]', '{"seed": 1}'])
def test_a_damaged_result_is_one_error_that_names_it(tmp_path, text):
    (tmp_path / 'x.json').write_text(text)
    with pytest.raises(ResultsError, match='x.json'):
        load_results(tmp_path)


def test_without_results_there_is_no_page(tmp_path):
    with pytest.raises(ResultsError, match='fpo-ros results run'):
        write_page(tmp_path, tmp_path / 'page.md', tmp_path)
    assert report.load_results(tmp_path) == {}


def test_the_list_says_what_is_done(tmp_path):
    for seed, done in ((0, True), (2, False)):
        (tmp_path / f'awr-{seed}.json').write_text(json.dumps(result('awr', seed, '1' * 10, finished=done)))
    shown = CliRunner().invoke(cli.app, ['list', '--results', str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    line = next(line for line in shown.output.splitlines() if line.startswith('awr '))
    assert 'seeds done: 0 of 3' in line


def test_rows_and_seeds_can_be_chosen(tmp_path, monkeypatch):
    called = []

    def run_seed(row, seed, *_):
        called.append((row.name, seed))
        return result(row.name, seed, '1' * 10)

    monkeypatch.setattr(running, 'run_seed', run_seed)
    shown = CliRunner().invoke(cli.app, ['run', 'awr', 'ppo', '--seeds', '1,2', '--dir', str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert called == [('awr', 1), ('awr', 2), ('ppo', 1), ('ppo', 2)]
    assert 'ppo, seed 2: 100.0%' in shown.output
