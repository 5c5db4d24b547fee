"""Runs that end where the learning rate has settled."""

from __future__ import annotations

import pytest
import tiny_task
from runs import train, without_clock

from fpo_ros.learning.alarms import has_settled
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.finetune import _learned_out

#: The rate is halved after every iteration without fewer failures: at the seventh time it has settled.
IMPATIENT = {'smoothing': 1, 'patience': 1, 'settling': 0.0, 'restore_drop': None}


def test_a_run_ends_behind_the_first_iteration_whose_rate_has_settled(waist_task, tmp_path):
    settings = tiny_task.config(**IMPATIENT)
    _, history = train(tmp_path / 'run', None, settings=settings, until_settled=True)
    assert [has_settled(entry, settings) for entry in history] == [*(len(history) - 1) * [False], True]
    assert len(history) >= 7 and history[-1]['learning_rate'] == settings.learning_rate / 2**7
    assert 'settled' in history[-1]['alarms']
    _, again = train(tmp_path / 'run', None, settings=settings, until_settled=True, resume=True)
    assert again == history, 'nothing is left to do'
    _, more = train(tmp_path / 'run', len(history) + 1, settings=settings, resume=True)
    assert len(more) == len(history) + 1, 'without it a run goes on'


def test_an_interrupted_run_ends_where_it_would_have(waist_task, tmp_path):
    settings = tiny_task.config(**IMPATIENT)
    _, whole = train(tmp_path / 'whole', None, settings=settings, until_settled=True)
    train(tmp_path / 'run', 3, settings=settings)
    _, history = train(tmp_path / 'run', None, settings=settings, until_settled=True, resume=True)
    assert without_clock(history) == without_clock(whole)


def test_other_limits_hold_as_well(waist_task, tmp_path):
    settings = tiny_task.config(**IMPATIENT)
    _, history = train(tmp_path / 'iterations', 2, settings=settings, until_settled=True)
    assert len(history) == 2
    _, history = train(tmp_path / 'steps', None, settings=settings, until_settled=True, control_steps=1)
    assert len(history) == 1


@pytest.mark.parametrize(('settings', 'entry', 'ended'), [
    ({}, {'learning_rate': 1.9e-6}, True), ({}, {'learning_rate': 2.1e-6}, False),
    ({'warmup': 3}, {'learning_rate': 1.9e-6}, False), ({'warmup': 2}, {'learning_rate': 1.9e-6}, True),
    ({'narrow_steps': 9}, {'learning_rate': 1.9e-6, 'narrowed': False}, False),
    ({'narrow_steps': 9}, {'learning_rate': 4.9e-6, 'narrowed': True}, True),
    ({'narrow_steps': 9}, {'learning_rate': 5.1e-6, 'narrowed': True}, False)])
def test_it_is_the_rate_of_what_is_trained_last_that_counts(settings, entry, ended):
    """Rates begin at 2e-4, and in the narrowing at 5e-4."""
    assert _learned_out([{'iteration': 3} | entry], FPOConfig(**settings)) == ended


def test_a_rate_that_never_settles_is_no_end(tmp_path):
    for change in ({'patience': None}, {'learning_rate': 0.0}):
        settings = tiny_task.config(**IMPATIENT | change)
        with pytest.raises(ValueError, match='a learning rate of .* with patience (None|1) never settles'):
            train(tmp_path / 'run', 5, settings=settings, until_settled=True)
    with pytest.raises(ValueError, match='a run without end: .* or let it end where the rate has settled'):
        train(tmp_path / 'run', None)
    assert not (tmp_path / 'run').exists()
