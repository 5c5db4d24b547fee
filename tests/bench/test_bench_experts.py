"""``fpo-ros bench experts``: how often the scripted experts succeed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fpo_ros.bench import experts
from fpo_ros.bench.cli import app
from fpo_ros.releases.wilson import wilson_interval


@pytest.fixture
def quick(monkeypatch):
    """Measure one error for each task."""
    monkeypatch.setattr(experts, 'NOISE_M', {'transfer_cube': (0.0,), 'insertion': (0.005,)})


def test_each_task_and_error_has_a_row_with_its_interval(quick, capsys):
    app(['experts', '--episodes', '3', '--json', '--check'], standalone_mode=False)
    said = capsys.readouterr()
    cube, peg = json.loads(said.out)['experts']
    assert (cube['task'], cube['noise_m'], cube['episodes'], cube['successes']) == ('transfer_cube', 0.0, 3, 3)
    assert [cube['wilson_low'], cube['wilson_high']] == pytest.approx(wilson_interval(3, 3))
    assert (peg['task'], peg['noise_m']) == ('insertion', 0.005)
    assert 'transfer_cube with errors of 0 mm: 3 of 3 succeeded' in said.err


def test_batches_of_scenes_change_nothing(monkeypatch):
    whole = experts.success('insertion', 0.005, np.arange(5))
    monkeypatch.setattr(experts, '_BATCH', 2)
    assert experts.success('insertion', 0.005, np.arange(5)) == whole


def test_an_expert_that_fails_too_often_breaks_the_promise():
    rows = [{'task': task, 'noise_m': noise, 'episodes': 200, 'successes': successes} for task, noise, successes in
            (('transfer_cube', 0.0, 190), ('transfer_cube', 0.03, 10), ('insertion', 0.0, 179))]
    assert experts.broken_promises(rows) == [
        'the expert of insertion succeeded in 179 of 200 episodes, promised 90%']
