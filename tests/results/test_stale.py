"""What is kept from other settings and starts is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny_task
from typer.testing import CliRunner

from fpo_ros.demo.display import Display
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.results import cli, running, stale
from fpo_ros.results.rows import REFERENCE, recipe_of, row_named
from fpo_ros.results.stale import StaleError, check_result, check_start, differences, keep_start, take_packaged


def kept(**changes: object) -> dict:
    """Return what a result of the default holds, unfinished."""
    row = row_named(REFERENCE)
    stored = json.loads(json.dumps({'settings': asdict(row.config()), 'start': asdict(row.start)}))
    return {'start_sha256': tiny_task.policy().digest(), 'evaluations': [], 'finished': False, **stored} | changes


def evaluated(*marks: int) -> list[dict]:
    """Return evaluations at some control steps."""
    return [{'mark': mark, 'sampling': 'random', 'episodes': 500} for mark in marks]


def refused(known: dict, start: FlowPolicy | None = None) -> str:
    with pytest.raises(StaleError) as caught:
        check_result(known, row_named(REFERENCE), start, Path('results/x.json'), Path('work/x'))
    assert str(caught.value).endswith('): remove it and work/x to run it anew') and '\n' not in str(caught.value)
    return str(caught.value)


def test_results_of_what_a_row_no_longer_is_are_refused_with_what_to_remove():
    known, row = kept(), row_named(REFERENCE)
    check_result(known, row, tiny_task.policy(), Path('x.json'), Path('x'))
    older = kept(settings={name: value for name, value in known['settings'].items() if name != 'decay'})
    check_result({name: value for name, value in older.items() if name != 'start'}, row, None, Path('x'), Path('x'))
    assert 'gamma was 0.9, now 0.99' in refused(kept(settings=known['settings'] | {'gamma': 0.9}))
    assert 'haste was 1, which is no setting any more' in refused(kept(settings=known['settings'] | {'haste': 1}))
    clipped = known['settings']['objective'] | {'clip': 0.2}
    assert 'objective.clip was 0.2, now 0.1' in refused(kept(settings=known['settings'] | {'objective': clipped}))
    assert 'start.noise_m was 0.01, now 0.02' in refused(kept(start=known['start'] | {'noise_m': 0.01}))
    assert 'it began with policy' in refused(known, tiny_task.policy(seed=1))
    assert 'evaluations with sampling zero, now random' in refused(kept(
        evaluations=[{'mark': 0, 'sampling': 'zero', 'episodes': 500}]))


def test_a_result_must_have_the_evaluations_of_its_row():
    row = row_named(REFERENCE)
    whole = (0, *row.marks)
    for known in (kept(evaluations=evaluated(*whole), finished=True), kept(evaluations=evaluated(*whole[:2]))):
        check_result(known, row, None, Path('x.json'))
    assert f'now 0, {row.marks[0]:,}, ' in refused(kept(evaluations=evaluated(*whole[:-1]), finished=True))
    assert 'evaluations at 0, 7 control steps, now 0' in refused(kept(evaluations=evaluated(0, 7)))


def test_what_an_older_recipe_learned_is_refused():
    row = row_named('dsrl')
    stored = kept(settings=json.loads(json.dumps(asdict(row.config()))), recipe=recipe_of(row))
    check_result(stored, row, None, Path('x.json'))
    del stored['recipe']
    with pytest.raises(StaleError, match=r'it was learned by recipe 0, now 1\): remove it and its run'):
        check_result(stored, row, None, Path('x.json'))


def test_every_result_of_the_page_is_of_what_its_row_is_now():
    for path in sorted((Path(__file__).parents[2] / 'docs' / 'results').glob('*.json')):
        known = json.loads(path.read_text())
        check_result(known, row_named(known['row']), None, path)
        reference = json.loads(path.with_name(f'{REFERENCE}-0.json').read_text())
        if row_named(known['row']).start == row_named(REFERENCE).start:
            assert known['start_sha256'] == reference['start_sha256'], f'{path.name} has another start'


def test_a_start_that_was_begun_otherwise_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(running, '_demonstrations', None)
    start = replace(row_named(REFERENCE).start, name='other', noise_m=0.5)
    (tmp_path / 'starts' / 'other').mkdir(parents=True)
    keep_start(replace(start, frame_every=1), tmp_path / 'starts' / 'other')
    with pytest.raises(StaleError, match='was begun otherwise .frame_every was 1, now 5.: remove it'):
        running.start_policy(start, tmp_path, Display())


def test_results_say_whether_recorded_successes_were_imitated_and_older_ones_had_none():
    row = row_named('recorded')
    stored = kept(settings=json.loads(json.dumps(asdict(row.config()))))
    with pytest.raises(StaleError, match=r'recorded successes were not imitated, now they are\)'):
        check_result(stored, row, None, Path('results/x.json'), Path('work/x'))
    check_result(stored | {'recorded': True}, row, None, Path('results/x.json'), Path('work/x'))
    check_result(kept(recorded=False), row_named(REFERENCE), None, Path('results/x.json'), Path('work/x'))
    assert 'recorded successes were imitated, now they are not' in refused(kept(recorded=True))


def test_a_setting_that_is_newer_than_a_result_must_be_at_its_default():
    row = row_named('no_decay')
    assert differences({}, row.config())[0] == 'decay was not there, now none'
    assert differences(json.loads(json.dumps(asdict(row.config()))), row.config()) == []


def test_a_start_that_was_made_otherwise_is_refused(tmp_path):
    start, policy = row_named(REFERENCE).start, tiny_task.policy()
    keep_start(start, tmp_path)
    check_start(start, policy, tmp_path)
    with pytest.raises(StaleError, match='noise_m was 0.02, now 0.5.*remove it'):
        check_start(replace(start, noise_m=0.5), policy, tmp_path)
    with pytest.raises(StaleError, match='contract.horizon was 4, now 20'):
        check_start(start, policy, tmp_path / 'older')


@pytest.mark.parametrize('name', ['transfer_state', 'transfer_pixels', 'insertion_state'])
def test_main_rows_begin_with_a_policy_of_the_package(tmp_path, monkeypatch, name):
    monkeypatch.setattr(running, 'record_demonstrations', None)
    row = row_named(name)
    policy = running.start_policy(row.start, tmp_path, Display())
    assert policy.digest() == FlowPolicy.load(Path(f'sft_{name.removeprefix("transfer_")}')).digest()
    for path in (Path(__file__).parents[2] / 'docs' / 'results').glob(f'{name}-*.json'):
        check_result(json.loads(path.read_text()), row, policy, path, tmp_path)


def test_the_policy_of_the_package_is_not_that_of_a_start_which_is_made_otherwise(tmp_path):
    start = row_named(REFERENCE).start
    assert not take_packaged(replace(start, noise_m=0.5), tmp_path) and not list(tmp_path.iterdir())
    assert take_packaged(start, tmp_path / 'start')
    check_start(start, FlowPolicy.load(tmp_path / 'start' / 'policy'), tmp_path / 'start')


def test_a_start_can_be_made_though_the_package_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr(stale, 'names', None)
    monkeypatch.setattr(running, 'record_demonstrations', lambda *_, **__: None)
    monkeypatch.setattr(running, 'load_demonstrations', lambda *_, **__: None)
    monkeypatch.setattr(running.sft, 'train', lambda *_: tiny_task.policy())
    monkeypatch.setattr(running, 'check_start', lambda *_: None)
    shown = CliRunner().invoke(cli.app, ['starts', 'transfer_state', '--dir', str(tmp_path)])
    assert shown.exit_code == 0 and tiny_task.policy().digest()[:12] in shown.output, shown.output
    assert (tmp_path / 'starts' / 'transfer_state' / 'start.json').exists()
