"""Runs that end where the learning rate has settled."""

from __future__ import annotations

import pytest
import tiny_task
from runs import train

from fpo_ros.learning.alarms import has_settled

#: The rate is halved after every iteration without fewer failures: at the seventh time it has settled.
IMPATIENT = {'smoothing': 1, 'patience': 1, 'settling': 0.0, 'restore_drop': None}


def test_a_run_ends_behind_the_first_iteration_whose_rate_has_settled(waist_task, tmp_path):
    settings = tiny_task.config(**IMPATIENT)
    _, history = train(tmp_path / 'run', None, settings=settings, until_settled=True)
    assert [has_settled(entry, settings) for entry in history] == [*(len(history) - 1) * [False], True]
    assert len(history) > 7 and history[-1]['learning_rate'] == settings.learning_rate / 2**7
    assert 'settled' in history[-1]['alarms']
    _, again = train(tmp_path / 'run', None, settings=settings, until_settled=True, resume=True)
    assert again == history, 'nothing is left to do'
    _, more = train(tmp_path / 'run', len(history) + 1, settings=settings, resume=True)
    assert len(more) == len(history) + 1, 'without it a run goes on'


def test_other_limits_hold_as_well(waist_task, tmp_path):
    _, history = train(tmp_path / 'run', 2, settings=tiny_task.config(**IMPATIENT), until_settled=True)
    assert len(history) == 2


def test_a_rate_that_never_settles_is_no_end(tmp_path):
    with pytest.raises(ValueError, match='without end: .* where the rate has settled, which takes a patience'):
        train(tmp_path / 'run', None, settings=tiny_task.config(**IMPATIENT | {'patience': None}), until_settled=True)
    assert not (tmp_path / 'run').exists()
