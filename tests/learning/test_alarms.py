"""Alarms: what raises each, what just does not, and that all names are documented."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_task
from runs import train

from fpo_ros.learning.alarms import NAMES, alarms
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.metrics import OTHERS, SCALARS
from fpo_ros.learning.objective import ObjectiveConfig

CONFIG = FPOConfig(episodes=100, learning_rate=1e-4, warmup=1)
#: An iteration about which there is nothing to say.
WELL = {'rewarded_rate': 0.6, 'smoothed_success': 0.6, 'worst_region': 0.4, 'diverged': 0, 'flow_loss': 0.1,
        'loss_change_good': -0.001, 'loss_change_bad': 0.001, 'chunk_spread': 0.5, 'clip_fraction': 0.15,
        'ratio_max': 1.5, 'explained_variance': 0.6, 'learning_rate': 1e-4}


def history(*changes: dict, last: dict | None = None, count: int = 6) -> list[dict]:
    """Return iterations that go well but for changes: of the newest few, or of the last one."""
    entries = [dict(WELL, iteration=index + 1) for index in range(count)]
    for entry, change in zip(entries[-len(changes):] if changes else (), changes, strict=True):
        entry.update(change)
    entries[-1].update(last or {})
    return entries


def names(entries: list[dict], config: FPOConfig = CONFIG) -> list[str]:
    return [alarm.name for alarm in alarms(entries, config)]


def three(**change: float) -> list[dict]:
    return history(change, change, change)


def since_the_start(**change: float) -> list[dict]:
    entries = history()
    entries[0].update(change)
    return entries


def in_the_second(**change: float) -> list[dict]:
    entries = history()
    entries[1].update(change)
    return entries


def without(*left_out: str) -> list[dict]:
    entries = history()
    for entry in entries:
        for name in left_out:
            entry.pop(name)
    return entries


UNCLIPPED = replace(CONFIG, objective=ObjectiveConfig(trust_region='none'))


@pytest.mark.parametrize(('name', 'entries', 'neighbour'), [
    ('stopped_by_drift', history(last={'steps_taken': 0.99}), history(last={'steps_taken': 1.0})),
    ('stopped_by_drift', history(last={'steps_taken': 0.5}), history({'steps_taken': 0.5}, {'steps_taken': 1.0})),
    ('steps_too_large', history(last={'clip_fraction': 0.31}), history(last={'clip_fraction': 0.29})),
    ('steps_too_large', history(last={'clip_fraction': 0.31}), history({'clip_fraction': 0.9}, {})),
    ('steps_too_small', history(last={'clip_fraction': 0.003}), history(last={'clip_fraction': 0.005})),
    ('steps_too_small', history(last={'clip_fraction': 0.0}), history({'clip_fraction': 0.0}, {})),
    ('steps_too_small', history(last={'clip_fraction': 0.0}),
     history(last={'clip_fraction': 0.0, 'learning_rate': 5e-5})),
    ('ratio_explodes', history(last={'ratio_max': 2.7183, 'clip_fraction': 0.21}),
     history(last={'ratio_max': 2.7183, 'clip_fraction': 0.19})),
    ('ratio_explodes', history(last={'ratio_max': 2.7183, 'clip_fraction': 0.21}),
     history(last={'ratio_max': 2.6, 'clip_fraction': 0.21})),
    ('pushed_apart', three(loss_change_bad=0.026), three(loss_change_bad=0.024)),
    ('pushed_apart', three(loss_change_bad=0.026),
     history({'loss_change_bad': 0.9}, {'loss_change_bad': 0.001}, {'loss_change_bad': 0.9})),
    ('chunks_collapse', history(last={'chunk_spread': 0.149}), history(last={'chunk_spread': 0.151})),
    ('chunks_collapse', history(last={'chunk_spread': 0.0}), history({'chunk_spread': 0.0}, {})),
    ('chunks_collapse', history(last={'chunk_spread': 0.1, 'smoothed_success': 0.99}),
     history(last={'chunk_spread': 0.2, 'smoothed_success': 0.99})),
    ('values_blind', three(explained_variance=0.19),
     history({'explained_variance': 0.21}, {'explained_variance': -1.0}, {'explained_variance': -1.0})),
    ('values_blind', [dict(entry, explained_variance=0.0) for entry in history(count=4)],
     [dict(entry, explained_variance=0.0) for entry in history(count=3)]),
    ('success_falls', three(rewarded_rate=0.49), history(
        {'rewarded_rate': 0.49}, {'rewarded_rate': 0.51}, {'rewarded_rate': 0.49})),
    ('success_falls', in_the_second(rewarded_rate=0.71), in_the_second(rewarded_rate=0.69)),
    # The first iteration is drawn from other noise.
    ('success_falls', in_the_second(rewarded_rate=0.71), since_the_start(rewarded_rate=0.99)),
    ('region_lost', history(last={'worst_region': 0.19}), history(last={'worst_region': 0.21})),
    ('region_lost', history(last={'worst_region': 0.0, 'smoothed_success': 0.51}),
     history(last={'worst_region': 0.0, 'smoothed_success': 0.49})),
    ('region_lost', history(last={'worst_region': 0.0}), history(last={'worst_region': None})),
    ('physics_diverges', history(last={'diverged': 6}), history(last={'diverged': 5})),
    ('settled', history(last={'learning_rate': 0.99e-6}), history(last={'learning_rate': 1.01e-6})),
    ('settled', history(last={'learning_rate': 0.99e-6}), history({'learning_rate': 0.99e-6}, {})),
])
def test_an_alarm_is_raised_by_what_it_is_of_and_not_by_what_is_beside_it(name, entries, neighbour):
    assert names(entries) == [name]
    assert names(neighbour) == []


def test_nothing_is_said_of_a_run_that_goes_well():
    for count in range(1, 8):
        assert alarms(history(count=count), CONFIG) == []


def test_every_name_is_raised_by_a_case_above():
    (mark,) = test_an_alarm_is_raised_by_what_it_is_of_and_not_by_what_is_beside_it.pytestmark
    assert {case[0] for case in mark.args[1]} == set(NAMES)


def test_alarms_come_in_the_order_of_their_names_and_say_what_to_do():
    worst = {'steps_taken': 0.2, 'clip_fraction': 0.9, 'ratio_max': 9.0, 'loss_change_bad': 1.0, 'chunk_spread': 0.01,
             'diverged': 50,
             'explained_variance': 0.0, 'rewarded_rate': 0.3, 'worst_region': 0.0, 'learning_rate': 0.0}
    found = alarms(history(worst, worst, worst), CONFIG)
    assert [alarm.name for alarm in found] == [name for name in NAMES if name != 'steps_too_small']
    assert all('\n' not in alarm.text and re.search(r'[:;] ', alarm.text) for alarm in found)


def test_where_drift_ended_the_epochs_steps_are_not_called_too_small():
    assert names(history(last={'clip_fraction': 0.0, 'steps_taken': 0.5})) == ['stopped_by_drift']


def test_bad_decisions_are_pushed_apart_whether_ratios_are_reported_or_not():
    entries = three(loss_change_bad=0.026)
    for name in ('clip_fraction', 'ratio_max'):
        entries[-1].pop(name)
    assert names(entries) == ['pushed_apart']


def test_without_a_trust_region_small_steps_are_no_matter():
    assert names(history(last={'clip_fraction': 0.0}), UNCLIPPED) == []


def test_the_clamp_of_the_ratio_is_the_one_of_the_settings():
    entries = history(last={'ratio_max': 2.7183, 'clip_fraction': 0.25})
    assert names(entries) == ['ratio_explodes']
    assert names(entries, replace(CONFIG, objective=ObjectiveConfig(log_ratio_clip=2.0))) == []
    entries[-1]['ratio_max'] = 7.389
    assert names(entries, replace(CONFIG, objective=ObjectiveConfig(log_ratio_clip=2.0))) == ['ratio_explodes']


def test_a_longer_warm_up_gives_the_critic_longer():
    entries = [dict(entry, explained_variance=0.0) for entry in history(count=6)]
    assert names(entries, replace(CONFIG, warmup=3)) == ['values_blind']
    assert names(entries, replace(CONFIG, warmup=4)) == []


def test_a_fall_is_none_before_three_iterations_after_the_second():
    low = {'rewarded_rate': 0.1}
    assert names(history(low, low, count=4)) == [] and names(history(low, low, low, count=5)) == ['success_falls']


def test_what_an_iteration_does_not_report_raises_nothing():
    ratios = ('clip_fraction', 'ratio_max', 'loss_change_bad', 'loss_change_good', 'flow_loss')
    assert names(without(*ratios)) == [] and names(without(*ratios, 'chunk_spread', 'worst_region')) == []
    entries = history()
    for entry in entries[-3:]:
        entry.pop('loss_change_bad')
    assert names(entries) == []


def test_an_alarm_is_told_once_while_it_lasts_and_again_when_it_comes_back(waist_task, tmp_path, monkeypatch):
    diverged = iter([0, 4, 4, 0, 4])
    plain = FPO.run_iteration
    monkeypatch.setattr(FPO, 'run_iteration', lambda *a: plain(*a) | {'diverged': next(diverged)})
    told: list[str] = []
    _, entries = train(tmp_path, 5, on_warning=told.append)
    assert ['physics_diverges' in entry['alarms'] for entry in entries] == [False, True, True, False, True]
    assert [text.split(':')[0] for text in told].count('physics_diverges') == 2


def documented() -> set[str]:
    """Return what docs/algorithms.md names in backquotes."""
    return set(re.findall(r'`([^`\n]+)`', (Path(__file__).parents[2] / 'docs' / 'algorithms.md').read_text()))


@pytest.mark.parametrize('name', NAMES)
def test_every_alarm_is_documented(name):
    assert name in documented()


@pytest.mark.parametrize('name', SCALARS + OTHERS)
def test_every_metric_is_documented(name):
    assert name in documented()


@pytest.mark.parametrize('changes', [
    {}, {'algorithm': 'awr'}, {'algorithm': 'filtered_bc'}, {'placement': 'latent'}, {'drift_stop': None},
    {'algorithm': 'ppo', 'warmup': 1}, {'algorithm': 'dsrl'}])
def test_every_metric_has_a_name(waist_task, tmp_path, changes):
    _, entries = train(tmp_path, 2, settings=tiny_task.config(**changes))
    assert all(set(entry) <= set(SCALARS + OTHERS) for entry in entries)
    numbers = (int, float, type(None))
    assert all(isinstance(entry[name], numbers) for entry in entries for name in SCALARS if name in entry)
