"""Where success no longer grows, chunks become as narrow as those that succeed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny_task
import torch
from runs import files, newest, progress, train, without_clock

from fpo_ros.learning.alarms import alarms
from fpo_ros.learning.finetune import best_of, smoothed_success
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.flow import Sampling

#: Some episodes succeed in every iteration, and the first is as good as any: the narrowing begins behind the second.
NARROW = tiny_task.config(episodes=8, smoothing=1, patience=1, narrow_steps=40, narrow_learning_rate=3e-3,
                          learning_rate=0.0, bc_batch=32, sampling=Sampling(noise_range=(0.0, 0.5)), spread_floor=0.9)
ITERATIONS = 6


@dataclass
class Narrowed:
    run: Path
    history: list[dict]
    told: list[str]
    rolled: list[dict[str, torch.Tensor]]
    rates: dict[int, list[float]]
    kept: list[int]


@pytest.fixture(scope='module')
def narrowed(tmp_path_factory) -> Narrowed:
    run, told, rolled, rates, kept = tmp_path_factory.mktemp('narrowed') / 'run', [], [], {}, []
    plain, step = FPO.run_iteration, torch.optim.Adam.step

    def run_iteration(learner: FPO, *arguments: object) -> dict:
        rates[learner.iteration + 1] = []
        metrics = plain(learner, *arguments)
        rolled.append(tiny_task.weights(learner.rolled_out))
        kept.append(len(learner.imitation.own))
        return metrics

    def stepping(optimizer: torch.optim.Adam, *arguments: object) -> None:
        if optimizer.defaults['betas'] == (0.9, 0.95):
            list(rates.values())[-1].append(optimizer.param_groups[0]['lr'])
        step(optimizer, *arguments)

    with pytest.MonkeyPatch.context() as patch, tiny_task.short_episodes(), tiny_task.waist_reward(-9.0):
        patch.setattr(FPO, 'run_iteration', run_iteration)
        patch.setattr(torch.optim.Adam, 'step', stepping)
        _, history = train(run, ITERATIONS, settings=NARROW, on_warning=told.append)
    return Narrowed(run, history, told, rolled, rates, kept)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_it_begins_from_the_best_policy_where_patience_runs_out(narrowed):
    assert [entry.get('restored') for entry in narrowed.history] == [None, True, None, None, None, None]
    assert [entry['narrowed'] for entry in narrowed.history] == [False, False, False, True, True, True]
    assert 'success no longer grows: the best policy is restored, and narrowed from now on' in narrowed.told
    assert [entry['narrowed'] for entry in progress(narrowed.run)] == [False] * 3 + [True] * 3


def test_it_begins_where_success_falls_too(tmp_path, monkeypatch):
    told, plain = [], FPO.run_iteration

    def run_iteration(learner: FPO, *arguments: object) -> dict:
        with tiny_task.short_episodes(), tiny_task.waist_reward(9.0 if learner.iteration == 2 else -9.0):
            return plain(learner, *arguments)

    monkeypatch.setattr(FPO, 'run_iteration', run_iteration)
    _, history = train(tmp_path, 5, settings=replace(NARROW, episodes=16, patience=9), on_warning=told.append)
    assert [entry['narrowed'] for entry in history] == [False] * 4 + [True]
    said = 'success fell to 0.0% from 100.0%: the best policy is restored, and narrowed from now on'
    assert said in told and history[2]['restored']


def test_its_steps_take_the_place_of_those_with_a_ratio(narrowed):
    assert ['ratio' in entry for entry in narrowed.history] == [False] * 6, 'all episodes end alike'
    assert [len(rates) for rates in narrowed.rates.values()] == [0, 0, 40, 40, 40, 40]


def test_its_rate_is_whole_at_first_falls_to_zero_and_is_halved_by_patience(narrowed):
    """Failures are never fewer than in the third iteration: the fourth, the fifth and the sixth halve the rate."""
    for iteration, first in ((3, 3e-3), (4, 1.5e-3), (5, 0.75e-3), (6, 0.375e-3)):
        rates = narrowed.rates[iteration]
        assert rates == pytest.approx([first * (1 - step / 40) for step in range(40)])
        assert narrowed.history[iteration - 1]['learning_rate'] == pytest.approx(first)


def test_only_successes_since_it_began_are_trained_on(narrowed):
    assert narrowed.kept == [1, 2, 1, 2, 3, 4]


def test_chunks_become_narrow_and_no_more_noise_is_tried(narrowed):
    spreads = [entry['chunk_spread'] for entry in narrowed.history]
    assert spreads[2] == pytest.approx(spreads[0], rel=0.3) and spreads[5] < 0.7 * spreads[2]
    assert [entry['noise_high'] for entry in narrowed.history[2:]] == [0.5] * 4
    found = [alarm.name for alarm in alarms([*narrowed.history[:-1], narrowed.history[-1] | {'chunk_spread': 0.0}],
                                            NARROW)]
    assert 'chunks_collapse' not in found


def test_the_best_policy_is_then_a_narrowed_one(narrowed):
    best = tiny_task.weights(FlowPolicy.load(narrowed.run / 'best'))
    assert equal(best, narrowed.rolled[5]) and not equal(best, narrowed.rolled[2])


@pytest.mark.parametrize(('rates', 'flags', 'smoothed', 'best'), [
    ((0.9, 0.5), (False, True), 0.5, 1), ((0.9, 0.5, 0.3), (False, True, True), 0.4, 2),
    ((0.9, 0.6, 0.6, 0.6, 0.0), (False, True, True, True, True), 0.4, 3)])
def test_what_was_not_narrowed_is_no_longer_compared_with_what_was(rates, flags, smoothed, best):
    history = []
    for rate, flag in zip(rates, flags, strict=True):
        history.append({'rewarded_rate': rate, 'narrowed': flag})
        history[-1]['smoothed_success'] = smoothed_success(history, 3)
    assert history[-1]['smoothed_success'] == pytest.approx(smoothed)
    assert best_of(history, 3) is history[best]


@pytest.mark.parametrize('cut', [2, 3, 4])
def test_interrupted_it_goes_on_as_if_it_had_not_been(narrowed, tmp_path, cut):
    with tiny_task.short_episodes(), tiny_task.waist_reward(-9.0):
        for iterations in (cut, ITERATIONS):
            train(tmp_path / 'cut', iterations, settings=NARROW, resume=iterations > cut)
    assert without_clock(progress(tmp_path / 'cut')) == without_clock(progress(narrowed.run))
    one, two = (files(newest(run)) for run in (narrowed.run, tmp_path / 'cut'))
    assert one.keys() == two.keys()
    assert [name for name in one if name != 'learner.json' and one[name] != two[name]] == []


def test_nothing_is_trained_where_nothing_has_succeeded(tmp_path):
    learner = FPO(tiny_task.policy(), NARROW)
    learner.explored = 0
    start = tiny_task.weights(learner.policy)
    with tiny_task.short_episodes(), tiny_task.waist_reward(9.0), open_pool(Local(unit=8)) as pool:
        assert 'bc_loss' not in learner.run_iteration(pool)
    assert equal(start, tiny_task.weights(learner.policy))


def test_recorded_successes_are_none_of_its_own(waist_task):
    learner = FPO(tiny_task.policy(), NARROW, demonstrations=tiny_task.pairs())
    assert [len(source) for source in learner.imitation.sources()] == [6]
    assert learner.imitation.sources(recorded=False) == []
