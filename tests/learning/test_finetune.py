"""Fine-tuning runs: what they train, what they write, and how they continue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import tiny_task
import torch
from runs import files, newest, progress, train, without_clock
from safetensors.torch import load_file

from fpo_ros.learning import finetune as finetuning
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.finetune import RunError, finetune
from fpo_ros.learning.update import Epochs
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.finite import NotFiniteError
from fpo_ros.sim.scenes import SeedError

SCRIPT = Path(__file__).with_name('train_forever.py')


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(finished, waist_task, tmp_path):
    whole, expected = finished
    train(tmp_path / 'run', 1)
    _, history = train(tmp_path / 'run', 2, resume=True)
    for name in ('policy.safetensors', 'learner.safetensors'):
        assert (newest(tmp_path / 'run') / name).read_bytes() == (newest(whole) / name).read_bytes(), name
    assert without_clock(history) == without_clock(expected)
    assert without_clock(progress(tmp_path / 'run')) == without_clock(expected)


def test_progress_agrees_with_the_history(finished):
    run, history = finished
    assert progress(run) == history
    assert [entry['iteration'] for entry in history] == [1, 2]
    assert 0 < history[0]['control_steps'] < history[1]['control_steps'] <= 2 * 4 * tiny_task.STEPS


def test_only_the_action_expert_changes(finished):
    run, _ = finished
    before, after = (tiny_task.weights(FlowPolicy.load(path)) for path in (run / 'start', newest(run)))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(('language_layers', 'embed_tokens')) for name in changed)
    expert = tiny_task.policy().model
    trained = {id(p) for p in expert.expert_parameters()}
    assert changed == {name for name, p in expert.named_parameters() if id(p) in trained}


def test_the_start_policy_is_kept_unchanged(finished):
    run, _ = finished
    start, kept = tiny_task.weights(tiny_task.policy()), tiny_task.weights(FlowPolicy.load(run / 'start'))
    assert all(torch.equal(start[name], kept[name]) for name in start)


def test_a_fresh_process_with_the_same_seed_and_policy_ends_with_the_same_weights(waist_task, tmp_path):
    (tmp_path / 'policy').mkdir()
    tiny_task.policy().save(tmp_path / 'policy')
    subprocess.run(
        [sys.executable, SCRIPT.with_name('train_once.py'), tmp_path / 'policy', tmp_path / 'fresh', '1'],
        check=True,
        timeout=100,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    torch.manual_seed(2)  # and whatever else this process has done before
    finetune(FlowPolicy.load(tmp_path / 'policy'), tmp_path / 'here', tiny_task.config(), 2, seed=3)
    for name in ('policy.safetensors', 'learner.safetensors'):
        assert (newest(tmp_path / 'fresh') / name).read_bytes() == (newest(tmp_path / 'here') / name).read_bytes()


def test_a_run_with_other_seed_differs(finished, waist_task, tmp_path):
    train(tmp_path, 1, seed=1)
    first = sorted((finished[0] / 'checkpoints').iterdir())[0]
    assert (newest(tmp_path) / 'policy.safetensors').read_bytes() != (
        first / 'policy.safetensors'
    ).read_bytes()


def test_an_existing_run_is_not_overwritten(finished, waist_task):
    before = newest(finished[0])
    with pytest.raises(RunError, match='--resume'):
        train(finished[0], 3)
    assert newest(finished[0]) == before


def test_a_resumed_run_keeps_the_recorded_pairs_it_began_with(finished, waist_task, tmp_path):
    train(tmp_path / 'run', 1)
    finetune(None, tmp_path / 'run', tiny_task.config(), 2, resume=True, demonstrations=tiny_task.pairs(50))
    for name in ('policy.safetensors', 'learner.safetensors'):
        assert (newest(tmp_path / 'run') / name).read_bytes() == (newest(finished[0]) / name).read_bytes(), name


def test_a_run_that_began_without_recorded_pairs_goes_on_without(waist_task, tmp_path):
    for name, demonstrations in (('none', None), ('late', tiny_task.pairs())):
        finetune(tiny_task.policy(), tmp_path / name, tiny_task.config(), 1)
        finetune(None, tmp_path / name, tiny_task.config(), 2, resume=True, demonstrations=demonstrations)
    states = [(newest(tmp_path / name) / 'learner.safetensors').read_bytes() for name in ('none', 'late')]
    assert states[0] == states[1]


def test_a_run_is_not_continued_from_another_start_policy(finished, waist_task):
    with pytest.raises(RunError, match='from another policy: resume without --policy'):
        finetune(tiny_task.policy(seed=1), finished[0], tiny_task.config(), 3, resume=True)


def test_a_resumed_run_tells_what_was_done_before(copied, waist_task, finished):
    restored, new = [], []
    _, history = train(copied, 3, resume=True, on_restored=restored.append, on_iteration=new.append)
    assert restored == finished[1] and [entry['iteration'] for entry in new] == [3]
    assert history == restored + new


def test_a_start_policy_that_hardly_succeeds_is_refused_unless_forced(tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, 'GATE_EPISODES', 4)
    run = tmp_path / 'poor'
    with tiny_task.short_episodes(), tiny_task.waist_reward(9.0):
        for resume in (False, True):
            with pytest.raises(RunError, match='0.0% of 4 episodes.*more demonstrations.*--resume --force'):
                train(run, 3, resume=resume)
            assert len(progress(run)) == 1, 'its first iteration is kept'
        assert len(train(run, 3, resume=True, force=True)[1]) == 3
        monkeypatch.setattr(finetuning, 'GATE_EPISODES', 5)
        told = []
        assert len(train(tmp_path / 'few', 2, on_warning=told.append)[1]) == 2, 'too few episodes say nothing'
        assert [text for text in told if '0.0% of 4 episodes, too few to judge it by' in text] == told[:1]
    monkeypatch.setattr(finetuning, 'GATE_EPISODES', 4)
    with tiny_task.short_episodes(), tiny_task.waist_reward(-9.0):
        assert len(train(tmp_path / 'good', 2)[1]) == 2


@pytest.mark.parametrize(('success', 'rewarded', 'refused'), [
    (0.3, 0.02, False), (0.1, 0.1, False), (0.09, 0.09, True), (0.3, 0.0, True)])
def test_the_start_gate_judges_by_plain_success_unless_nothing_is_rewarded(tmp_path, success, rewarded, refused):
    first = {'success_rate': success, 'rewarded_rate': rewarded}
    with pytest.raises(RunError, match='never rewarded') if refused else nullcontext():
        finetuning._gate(first, FPOConfig(reward='strict'), tmp_path, False, pytest.fail)


def test_a_seed_out_of_bounds_begins_no_run(tmp_path):
    with pytest.raises(SeedError, match='0 to 999'):
        train(tmp_path, 1, seed=1000)
    assert not (tmp_path / 'config.json').exists()


def test_divergence_saves_nothing_and_leaves_what_is_good(copied, waist_task, monkeypatch):
    plain = Epochs.step

    def spoiled(epochs, **entries):
        plain(epochs, **entries)
        with torch.no_grad():
            epochs._flow.parameters[0].view(-1)[0] = float('nan')

    before = files(copied)
    monkeypatch.setattr(Epochs, 'step', spoiled)
    with pytest.raises(NotFiniteError, match='iteration 3'):
        train(copied, 3, resume=True)
    after = files(copied)
    failed = load_file(copied / 'failed_update.safetensors')
    count = len(failed['chunks'])
    assert count > 0 and failed['noise'].shape == (count, 2, 4, 14), 'what it failed on can be looked at'
    assert all(len(failed[name]) == count for name in ('advantage', 'reward', 'privileged', 'states', 'time'))
    assert after.pop('failed_update.safetensors') and after == before
    monkeypatch.undo()
    with tiny_task.short_episodes(), tiny_task.waist_reward():
        assert len(train(copied, 3, resume=True)[1]) == 3


@pytest.mark.parametrize('options', [{'settings': tiny_task.config(gamma=0.5)}, {'seed': 5}])
def test_a_run_with_other_settings_is_not_continued(finished, waist_task, options):
    with pytest.raises(RunError, match='other settings'):
        train(finished[0], 3, resume=True, **options)


def test_a_finished_run_resumes_to_the_same_result_without_work(finished, waist_task):
    run, history = finished
    called = []
    best, again = train(run, 2, resume=True, on_iteration=called.append)
    assert again == history and not called
    kept = tiny_task.weights(FlowPolicy.load(run / 'best'))
    assert all(torch.equal(kept[name], value) for name, value in tiny_task.weights(best).items())


@pytest.mark.parametrize('name', ['learner.safetensors', 'learner.json', 'policy.safetensors', 'policy.json',
                                  'successes-000001.safetensors'])
@pytest.mark.parametrize('damage', ['truncate', 'remove'])
def test_a_damaged_checkpoint_is_one_error_that_names_it(copied, waist_task, name, damage):
    file = newest(copied) / name
    if damage == 'truncate':
        file.write_bytes(file.read_bytes()[:-60])
    else:
        file.unlink()
    with pytest.raises(ContractError) as caught:
        train(copied, 3, resume=True)
    assert str(file.parent) in str(caught.value) and name in str(caught.value)
    assert '\n' not in str(caught.value)


def test_after_removing_a_damaged_checkpoint_the_run_goes_on_from_the_one_before(
    copied, waist_task, finished
):
    shutil.rmtree(newest(copied))
    _, history = train(copied, 2, resume=True)
    assert without_clock(history) == without_clock(finished[1])
    expected = (newest(finished[0]) / 'policy.safetensors').read_bytes()
    assert (newest(copied) / 'policy.safetensors').read_bytes() == expected


@pytest.mark.parametrize('text', ['', '{"fpo": ', '[]'])
def test_an_unreadable_configuration_is_one_error_that_names_it(copied, waist_task, text):
    (copied / 'config.json').write_text(text)
    with pytest.raises(RunError, match='config.json'):
        train(copied, 3, resume=True)


def test_a_run_killed_while_it_wrote_its_start_can_be_resumed(waist_task, tmp_path):
    """The process may die between any two writes; the next one begins the run anew."""
    run = tmp_path / 'run'
    plain = FlowPolicy.save

    def dies(policy, directory):
        plain(policy, directory)
        (directory / 'policy.json').unlink()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlowPolicy, 'save', dies)
        with pytest.raises(KeyboardInterrupt):
            train(run, 1)
    _, history = train(run, 1, resume=True)
    assert len(history) == 1


def test_a_killed_process_loses_at_most_one_iteration(waist_task, tmp_path):
    run = tmp_path / 'run'

    process = subprocess.Popen([sys.executable, str(SCRIPT), str(run)], text=True, stdout=subprocess.PIPE,
                               env={**os.environ, 'OMP_NUM_THREADS': '1'})
    try:
        for line in process.stdout:
            done = int(line)
            if done == 3:
                break
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    assert done == 3
    kept = int(newest_complete(run).name)
    assert kept >= done, 'an iteration that was reported is on disk'
    done = []
    train(run, kept + 1, resume=True, on_iteration=lambda metrics: done.append(metrics['iteration']))
    assert done == [kept + 1]
    entries = progress(run)
    assert [entry['iteration'] for entry in entries] == list(range(1, kept + 2))
    assert not [entry.name for entry in (run / 'checkpoints').iterdir() if entry.name.startswith('.')]
    FlowPolicy.load(run / 'best')


def newest_complete(run: Path) -> Path:
    return max(entry for entry in (run / 'checkpoints').iterdir() if entry.name.isdigit())
