"""Rows of the results, their runs, and the page made of them."""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch
from tiny_rows import TINY
from typer.testing import CliRunner

from fpo_ros.demo.display import Display
from fpo_ros.learning import finetune as finetuning
from fpo_ros.results import cli, report, running
from fpo_ros.results.rates import difference, mean_over_seeds
from fpo_ros.results.report import ResultsError, compared_table, load_results, main_table, write_page
from fpo_ros.results.rows import GROUPS, REFERENCE, ROWS, STATE, ZERO_REFERENCE, Row, row_named
from fpo_ros.results.stale import StaleError

torch.set_num_threads(1)


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


#: Rows that differ in more than one setting or in none, or are FPO among its relatives, and in which: a critic or a
#: scale comes with its size, advantages that weigh imitation make it weaker, and executed steps set the discount.
MORE = {
    'one_critic': {'critic.kind', 'critic.members'}, 'relative': {'objective.kappa', 'objective.kappa_unit'},
    'surplus': {'bc_weighting', 'bc_coefficient'}, 'full_noise_awr': {'algorithm', 'epochs', 'sampling.noise_range'},
    **{f'execute_{count}': {'gamma'} for count in (5, 10, 25, 50)}, 'fpo_zero': set(), 'recorded': set(),
    'fpo_averaged': {'objective.ratio'}, 'again': set(),
}


def changed(row: Row) -> set[str]:
    """Return the names of settings in which a row differs from the default."""
    def flat(settings: dict, prefix: str = '') -> dict:
        found = {}
        for name, value in settings.items():
            found |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
        return found

    ours, default = flat(asdict(row.config())), flat(asdict(row_named(REFERENCE).config()))
    return {name for name, value in ours.items() if value != default[name]}


def test_rows_that_are_compared_differ_from_the_default_in_one_thing():
    default = row_named(REFERENCE)
    assert not default.settings
    for row in ROWS:
        if row.group in ('main', 'relatives') and row.name not in MORE:
            continue  # other tasks, and other algorithms with settings of their own
        if row.name in MORE:
            assert changed(row) == MORE[row.name], row.name
        else:
            assert len(changed(row)) == 1, (row.name, changed(row))
        assert (row.start == default.start) == (row.group != 'executed'), row.name
        assert (row.sampling == 'random') == (row.name != 'fpo_zero'), row.name
        assert row.recorded == (row.name == 'recorded'), row.name
    assert all(row.config().algorithm != 'fpo' or row.config().placement == 'latent' or row.name in MORE
               for row in ROWS if row.group == 'relatives')
    with pytest.raises(ValueError, match="unknown row 'none': known are transfer_state"):
        row_named('none')


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
    mended = found | {'evaluations': found['evaluations'][:1], 'finished': False}
    (results / 'tiny-0.json').write_text(json.dumps(mended))
    with pytest.raises(StaleError, match='tiny-0 has gone beyond 60 control steps, of which .*tiny-0.json holds no'):
        running.run_seed(TINY, 0, work, results, Display(), 1)
    (results / 'tiny-0.json').write_text(json.dumps(found))
    monkeypatch.setattr(running, 'start_policy', None)
    assert running.run_seed(TINY, 0, work, results, Display(), 1) == found, 'what is done is not done again'


def test_a_seed_of_other_settings_is_not_gone_on_with(tiny, monkeypatch):
    work, results = tiny
    running.run_seed(TINY, 0, work, results, Display(), 1)
    monkeypatch.setattr(Row, 'config', lambda row: tiny_task.config(gamma=0.5))
    with pytest.raises(StaleError, match='gamma was 0.99, now 0.5'):
        running.run_seed(TINY, 0, work, results, Display(), 1)


def test_a_start_is_evaluated_as_what_a_row_makes_of_it_and_from_its_noise(tmp_path, monkeypatch):
    policy, config, seen = tiny_task.policy(), tiny_task.config(algorithm='ppo', warmup=1), []
    monkeypatch.setattr(running, 'measured', lambda policy, row, sampling, *_: seen.append((policy, sampling)) or {})
    monkeypatch.setattr(Row, 'config', lambda row: config)
    running.start_evaluation(policy, replace(TINY, sampling='zero'), tmp_path, Display())
    monkeypatch.setattr(Row, 'config', lambda row: tiny_task.config())
    for _ in range(2):
        running.start_evaluation(policy, TINY, tmp_path, Display())
    assert [(one.contract.flow_steps, sampling) for one, sampling in seen] == [(1, 'zero'), (4, 'random')]


def test_minutes_are_of_all_iterations_whoever_ran_them(tiny):
    work, results = tiny
    found = running.run_seed(TINY, 0, work, results, Display(), 1)
    lines = (work / 'runs' / 'tiny-0' / 'progress.jsonl').read_text().splitlines()
    spent = [entry['rollout_s'] + entry['update_s'] for entry in map(json.loads, lines)]
    assert found['minutes'] == pytest.approx(sum(spent) / 60) and len(found['curve']) == len(spent)
    assert all({'learning_rate', 'noise_high', 'narrowed'} <= entry.keys() for entry in found['curve'])


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
            'alarms': ['steps_too_small'], 'settings': {'learning_rate': 1e-3},
            'curve': [{'control_steps': steps, 'rewarded_rate': 0.5} for steps in (10, 20)]} | more


def test_the_table_of_a_main_row_by_hand():
    seeds = [result('transfer_state', seed, '1111110000') for seed in (0, 1)]
    lines = main_table(row_named('transfer_state'), seeds)
    rows = ([part.strip() for part in line.split('|')] for line in lines)
    cells = {row[1]: row[2:-1] for row in rows if len(row) > 3}
    assert cells['control steps'] == ['seed 0', 'seed 1', 'mean, gym', 'mean, strict']
    start, end = cells['0 M'], cells['6 M']
    assert start[:2] == 2 * ['20.0 (5.7 to 51.0); strict 10.0 (1.8 to 40.4)']
    assert end[0] == '60.0 (31.3 to 83.2); strict 60.0 (31.3 to 83.2)' and end[2].startswith('60.0 (')
    assert cells['`best`'][0].startswith('80.0 (') and cells['the end, from zero start noise'][2].startswith('60.0 (')
    text = '\n'.join(lines)
    assert 'The end lies below the best evaluation by 20.0 (seed 0), 20.0 (seed 1) points.' in text
    assert 'Begun 2026-01-02 (seed 0), 2026-01-02 (seed 1). Training took 3 min (seed 0), 3 min (seed 1).' in text
    assert 'Alarms: steps_too_small (seed 0), steps_too_small (seed 1). Times that' in text
    assert 'Times that the best policy was restored: 0 (seed 0), 0 (seed 1).' in text
    assert 'learning rate' not in text


def test_the_page_says_from_where_on_the_rate_had_settled():
    def curve(*rates: float) -> list[dict]:
        return [{'control_steps': 1_000_000 * (index + 1), 'rewarded_rate': 0.5, 'learning_rate': rate}
                for index, rate in enumerate(rates)]

    seeds = [result('transfer_state', 0, '1' * 10, curve=curve(1e-3, 0.9e-5, 1.1e-5, 0.9e-5, 1e-6)),
             result('transfer_state', 1, '1' * 10, curve=curve(1e-3, 1e-3))]
    text = '\n'.join(main_table(row_named('transfer_state'), seeds))
    assert 'The learning rate was below 1% of its start from 4.0 M control steps (seed 0) on: what follows' in text


def test_the_page_says_where_narrowing_began():
    """Of the policy that the third iteration rolled out the fourth shows what narrowing made."""
    curve = [{'control_steps': 150_000 * (index + 1), 'rewarded_rate': 0.5, 'narrowed': index > 2}
             for index in range(5)]
    seeds = [result('insertion_state', 0, '1' * 10, curve=curve), result('insertion_state', 1, '1' * 10)]
    assert 'began, at 0.30 M (seed 0) control steps.' in '\n'.join(main_table(row_named('insertion_state'), seeds))


@pytest.mark.parametrize(('values', 'low', 'high'), [
    (np.eye(2)[:, [0] * 50 + [1] * 50], 0.5, 0.5), (np.repeat([[0.0], [1.0]], 100, 1), 0.0, 1.0),
    (np.ones((3, 100)), 1.0, 1.0)])
def test_the_interval_of_a_mean_grows_with_what_seeds_differ_by(values, low, high):
    mean, lower, upper = mean_over_seeds(values)
    assert mean == pytest.approx(values.mean()) and lower - 1e-9 <= mean <= upper + 1e-9
    assert lower == pytest.approx(low, abs=0.13) and upper == pytest.approx(high, abs=0.13)


def test_scenes_that_are_common_to_seeds_are_no_independent_episodes():
    same = np.tile(np.arange(100) < 80, (3, 1)).astype(float)
    _, low, high = mean_over_seeds(same)
    _, lower, upper = mean_over_seeds(same[:1])
    assert high - low == pytest.approx(upper - lower, abs=0.02), 'equal seeds tell no more than one'
    assert upper - lower == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / 100), abs=0.03)


def test_a_difference_of_means_is_of_runs_that_are_no_pairs_in_common_scenes():
    hard = np.arange(100) < 50
    one, other = np.stack([np.ones(100), hard]), np.stack([hard, hard])
    mean, low, high = difference(one, other)
    assert mean == pytest.approx(0.25) and low == pytest.approx(0.0, abs=0.01) and high == pytest.approx(0.5, abs=0.13)
    assert difference(other, other) == (0.0, 0.0, 0.0), 'what scenes say is the same on both sides'
    assert difference(other, one)[0] == pytest.approx(-0.25)
    _, low, high = difference(one, one)
    assert (low, high) == (pytest.approx(-0.5, abs=0.13), pytest.approx(0.5, abs=0.13)), 'runs are drawn on either side'
    mixed = difference(np.eye(2)[[0, 0, 0]].repeat(50, 1), np.eye(2)[[1]].repeat(50, 1))
    assert mixed[0] == 0 and mixed[2] - mixed[1] == pytest.approx(0.4, abs=0.1), 'of 100 scenes, twice 1.96 times 0.1'


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
    assert cells[2:4] == ['0.8 M', '20.0 (5.7 to 51.0)'], 'its start'
    assert cells[4] == '0: 40.0 (16.8 to 68.7), 1: 100.0 (72.2 to 100.0)' and cells[5].startswith('70.0 (')
    assert cells[7].startswith('+20.0 (') and cells[7].endswith('; p 0: 0.12, 1: 1'), '4 scenes against none: 2 / 2^4'
    assert cells[8:10] == ['3, 3', '2026-01-02']


def test_what_acts_from_zero_noise_is_compared_with_the_default_from_zero_noise():
    found = {REFERENCE: [at_its_budget(0, '0000000000')], 'ppo': [result('ppo', 0, '1111000000')]}
    line, = [line for line in compared_table('relatives', found) if 'PPO' in line]
    assert line.split('|')[7].strip() == '', 'not with success from other noise'
    found[ZERO_REFERENCE] = [result(ZERO_REFERENCE, 0, '1111110000')]
    line, = [line for line in compared_table('relatives', found) if 'PPO' in line]
    assert line.split('|')[7].strip().startswith('+20.0')


def test_parts_are_compared_with_the_default_at_their_own_budget():
    found = {REFERENCE: [result(REFERENCE, 0, '1111111111')], 'no_clip': [result('no_clip', 0, '1111110000')]}
    default, part = ([cell.strip() for cell in line.split('|')] for line in compared_table('ablations', found)[2:4])
    assert default[1:3] == ['FPO, the default', '0.4 M'] and default[5].startswith('80.0 ('), 'not its end'
    assert part[1] == 'no trust region' and part[7].startswith('+20.0')
    assert compared_table('pairs', found) == []


def test_parts_are_compared_with_all_runs_of_the_default_and_those_with_each_other():
    again = result('again', 0, '0' * 10)
    again['evaluations'][1] = entry(400_000, '1111000000', '1111000000')
    found = {REFERENCE: [result(REFERENCE, 0, '1' * 10)], 'again': [again],
             'no_clip': [result('no_clip', 0, '1111110000'), result('no_clip', 5, '1111110000')],
             'awr': [result('awr', 5, '1' * 10)], 'pairs_2': [result('pairs_2', 0, '1' * 10)]}
    lines = compared_table('ablations', found)
    default, second, part = ([cell.strip() for cell in line.split('|')] for line in lines[2:5])
    assert second[1:3] == ['FPO, the default, run once more', '0.4 M'] and second[5].startswith('40.0 ('), 'not its end'
    assert second[7].startswith('+40.0 (') and second[7].endswith('; p 0: 0.12'), '80 of the first run'
    assert part[7].startswith('+0.0 (') and part[7].endswith('; p 0: 0.5'), '80 and 40; p is of the same seed'
    assert lines[-2].startswith('Of all 2 runs of the default together: 60.0 (')
    assert '| 2 pairs |' in compared_table('pairs', found)[4], 'behind both runs'
    awr = [cell.strip() for cell in compared_table('relatives', found)[4].split('|')]
    assert awr[1] == 'advantage-weighted regression' and awr[7].startswith('-60.0 (') and ';' not in awr[7], \
        '80 and 0 at 0.8 M; there is no run of that seed'
    assert compared_table('relatives', found)[-2].startswith('Of all 2 runs of the default together: 40.0 (')
    found['again'] = [again | {'finished': False}]
    for group in ('relatives', 'ablations'):
        table = compared_table(group, found)
        assert not any('once more' in line or 'together' in line for line in table), 'unfinished runs count nowhere'
        assert table[3].split('|')[7].strip().startswith('+20.0 (' if group == 'ablations' else '-20.0 (')


def test_what_keeps_success_where_it_is_shows_how_far_it_has_fallen():
    found = {REFERENCE: [result(REFERENCE, 0, '1' * 10)], 'no_patience': [result('no_patience', 0, '1111100000')]}
    heads, _, default, part = ([cell.strip() for cell in line.split('|')]
                               for line in compared_table('stability', found)[:4])
    assert len(heads) == len(default) == len(part) and heads[8] == 'below its best, by seed'
    assert default[2] == part[2] == '3 M' and (default[8], part[8]) == ('0: 0.0', '0: 30.0'), '80 before, 50 at the end'


def test_rows_of_one_start_share_its_evaluation_and_only_main_rows_look_further(tiny, monkeypatch):
    work, results = tiny
    plain, asked = running.measured, []
    monkeypatch.setattr(running, 'measured', lambda *a: asked.append(a[4]) or plain(*a))
    whole = running.run_seed(TINY, 0, work, results, Display(), 1)
    part = running.run_seed(replace(TINY, name='part', group='ablations'), 0, work, results, Display(), 1)
    assert len(asked) == 3 + 2 + 2 and part['evaluations'][0] == whole['evaluations'][0]
    assert 'zero' in whole and 'best' in whole and 'zero' not in part and 'best' not in part


def keep(directory: Path, row: str, **more) -> None:
    """Keep a finished result of a row as it is now."""
    found = result(row, 0, '1' * 10, settings=asdict(row_named(row).config()))
    found['evaluations'] = [entry(one['mark'], 50 * one['gym'], 50 * one['strict']) for one in found['evaluations']]
    directory.mkdir(exist_ok=True)
    (directory / f'{row}-0.json').write_text(json.dumps(found | more))


def test_the_page_holds_what_is_there_and_is_the_same_again(tmp_path):
    keep(tmp_path / 'results', REFERENCE, remark='begun in the rain')
    keep(tmp_path / 'results', 'awr')
    made = []
    for name in ('one', 'two'):
        write_page(tmp_path / 'results', tmp_path / f'{name}.md', tmp_path / name)
        made.append([(tmp_path / f'{name}.md').read_bytes(),
                     *(path.read_bytes() for path in sorted((tmp_path / name).iterdir()))])
    assert made[0] == made[1] and len(made[0]) == 3
    text = made[0][0].decode()
    assert '## Main results' in text and '## FPO and its relatives' in text and '## Pairs per decision' not in text
    assert 'images/results_transfer_state.svg' in text and '\nSeed 0: begun in the rain.\n' in text
    assert ', one seed |' in text


def test_the_page_refuses_what_is_of_other_settings_than_its_row(tmp_path):
    keep(tmp_path / 'results', REFERENCE)
    keep(tmp_path / 'results', 'awr', settings=asdict(row_named('filtered_bc').config()))
    with pytest.raises(StaleError, match='awr-0.json is of something else .*algorithm was filtered_bc, now awr'):
        write_page(tmp_path / 'results', tmp_path / 'page.md', tmp_path)
    assert not (tmp_path / 'page.md').exists()


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


@pytest.mark.parametrize('seeds', ['a', '1,', '-1', ''])
def test_seeds_that_are_none_are_one_error_that_says_what_to_give(seeds):
    shown = CliRunner().invoke(cli.app, ['run', 'awr', '--seeds', seeds])
    assert shown.exit_code == 2 and 'are no seeds' in shown.output and 'invalid literal' not in shown.output


def test_who_waits_for_a_start_that_another_process_makes_is_told(tmp_path, capsys):
    place = running._place_of
    entered = threading.Event()

    def wait() -> None:
        with place(STATE, tmp_path, Display()):
            entered.set()

    with place(STATE, tmp_path, Display()):
        assert 'waiting' not in capsys.readouterr().out
        waiting = threading.Thread(target=wait)
        waiting.start()
        deadline, said = time.monotonic() + 20, ''
        while 'waiting for another process' not in said:
            assert time.monotonic() < deadline, f'nothing was said but {said!r}'
            time.sleep(0.01)
            said += capsys.readouterr().out
        assert str(tmp_path / 'starts' / STATE.name) in said and not entered.is_set()
    waiting.join(20)
    assert entered.is_set()
