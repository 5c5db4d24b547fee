"""Runs over many iterations: going back to the best policy, averages, budgets, early stops, interruptions."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_task
import torch
from runs import files, newest, progress, train, without_clock
from safetensors.torch import load_file

from fpo_ros.learning import soft_actor_critic
from fpo_ros.learning.algorithms import prepared
from fpo_ros.learning.config import CriticConfig
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.objective import ObjectiveConfig
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.flow import Sampling

#: Success of every episode, and of none.
EASY, HARD = -9.0, 9.0
#: Three iterations that succeed; from the fourth on none does.
COLLAPSE = (EASY, EASY, EASY, HARD)
AVERAGED = tiny_task.config(average=0.5)
#: Control steps of an iteration in which none succeeds.
ITERATION = tiny_task.CONFIG.episodes * tiny_task.STEPS


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Tests of what an interrupted write leaves stand elsewhere."""
    monkeypatch.setattr(os, 'fsync', lambda _: None)


@contextmanager
def goals(*chosen: float) -> Iterator[None]:
    """Set the goal of each iteration; the last one goes on."""
    plain = FPO.run_iteration

    def run_iteration(learner: FPO, *arguments: object) -> dict:
        with tiny_task.short_episodes(), tiny_task.waist_reward(chosen[min(learner.iteration, len(chosen) - 1)]):
            return plain(learner, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FPO, 'run_iteration', run_iteration)
        yield


@dataclass
class Collapsed:
    """A run whose success collapses for good.

    :param history: of twelve iterations.
    :param told: warnings.
    :param rolled: weights that made the rollout of each iteration.
    :param at: copies of the run behind the iterations 6 and 7.
    """

    history: list[dict]
    told: list[str]
    rolled: list[dict[str, torch.Tensor]]
    at: dict[int, Path]


@pytest.fixture(scope='module')
def collapsed(tmp_path_factory) -> Collapsed:
    folder, told, rolled, at = tmp_path_factory.mktemp('collapsed'), [], [], {}
    plain = FPO.run_iteration

    def run_iteration(learner: FPO, *arguments: object) -> dict:
        metrics = plain(learner, *arguments)
        rolled.append(tiny_task.weights(learner.rolled_out))
        return metrics

    def copy(entry: dict) -> None:
        if entry['iteration'] in (6, 7):
            at[entry['iteration']] = Path(shutil.copytree(folder / 'run', folder / str(entry['iteration'])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FPO, 'run_iteration', run_iteration)
        with goals(*COLLAPSE):
            _, history = train(folder / 'run', 12, settings=AVERAGED, on_warning=told.append, on_iteration=copy)
    return Collapsed(history, told, rolled, at)


def weights_at(path: Path) -> dict[str, torch.Tensor]:
    return tiny_task.weights(FlowPolicy.load(path))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def same_state(run: Path, other: Path) -> None:
    """Compare all that two runs wrote, but for the clock."""
    one, two = files(run), files(other)
    for wanted in (one, two):
        assert wanted.pop('progress.jsonl') and wanted.pop('progress.csv')
        for name in [name for name in wanted if name.endswith('learner.json')]:
            document = json.loads(wanted[name])
            wanted[name] = document | {'history': without_clock(document['history'])}
    assert one.keys() == two.keys() and [name for name in one if one[name] != two[name]] == []
    assert without_clock(progress(run)) == without_clock(progress(other))


def test_where_success_collapses_the_best_policy_is_restored(collapsed):
    run, history = collapsed.at[6], collapsed.history[:6]
    assert [entry['smoothed_success'] for entry in history] == pytest.approx([1, 1, 1, 2 / 3, 1 / 3, 0])
    assert [entry.get('restored') for entry in history] == [None] * 5 + [True]
    assert equal(weights_at(newest(run)), weights_at(run / 'best'))
    assert not equal(weights_at(newest(run)), weights_at(run / 'checkpoints' / '000005'))
    said = 'success fell to 0.0% from 100.0%: the best policy is restored, and the learning rate halved'
    assert said in collapsed.told
    assert [entry.get('restored') for entry in progress(run)] == [None] * 5 + [True]


def test_the_best_policy_is_the_one_that_made_the_rollouts_of_the_best_iteration_and_the_next(collapsed):
    best = weights_at(collapsed.at[6] / 'best')
    assert equal(best, collapsed.rolled[2]) and equal(best, collapsed.rolled[6])
    assert not equal(best, collapsed.rolled[5])


def test_after_a_restoration_the_learning_rate_is_half_and_the_optimiser_begins_anew(collapsed):
    assert [entry['learning_rate'] for entry in collapsed.history] == pytest.approx([3e-3] * 6 + [1.5e-3] * 6)
    tensors = load_file(newest(collapsed.at[6]) / 'learner.safetensors')
    assert not any(name.startswith('actor_optimizer/') for name in tensors)
    assert any(name.startswith('critic_optimizer/') for name in tensors), 'the critic learns on'
    steps = {float(value) for name, value in load_file(newest(collapsed.at[7]) / 'learner.safetensors').items()
             if name.startswith('actor_optimizer/') and name.endswith('/step')}
    assert steps == {2 * 3}, 'two epochs over four episodes of four decisions, six in a minibatch'


def test_a_restoration_is_not_repeated_before_enough_iterations(collapsed):
    assert [entry['iteration'] for entry in collapsed.history if entry.get('restored')] == [6, 12]
    assert sum('is restored' in text for text in collapsed.told) == 2


def test_after_success_comes_back_the_newest_policy_is_the_best(tmp_path):
    with goals(EASY, HARD, EASY):
        _, history = train(tmp_path, 5)
    assert not any('restored' in entry for entry in history)
    assert equal(weights_at(tmp_path / 'best'), weights_at(tmp_path / 'checkpoints' / '000004'))


SETTINGS = {
    'average': {'average': 0.5, 'algorithm': 'filtered_bc'},
    'ensemble': {'critic': CriticConfig('ensemble', members=2, steps=3)},
    'observation': {'critic': CriticConfig('ensemble', 'observation', 2, 'stored', steps=3, history=2)},
    'latent': {'placement': 'latent', 'average': 0.5, 'critic': CriticConfig('ensemble', members=2, steps=3)},
    'lora': {'placement': 'lora', 'lora_rank': 2, 'average': 0.5},
    'awr': {'algorithm': 'awr', 'bc_history': 2},
    'reinflow': {'algorithm': 'reinflow', 'warmup': 1},
    'ppo': {'algorithm': 'ppo', 'warmup': 1},
    'dsrl': {'algorithm': 'dsrl'},
    'narrowed': {'narrow_steps': 5, 'patience': 1},
    'constant': {'decay': 'none', 'objective': ObjectiveConfig(ratio='standardised')},
    'noise': {'perturbation': 0.1, 'sampling': Sampling(steps=2, noise_range=(0.5, 1.0))},
}


@pytest.mark.parametrize('name', SETTINGS)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(waist_task, tmp_path, monkeypatch, name):
    for size in ('MEMBERS', '_BATCH'):  # ten critics with 256 decisions each would take a minute
        monkeypatch.setattr(soft_actor_critic, size, 2)
    settings = tiny_task.config(**SETTINGS[name])
    best, _ = train(tmp_path / 'whole', 3, settings=settings)
    torch.manual_seed(0)
    train(tmp_path / 'cut', 2, settings=settings)
    torch.manual_seed(1)
    resumed, _ = train(tmp_path / 'cut', 3, settings=settings, resume=True)
    same_state(tmp_path / 'whole', tmp_path / 'cut')
    assert equal(tiny_task.weights(best), tiny_task.weights(resumed))
    assert not equal(weights_at(newest(tmp_path / 'cut')), tiny_task.weights(prepared(tiny_task.policy(), settings)))


def test_interruptions_before_and_behind_a_restoration_change_nothing(collapsed, tmp_path):
    with goals(*COLLAPSE):
        for iterations in (5, 6, 7):
            _, history = train(tmp_path / 'cut', iterations, settings=AVERAGED, resume=iterations > 5)
    same_state(collapsed.at[7], tmp_path / 'cut')
    assert [entry['iteration'] for entry in history if entry.get('restored')] == [6]


def test_a_process_killed_while_it_restores_restores_again(collapsed, tmp_path, monkeypatch):
    plain = FPO.restore

    def dies(*arguments: object) -> None:
        plain(*arguments)
        raise KeyboardInterrupt

    with goals(*COLLAPSE):
        with monkeypatch.context() as patch:
            patch.setattr(FPO, 'restore', dies)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / 'cut', 7, settings=AVERAGED)
        train(tmp_path / 'cut', 7, settings=AVERAGED, resume=True)
    same_state(collapsed.at[7], tmp_path / 'cut')


def test_the_average_moves_by_its_share_in_every_iteration(waist_task, tmp_path):
    train(tmp_path, 2, settings=tiny_task.config(average=0.75))
    start, first, second, average = (weights_at(tmp_path / name) for name in (
        'start', 'checkpoints/000001', 'checkpoints/000002', 'average'))
    assert not equal(first, second)
    for name, value in average.items():
        wanted = 0.5625 * start[name] + 0.1875 * first[name] + 0.25 * second[name]
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-5)
    assert FlowPolicy.load(tmp_path / 'average').contract == tiny_task.CONTRACT


def test_the_average_is_of_the_policy_with_its_actor(waist_task, tmp_path):
    train(tmp_path, 1, settings=tiny_task.config(average=0.5, placement='latent'))
    start, first, average = (weights_at(tmp_path / name) for name in ('start', 'checkpoints/000001', 'average'))
    assert average.keys() == first.keys()
    assert all(torch.equal(average[name], value) for name, value in start.items())
    bias = 'latent_actor.action_out_proj.bias'  # zero at first
    torch.testing.assert_close(average[bias], first[bias] / 2)


def test_without_a_share_no_average_is_kept(finished):
    run, _ = finished
    assert not (run / 'average').exists()
    assert not any(name.startswith('average/') for name in load_file(newest(run) / 'learner.safetensors'))


@pytest.mark.parametrize(('budget', 'iterations'), [
    (1, 1), (ITERATION, 1), (ITERATION + 1, 2), (2 * ITERATION, 2), (2 * ITERATION + 1, 3)])
def test_a_run_ends_with_the_iteration_that_reaches_its_control_steps(tmp_path, budget, iterations):
    with goals(HARD):  # four episodes of ten steps per iteration
        _, history = train(tmp_path, None, control_steps=budget)
    assert [entry['control_steps'] for entry in history] == [ITERATION * (index + 1) for index in range(iterations)]


def test_of_two_limits_the_first_one_ends_a_run(tmp_path):
    with goals(HARD):
        assert len(train(tmp_path / 'steps', 5, control_steps=2 * ITERATION)[1]) == 2
        assert len(train(tmp_path / 'iterations', 1, control_steps=10 * ITERATION)[1]) == 1


def test_a_larger_budget_goes_on_with_a_run(tmp_path):
    with goals(HARD):
        train(tmp_path, None, control_steps=ITERATION)
        before = files(tmp_path)
        assert len(train(tmp_path, None, control_steps=ITERATION, resume=True)[1]) == 1 and files(tmp_path) == before
        assert len(train(tmp_path, None, control_steps=2 * ITERATION, resume=True)[1]) == 2


def test_a_run_without_any_limit_is_refused_and_not_begun(tmp_path):
    with pytest.raises(ValueError, match='without end: give a number of iterations or of control steps'):
        train(tmp_path / 'run', None)
    assert not (tmp_path / 'run').exists()


def test_drift_ends_the_epochs_of_an_iteration(waist_task, tmp_path):
    eager = {'learning_rate': 0.03, 'epochs': 4, 'episodes': 8}
    _, stopped = train(tmp_path / 'stopped', 2, settings=tiny_task.config(drift_stop=1e-3, **eager))
    _, whole = train(tmp_path / 'whole', 2, settings=tiny_task.config(drift_stop=None, **eager))
    preferring = [entry for entry in stopped if 'first_ratio_error' in entry]
    assert preferring, 'the case needs episodes that end differently'
    for entry in preferring:
        assert 0 < entry['steps_taken'] < 1 and entry['drift'] > 1e-3
        assert entry['ratio_max'] > entry['ratio'] > 0 and entry['log_ratio_std'] > 0, 'of the step that was left out'
        assert 'stopped_by_drift' in entry['alarms']
        assert ('steps_too_large' in entry['alarms']) == (entry['clip_fraction'] > 0.3)
    assert all(entry['steps_taken'] == 1 and 'stopped_by_drift' not in entry['alarms'] for entry in whole)
    assert all('ratio' in entry for entry in whole if 'first_ratio_error' in entry)


def test_standardised_ratios_do_not_hide_drift(waist_task, tmp_path):
    # Of standardised ratios the drift is beta² / 2 = 0.0028 whatever has changed.
    _, history = train(tmp_path, 2, settings=tiny_task.config(
        drift_stop=0.01, learning_rate=0.03, epochs=4, episodes=8, objective=ObjectiveConfig(ratio='standardised')))
    preferring = [entry for entry in history if 'first_ratio_error' in entry]
    assert preferring and all(entry['steps_taken'] < 1 and entry['drift'] > 0.01 for entry in preferring)


def test_without_drift_all_steps_are_taken(waist_task, tmp_path):
    _, history = train(tmp_path, 2, settings=tiny_task.config(drift_stop=0.03, learning_rate=1e-7))
    assert [entry['steps_taken'] for entry in history] == [1, 1]
    assert all(entry['drift'] < 1e-6 for entry in history if 'drift' in entry)
