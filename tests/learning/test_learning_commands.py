"""The learning verbs of the command line: what they need, say and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_task
import torch
from recorded import add, damage

from fpo_ros import cli
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.scenes import GRAPH_SEED


@pytest.fixture
def fpo_ros(fpo_ros, monkeypatch):
    """Return a function that runs a command line in this process: exit code, output and errors in one line each."""
    monkeypatch.setenv('COLUMNS', '400')

    def run(*arguments: object) -> tuple[int, str, str]:
        code, out, err = fpo_ros(*arguments)
        return code, ' '.join(out.split()), ' '.join(err.split())

    return run


@pytest.fixture
def start(tmp_path):
    """Return the directory of a start policy."""
    (tmp_path / 'sft').mkdir()
    tiny_task.policy().save(tmp_path / 'sft')
    return tmp_path / 'sft'


@pytest.fixture(scope='module')
def first_iteration(tmp_path_factory):
    """Return a run of one iteration with settings of its own, whose start policy is gone."""
    folder = tmp_path_factory.mktemp('begun')
    (folder / 'sft').mkdir()
    tiny_task.policy().save(folder / 'sft')
    words = ('train', 'fpo', '--run', folder / 'run', '--policy', folder / 'sft', '--iterations', 1, '--episodes', 3,
             '--max-steps', 20, '--learning-rate', 0.002, '--seed', 5)
    with tiny_task.short_episodes(), tiny_task.waist_reward(), pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    assert not end.value.code
    shutil.rmtree(folder / 'sft')
    return folder / 'run'


@pytest.fixture
def begun(first_iteration, waist_task, tmp_path):
    """Return a copy of that run, which a test may change."""
    return Path(shutil.copytree(first_iteration, tmp_path / 'run'))


def test_a_run_is_resumed_by_its_name_alone(fpo_ros, begun):
    code, out, err = fpo_ros('train', 'fpo', '--run', begun, '--iterations', 2, '--resume')
    assert (code, err) == (0, '')
    assert 'iteration 1,' in out and 'iteration 2,' in out, 'the table begins with what was done before'
    assert [json.loads(line)['iteration'] for line in (begun / 'progress.jsonl').read_text().splitlines()] == [1, 2]
    settings = json.loads((begun / 'config.json').read_text())
    assert (settings['fpo']['episodes'], settings['fpo']['learning_rate'], settings['seed']) == (3, 0.002, 5)


@pytest.mark.parametrize(('option', 'value'), [
    ('episodes', 4), ('max-steps', 400), ('learning-rate', 0.1), ('seed', 0)])
def test_an_option_that_differs_from_the_run_is_refused_by_name(fpo_ros, begun, option, value):
    code, _, err = fpo_ros('train', 'fpo', '--run', begun, '--iterations', 2, '--resume', f'--{option}', value)
    assert code == 1 and f'--{option}' in err and f'not {value}' in err
    stored = {'episodes': 3, 'max-steps': 20, 'learning-rate': 0.002, 'seed': 5}[option]
    code, _, err = fpo_ros('train', 'fpo', '--run', begun, '--iterations', 1, '--resume', f'--{option}', stored)
    assert (code, err) == (0, '')


def test_a_run_ends_where_its_rate_has_settled_without_other_limits(fpo_ros, start, waist_task, tmp_path):
    settings = tmp_path / 'impatient.yaml'
    settings.write_text('patience: 1\nsmoothing: 1\nsettling: 0.0\nrestore_drop: null\nepisodes: 2\nmax_steps: 20\n')
    words = ('train', 'fpo', '--run', tmp_path / 'run', '--policy', start, '--until-settled', '--settings', settings)
    code, out, err = fpo_ros(*words)
    assert (code, err) == (0, '') and 'settled: the learning rate is 0.8% of what it was' in out
    rates = [json.loads(line)['learning_rate'] for line in (tmp_path / 'run/progress.jsonl').read_text().splitlines()]
    assert rates[-1] == 2e-4 / 2**7 and min(rates[:-1]) == 2e-4 / 2**6
    settings.write_text('patience: null\n')
    code, _, err = fpo_ros(*words[:3], tmp_path / 'endless', *words[4:])
    assert code == 1 and 'a learning rate of 0.0002 with patience None never settles' in err


def test_a_start_that_was_being_written_is_no_run(fpo_ros, begun, tmp_path):
    (begun / 'config.json').unlink()
    code, _, err = fpo_ros('train', 'fpo', '--run', begun, '--iterations', 1, '--resume')
    assert code == 1 and 'no run to resume' in err and '--policy' in err
    code, _, err = fpo_ros('train', 'fpo', '--run', tmp_path / 'new', '--iterations', 1)
    assert code == 1 and '--policy' in err and 'resume' not in err


def test_threads_are_those_of_physics_and_network(fpo_ros, start, waist_task, tmp_path, monkeypatch):
    asked, plain, before = [], BatchedWorlds.__init__, torch.get_num_threads()
    monkeypatch.setattr(BatchedWorlds, '__init__', lambda worlds, *a, **k: asked.append(a[2]) or plain(worlds, *a, **k))
    try:
        code, _, err = fpo_ros('train', 'fpo', '--run', tmp_path / 'run', '--policy', start, '--iterations', 1,
                               '--episodes', 2, '--max-steps', 20, '--threads', 2)
        assert code == 0, err
        assert asked == [2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def filled(tmp_path, *changes: dict) -> EpisodeStore:
    store = EpisodeStore.create_or_open(tmp_path / 'store')
    for change in changes:
        add(store, **{'pose': True} | change)
    return store


def test_training_says_which_episodes_of_an_ordinary_store_it_leaves_out(fpo_ros, start, waist_task, tmp_path):
    store = filled(tmp_path, {}, {'success': False}, {'pose': False}, {'seed': GRAPH_SEED}, {})
    damage(store, store.ids()[-1])
    common = ('train', 'fpo', '--iterations', 1, '--episodes', 2, '--max-steps', 20, '--policy', start,
              '--demonstrations', store.path)
    code, out, err = fpo_ros(*common, '--run', tmp_path / 'run')
    assert code == 0, err
    assert '4 of 5 episodes are not used: 1 not successful, 1 without object_pose, 1 of held-out scenes' in out
    assert '1 damaged' in out
    assert store.ids()[-1] in out
    add(store, pose=True)
    code, out, err = fpo_ros('train', 'fpo', '--run', tmp_path / 'run', '--iterations', 1, '--resume',
                             '--demonstrations', store.path)
    assert code == 0 and 'goes on with the 6 recorded pairs it began with' in out, err
    code, _, err = fpo_ros('train', 'fpo', '--run', tmp_path / 'run', '--iterations', 1, '--resume',
                           '--demonstrations', tmp_path / 'other')
    assert code == 1 and '--demonstrations' in err and str(store.path) in err


def test_training_goes_on_without_demonstrations_where_none_succeeded_yet(fpo_ros, start, waist_task, tmp_path):
    for name, changes in (('empty', ()), ('failed', ({'success': False}, {'task': 'juggle'}))):
        store = filled(tmp_path / name, *changes)
        code, out, err = fpo_ros('train', 'fpo', '--run', tmp_path / name / 'run', '--policy', start, '--iterations', 1,
                                 '--episodes', 2, '--max-steps', 20, '--demonstrations', store.path)
        assert code == 0 and 'no successful episode yet' in out, err


def test_a_store_without_a_usable_episode_is_one_error(fpo_ros, start, tmp_path):
    store = filled(tmp_path, {'seed': GRAPH_SEED}, {'pose': False})
    code, _, err = fpo_ros('train', 'fpo', '--run', tmp_path / 'run', '--policy', start, '--demonstrations', store.path)
    assert code == 1 and '1 of held-out scenes, 1 without object_pose' in err
    assert not (tmp_path / 'run').exists()


def test_supervised_training_says_which_episodes_it_leaves_out(fpo_ros, tmp_path):
    store = filled(tmp_path, {}, {'control_rate_hz': 30.0})
    code, out, err = fpo_ros('train', 'sft', '--demonstrations', store.path, '--out', tmp_path / 'sft', '--steps', 1,
                             '--batch', 2)
    assert code == 0 and '1 of 2 episodes are not used: 1 of another control rate' in out, err
    FlowPolicy.load(tmp_path / 'sft')


def test_supervised_training_goes_on_from_a_policy_with_adapters_of_it(fpo_ros, start, tmp_path):
    store, out = filled(tmp_path, {}), tmp_path / 'out'
    words = ('train', 'sft', '--demonstrations', store.path, '--out', out, '--steps', 1, '--batch', 2)
    code, _, err = fpo_ros(*words, '--policy', start, '--trainable', 'lora_expert', '--lora-rank', 3,
                           '--learning-rate', 1e-4)
    assert code == 0, err
    before, after = (FlowPolicy.load(path) for path in (start, out))
    assert after.contract == before.contract and after.model.config.expert_lora.rank == 3
    assert torch.equal(after.model.expert_layers[0].q_proj.weight, before.model.expert_layers[0].q_proj.weight)


@pytest.mark.parametrize(('options', 'words'), [
    (['--trainable', 'lora'], '--trainable and --lora-rank need --policy'),
    (['--policy', 'sft_state', '--horizon', '20'], "--horizon is the start policy's own"),
    (['--policy', 'sft_state', '--prefix', 'new'], "--prefix is the start policy's own"),
    (['--policy', 'sft_state', '--trainable', 'some'], "unknown trainable 'some'"),
    (['--policy', 'sft_state', '--lora-rank', '4'], "'expert' trains no adapters")])
def test_supervised_training_that_cannot_be_is_refused(fpo_ros, tmp_path, options, words):
    store = filled(tmp_path, {})
    code, _, err = fpo_ros('train', 'sft', '--demonstrations', store.path, '--out', tmp_path / 'out', *options)
    assert code == 1 and words in err and not (tmp_path / 'out').exists()


def test_recording_twice_adds_what_is_missing_and_says_so(fpo_ros, tmp_path):
    store = tmp_path / 'store'
    code, out, _ = fpo_ros('record', '--store', store, '--episodes', 1, '--noise', 0.0)
    assert code == 0 and 'already' not in out
    code, out, _ = fpo_ros('record', '--store', store, '--episodes', 2, '--noise', 0.0)
    assert code == 0 and f'1 of 2 scenes are in {store} already' in out and '2 of them successful' in out
    seeds = [episode.meta.seed for episode in EpisodeStore.open(store).iter()]
    assert seeds == [900_000, 900_001]


def test_recording_takes_cameras(fpo_ros, tmp_path):
    code, out, err = fpo_ros('record', '--store', tmp_path / 'store', '--episodes', 1, '--observation', 'pixels',
                             '--cameras', 'cam_low, cam_high')
    assert code == 0 and 'pictures of cam_low, cam_high' in out, err
    episode = next(iter(EpisodeStore.open(tmp_path / 'store').iter()))
    assert set(episode.cameras) == {'cam_low', 'cam_high'}
    frames = np.asarray(episode.images('cam_high')[0])
    assert frames.shape[1:] == (192, 256, 3) and frames[:, 80:112].any((0, 2, 3)).all()


@pytest.mark.parametrize(('options', 'words'), [
    (['--cameras', 'cam_high'], '--observation pixels'),
    (['--observation', 'pixels', '--cameras', 'cam_moon'], "unknown camera 'cam_moon'"),
    (['--seed', '1000'], 'use 0 to 999'), (['--episodes', '100001'], '100,000 scenes')])
def test_recording_that_cannot_be_is_refused_before_a_store_is_made(fpo_ros, tmp_path, options, words):
    code, _, err = fpo_ros('record', '--store', tmp_path / 'store', *options)
    assert code == 1 and words in err and not (tmp_path / 'store').exists()


@pytest.mark.parametrize('verb', [
    ['record', '--store', 'x'], ['eval', '--policy', 'x'], ['train', 'fpo', '--run', 'x'],
    ['train', 'sft', '--demonstrations', 'x', '--out', 'y']])
def test_a_seed_below_zero_is_wrong_usage(fpo_ros, verb):
    code, _, err = fpo_ros(*verb, '--seed', -1)
    assert code == 2 and '--seed' in err
