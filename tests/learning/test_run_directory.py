"""What a run directory holds, who may train in it, and what a full disk leaves of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch
from runs import files
from safetensors import SafetensorError

from fpo_ros.learning import run_directory, training_state
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.run_directory import RunDirectory, RunError, RunSettings, read_settings
from fpo_ros.learning.training_state import CheckpointDirectory
from fpo_ros.policy import checkpoint, saving
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.saving import SaveError

FULL = SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)')


def train(run: Path, iterations: int, **options: object):
    pairs = tiny_task.pairs()
    return finetune(tiny_task.policy(), run, tiny_task.config(), iterations, demonstrations=pairs, **options)


@pytest.fixture
def begun(waist_task, tmp_path) -> Path:
    """Return a run of one iteration."""
    train(tmp_path / 'run', 1)
    return tmp_path / 'run'


def test_settings_of_a_run_are_read_as_they_were_written(begun):
    settings = read_settings(begun)
    assert settings.config == tiny_task.config() and settings.seed == 0 and settings.contract == tiny_task.CONTRACT
    assert settings.start == tiny_task.policy().digest() != tiny_task.policy(seed=1).digest()
    assert settings.demonstrations == {'origin': '', 'episodes': 1, 'pairs': 6}
    assert RunSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert read_settings(begun / 'start') is None


def test_the_configuration_is_written_last(tmp_path, monkeypatch):
    """A process killed at any write before leaves a directory that is no run."""
    written = []
    plain = run_directory.replace_file
    monkeypatch.setattr(run_directory, 'replace_file', lambda path, data: written.append(
        sorted(entry.name for entry in tmp_path.rglob('*') if entry.is_file())) or plain(path, data))
    settings = RunSettings(tiny_task.config(), 0, tiny_task.CONTRACT, 'x', {'origin': '', 'episodes': 1, 'pairs': 6})
    with RunDirectory(tmp_path) as directory:
        directory.begin(settings, tiny_task.policy(), tiny_task.pairs())
    assert written == [['.finetune.lock', 'demonstrations.safetensors', 'policy.json', 'policy.safetensors']]


def test_recorded_pairs_come_back_as_they_were(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4, 3), np.uint8)
    for pictures in (None, images):
        given = tiny_task.pairs()
        object.__setattr__(given, 'images', pictures)
        object.__setattr__(given, 'origin', '/somewhere')
        about = {'origin': '/somewhere', 'episodes': 1, 'pairs': 6}
        settings = RunSettings(tiny_task.config(), 0, tiny_task.CONTRACT, 'x', about)
        with RunDirectory(tmp_path / str(pictures is None)) as directory:
            directory.begin(settings, tiny_task.policy(), given)
            back = directory.demonstrations(settings)
        for name, value in vars(given).items():
            assert np.array_equal(getattr(back, name), value) if isinstance(value, np.ndarray) else (
                getattr(back, name) == value), name
            assert not isinstance(value, np.ndarray) or getattr(back, name).dtype == value.dtype


def test_damaged_recorded_pairs_are_one_error_that_names_the_file(begun, waist_task):
    (begun / 'demonstrations.safetensors').write_bytes(b'nothing')
    with pytest.raises(RunError, match='demonstrations.safetensors'):
        train(begun, 2, resume=True)


@pytest.mark.parametrize(('given', 'words'), [
    ({'seed': 7}, '--seed 0, not 7'), ({'episodes': 99}, '--episodes 4, not 99'),
    ({'learning_rate': 0.5}, '--learning-rate 0.003, not 0.5'),
    ({'demonstrations': Path('/other')}, '--demonstrations /somewhere, not /other')])
def test_what_is_asked_for_and_differs_from_the_run_is_refused_by_name(given, words):
    about = {'origin': '/somewhere', 'episodes': 1, 'pairs': 6}
    settings = RunSettings(tiny_task.config(), 0, tiny_task.CONTRACT, 'x', about)
    with pytest.raises(RunError, match=words):
        settings.check(Path('run'), **given)
    alike = {'seed': 0, 'demonstrations': Path('/somewhere')} | {
        name: asdict(settings.config)[name] for name in ('episodes', 'learning_rate')}
    settings.check(Path('run'), **{name: alike[name] for name in given})
    settings.check(Path('run'), **dict.fromkeys(given))


def test_one_process_trains_in_a_run_at_a_time(begun, waist_task):
    code = ('import sys, pathlib\nfrom fpo_ros.learning.run_directory import RunDirectory\n'
            'with RunDirectory(pathlib.Path(sys.argv[1])):\n    print("in", flush=True)\n    sys.stdin.read()\n')
    before = files(begun)
    holder = subprocess.Popen([sys.executable, '-c', code, str(begun)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    try:
        assert holder.stdout.readline() == 'in\n'
        with pytest.raises(RunError, match='another process trains in this run: wait for it or end it') as caught:
            train(begun, 2, resume=True)
        assert str(begun) in str(caught.value) and files(begun) == before
    finally:
        holder.kill()
        holder.communicate()
    assert len(train(begun, 2, resume=True)[1]) == 2


def fill_disk(monkeypatch, where: str) -> None:
    """Let the disk be full for one kind of file."""
    plain_tensors, plain_write = saving.save_file, run_directory.replace_file

    def save_file(tensors, path):
        if where in str(path):
            Path(path).write_bytes(b'half')
            raise FULL
        plain_tensors(tensors, path)

    def replace_file(path, data):
        if where in str(path):
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        plain_write(path, data)

    monkeypatch.setattr(saving, 'save_file', save_file)
    for module in (run_directory, training_state, checkpoint):
        monkeypatch.setattr(module, 'replace_file', replace_file)


@pytest.mark.parametrize('where', [
    'checkpoints/.000002', 'learner.safetensors', 'learner.json', 'successes-000002', 'best.new', 'policy.json',
    'policy.safetensors'])
def test_a_full_disk_is_one_error_and_the_older_state_stands(begun, waist_task, monkeypatch, where):
    before = files(begun)
    with monkeypatch.context() as patch:
        fill_disk(patch, where)
        with pytest.raises(SaveError) as caught:
            train(begun, 2, resume=True)
    message = str(caught.value)
    assert str(begun) in message and 'disk full' in message and 'free some space' in message and '\n' not in message
    assert '--resume' in message and 'stand' in message
    after = files(begun)
    for name in before:
        assert name.startswith('best/') or after[name] == before[name], name
    FlowPolicy.load(begun / 'best')
    assert set(after) == set(before), 'nothing half written is left'
    assert [entry['iteration'] for entry in train(begun, 2, resume=True)[1]] == [1, 2]


@pytest.mark.parametrize('where', ['start', 'demonstrations', 'config.json'])
def test_a_full_disk_when_a_run_begins_leaves_no_run(waist_task, tmp_path, monkeypatch, where):
    with monkeypatch.context() as patch:
        fill_disk(patch, where)
        with pytest.raises(SaveError, match='disk full'):
            train(tmp_path, 1)
    assert read_settings(tmp_path) is None
    assert len(train(tmp_path, 1, resume=True)[1]) == 1


def test_successes_of_an_iteration_are_written_once(waist_task, tmp_path, monkeypatch):
    written, plain = [], training_state.write_tensors
    monkeypatch.setattr(training_state, 'write_tensors',
                        lambda path, tensors: written.append(path.name) or plain(path, tensors))
    train(tmp_path, 4)
    assert sorted(name for name in written if 'successes' in name) == [
        f'successes-{number:06d}.safetensors' for number in (1, 2, 3, 4)]
    checkpoints = sorted((tmp_path / 'checkpoints').iterdir())
    for entry in checkpoints[0].glob('successes-*'):
        assert entry.samefile(checkpoints[1] / entry.name)
    monkeypatch.setattr(training_state.os, 'link', lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, 'no links')))
    train(tmp_path, 5, resume=True)
    assert len(list((tmp_path / 'checkpoints' / '000005').glob('successes-*'))) == 5


def learner_at(iteration: int) -> FPO:
    learner = FPO(tiny_task.policy(), tiny_task.config())
    learner.iteration = iteration
    return learner


def test_only_checkpoints_and_their_own_leftovers_are_removed(tmp_path):
    directory = CheckpointDirectory(tmp_path)
    for name in ('notes', '.git', '000001.bak'):
        (tmp_path / name).mkdir()
    (tmp_path / '.000009.12345').mkdir()
    (tmp_path / 'readme.txt').write_text('mine')
    for iteration in (1, 2, 999_999, 1_000_000):
        directory.save(learner_at(iteration), [])
    assert {entry.name for entry in tmp_path.iterdir()} == {
        'notes', '.git', '000001.bak', 'readme.txt', '999999', '1000000'}
    assert directory.newest().name == '1000000'


def test_an_older_checkpoint_is_dropped_only_after_the_disk_has_the_new_one(tmp_path, monkeypatch):
    directory, order = CheckpointDirectory(tmp_path, keep=1), []
    directory.save(learner_at(1), [])
    for module, name in ((training_state, 'sync_dir'), (training_state.shutil, 'rmtree')):
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, *a, plain=plain, name=name, **o: order.append(
            (name, path.name)) or plain(path, *a, **o))
    monkeypatch.setattr(Path, 'rename', lambda path, to, plain=Path.rename: order.append(('rename', to.name)) or plain(
        path, to))
    directory.save(learner_at(2), [])
    staging = f'.000002.{os.getpid()}'
    assert order == [('sync_dir', staging), ('rename', '000002'), ('sync_dir', tmp_path.name), ('rmtree', '000001')]


def test_an_interrupted_checkpoint_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_: object):
        raise KeyboardInterrupt

    directory = CheckpointDirectory(tmp_path)
    monkeypatch.setattr(training_state, 'replace_file', interrupted)
    with pytest.raises(KeyboardInterrupt):
        directory.save(learner_at(1), [])
    assert not list(tmp_path.iterdir())


def test_a_policy_that_cannot_be_saved_leaves_the_one_before(tmp_path, monkeypatch):
    tiny_task.policy().save(tmp_path)
    before = files(tmp_path)
    spoiled = tiny_task.policy(seed=1)
    with torch.no_grad():
        spoiled.model.action_out_proj.bias[0] = float('inf')
    with pytest.raises(RuntimeError, match='action_out_proj.bias are not finite'):
        spoiled.save(tmp_path)
    assert files(tmp_path) == before
    fill_disk(monkeypatch, 'policy.safetensors')
    with pytest.raises(SaveError, match='disk full'):
        tiny_task.policy(seed=1).save(tmp_path)
    assert files(tmp_path) == before
