"""Rows that imitate recorded successes beside the policy's own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import tiny_task
from test_results import TINY

from fpo_ros.demo.display import Display
from fpo_ros.results import running
from fpo_ros.results.rows import STATE


def test_a_row_with_recorded_successes_hands_them_to_training(tiny, monkeypatch):
    work, results = tiny
    asked, given, plain = [], [], running.finetune

    def load(store, contract, successes_only=False):
        asked.append((store.path, contract, successes_only))
        return tiny_task.pairs()

    monkeypatch.setattr(running, 'record_demonstrations', lambda store, contract, episodes, noise, **_: asked.append(
        (store.path, contract, episodes, noise)))
    monkeypatch.setattr(running, 'load_demonstrations', load)
    monkeypatch.setattr(running, 'finetune', lambda *a, **options: given.append(
        options['demonstrations']) or plain(*a, **options))
    row = replace(TINY, group='ablations', name='recorded', marks=(60,), control_steps=60, recorded=True)
    found = running.run_seed(row, 0, work, results, Display(), 1)
    where = work / 'starts' / STATE.name / 'demonstrations'
    assert asked == [(where, STATE.contract, 100, 0.02), (where, STATE.contract, True)]
    assert [len(pairs.states) for pairs in given] == [6] and found['recorded']
    about = json.loads((work / 'runs' / 'recorded-0' / 'config.json').read_text())['demonstrations']
    assert about['pairs'] == 6
    running.run_seed(replace(row, name='own', recorded=False), 0, work, results, Display(), 1)
    assert given[1:] == [None] and len(asked) == 2


def test_the_demonstrations_of_a_start_are_recorded_once(tmp_path):
    start = replace(STATE, demonstrations=2, noise_m=0.0)
    first = running.demonstrations_of(start, tmp_path, Display(), successes_only=True)
    store = tmp_path / 'starts' / start.name / 'demonstrations'
    before = {path: path.stat().st_mtime_ns for path in store.rglob('*') if path.is_file()}
    again = running.demonstrations_of(start, tmp_path, Display(), successes_only=True)
    assert first.episodes == again.episodes == 2 and np.array_equal(first.chunks, again.chunks)
    assert before == {path: path.stat().st_mtime_ns for path in store.rglob('*') if path.is_file()}
