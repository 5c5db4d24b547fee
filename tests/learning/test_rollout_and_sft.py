"""Rollouts, demonstrations, supervised training and evaluation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning import evaluate as evaluation
from fpo_ros.learning import rollout, sft
from fpo_ros.learning.demonstrations import chunks_of, load_demonstrations
from fpo_ros.learning.evaluate import evaluate, held_out_seeds
from fpo_ros.learning.fpo import flatten
from fpo_ros.learning.record import DEMONSTRATION_SEED, record_demonstrations
from fpo_ros.learning.rollout import collect
from fpo_ros.policy.contract import START_JOINTS, ContractError, PolicyContract
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.task import HELD_OUT_SEED, sample_object_pose


def run(policy, count: int = 4, seed: int = 0, **options: object) -> rollout.Rollout:
    with BatchedWorlds('transfer_cube', count) as worlds:
        return collect(policy, worlds, np.arange(count), torch.Generator().manual_seed(seed), **options)


def test_episodes_of_a_rollout_end_at_success_or_at_the_cap(waist_task):
    got = run(tiny_task.policy(), 12)
    assert (
        got.valid.shape == (12, 4) and got.states.shape == (12, 5, 21) and got.chunks.shape == (12, 4, 4, 14)
    )
    assert got.success.any() and not got.success.all(), 'the case needs both'
    decisions = got.valid.sum(1)
    assert all((row[:-1] >= row[1:]).all() for row in got.valid.astype(int)), 'decisions are a prefix'
    assert (got.steps[~got.success] == tiny_task.STEPS).all() and (decisions[~got.success] == 4).all()
    assert (decisions[got.success] == np.ceil(got.steps[got.success] / 3)).all()
    assert got.control_steps == got.steps.sum()
    assert (got.max_stage[got.success] == 4).all() and (got.max_stage[~got.success] == 0).all()


def test_the_critic_sees_joints_pose_and_elapsed_share(waist_task):
    got = run(tiny_task.policy())
    np.testing.assert_allclose(got.privileged[:, 0, :14], np.tile(START_JOINTS, (4, 1)), atol=1e-6)
    for row in range(4):
        np.testing.assert_allclose(
            got.privileged[row, 0, 14:21], sample_object_pose('transfer_cube', row), atol=1e-6
        )
    whole = got.valid.sum(1) == 4
    np.testing.assert_allclose(
        got.privileged[whole][:, :, 21], np.tile([0, 0.25, 0.5, 0.75, 1], (whole.sum(), 1))
    )
    seen = got.states[0, 0].numpy() * 0.1 + tiny_task.policy().stats.state_mean
    np.testing.assert_allclose(seen, got.privileged[0, 0, :21], atol=1e-5)


def test_rollouts_repeat_and_zero_noise_ignores_the_generator(waist_task):
    policy = tiny_task.policy()
    assert torch.equal(run(policy).chunks, run(policy).chunks)
    assert not torch.equal(run(policy).chunks, run(policy, seed=1).chunks)
    assert torch.equal(run(policy, noise_scale=0.0).chunks, run(policy, seed=1, noise_scale=0.0).chunks)


def test_the_stricter_rule_needs_the_hold_for_ten_steps_and_is_awaited_where_asked():
    policy = tiny_task.policy()
    with tiny_task.short_episodes(), tiny_task.waist_reward(-1.0):
        at_once, strict = run(policy), run(policy, continue_to_strict=True)
    assert (at_once.steps == 1).all() and not at_once.strict.any()
    assert (strict.steps == 1).all() and strict.strict.all() and (strict.valid.sum(1) == 1).all()


def test_flattened_decisions_are_the_valid_ones(waist_task):
    got = run(tiny_task.policy(), 12)
    flat = flatten(got, got.valid)
    assert len(flat) == got.valid.sum() == len(flat.chunks)
    assert torch.equal(flat.states[0], got.states[0, 0])
    last = np.argwhere(got.valid)[-1]
    assert torch.equal(flat.chunks[-1], got.chunks[last[0], last[1]])


def test_chunks_follow_each_step_and_repeat_the_last_target():
    actions = np.arange(5.0)[:, None]
    assert chunks_of(actions, np.array([0, 3, 4]), 3)[..., 0].tolist() == [[0, 1, 2], [3, 4, 4], [4, 4, 4]]


@pytest.fixture(scope='module')
def demonstrations(tmp_path_factory):
    """Return a store of two scripted episodes and the number of successes."""
    store = EpisodeStore.create_or_open(tmp_path_factory.mktemp('store') / 'episodes')
    return store, record_demonstrations(store, PolicyContract(), 2, 0.0)


def test_recorded_demonstrations_hold_what_was_seen_before_each_target(demonstrations):
    store, successes = demonstrations
    assert successes == 2 and len(store) == 2
    for row, episode in enumerate(store.iter()):
        assert (
            episode.meta.source == 'expert'
            and episode.meta.success
            and episode.meta.seed == DEMONSTRATION_SEED + row
        )
        joints, pose = (
            np.asarray(episode.arrays['joint_positions']),
            np.asarray(episode.arrays['object_pose']),
        )
        np.testing.assert_allclose(joints[0], START_JOINTS, atol=1e-6)
        np.testing.assert_allclose(pose[0], sample_object_pose('transfer_cube', episode.meta.seed), atol=1e-6)
        assert np.asarray(episode.arrays['reward']).max() == 4
        np.testing.assert_allclose(np.diff(np.asarray(episode.arrays['timestamp'])), 0.02, atol=1e-9)


def test_training_pairs_join_an_observation_with_the_targets_that_followed(demonstrations):
    store, _ = demonstrations
    pairs = load_demonstrations(store, PolicyContract())
    episode = next(iter(store.iter()))
    actions = np.asarray(episode.arrays['action'])
    assert pairs.episodes == 2 and pairs.images is None and len(pairs.states) == 2 * len(actions)
    np.testing.assert_array_equal(pairs.chunks[30], actions[30:50])
    np.testing.assert_array_equal(pairs.states[30, :14], np.asarray(episode.arrays['joint_positions'])[30])
    assert HELD_OUT_SEED > DEMONSTRATION_SEED


@pytest.mark.parametrize(
    ('options', 'contract'),
    [
        ({'source': 'teleop'}, PolicyContract()),
        ({}, PolicyContract(observation='state', prompt='x', task='transfer_cube', horizon=3, execute=3)),
    ],
)
def test_stores_are_filtered_by_source(demonstrations, options, contract):
    if options:
        with pytest.raises(ContractError, match='record demonstrations first'):
            load_demonstrations(demonstrations[0], contract, **options)
    else:
        assert load_demonstrations(demonstrations[0], contract).chunks.shape[1:] == (3, 14)


def camera_store(path, steps_of_low: list[int]) -> EpisodeStore:
    rng = np.random.default_rng(0)
    store = EpisodeStore.create_or_open(path)
    store.write(
        {
            'joint_positions': rng.normal(size=(6, 14)).astype(np.float32),
            'action': rng.normal(size=(6, 14)).astype(np.float32),
            'reward': np.zeros(6, np.float32),
            'timestamp': np.arange(6) * 0.02,
        },
        {
            'task': 'transfer_cube',
            'prompt': 'x',
            'observation': 'pixels',
            'source': 'teleop',
            'seed': 1,
            'success': False,
            'created': '2026-01-01T00:00:00+00:00',
        },
        {
            name: (rng.integers(0, 256, (2, 48, 64, 3), np.uint8), np.array(steps, np.int32))
            for name, steps in (('cam_high', [0, 4]), ('cam_low', steps_of_low))
        },
    )
    return store


PIXELS = PolicyContract(
    observation='pixels',
    cameras=('cam_low', 'cam_high'),
    image_height=16,
    image_width=24,
    horizon=4,
    execute=2,
)


def test_pairs_of_pixels_start_where_every_camera_has_a_frame(tmp_path):
    store = camera_store(tmp_path / 'store', [0, 4])
    pairs = load_demonstrations(store, PIXELS)
    assert (
        pairs.images.shape == (2, 2, 16, 24, 3)
        and pairs.states.shape == (2, 14)
        and pairs.frame.tolist() == [0, 1]
    )
    episode = next(iter(store.iter()))
    np.testing.assert_array_equal(pairs.chunks[1], np.asarray(episode.arrays['action'])[[4, 5, 5, 5]])
    low = np.asarray(episode.images('cam_low')[0])[1]
    assert abs(float(pairs.images[1, 0, :, 2:22].mean()) - low.mean()) < 3, (
        'cameras in the order of the contract'
    )
    with pytest.raises(ContractError, match='record demonstrations first'):
        load_demonstrations(store, PIXELS, successes_only=True)
    with pytest.raises(ContractError, match='state'):
        load_demonstrations(store, PolicyContract())


def test_cameras_recorded_at_different_steps_are_refused_by_episode(tmp_path):
    store = camera_store(tmp_path / 'store', [0, 3])
    with pytest.raises(ContractError, match=str(store.ids()[0])):
        load_demonstrations(store, PIXELS)


def test_a_store_that_lacks_a_camera_is_refused_by_name(tmp_path):
    store = camera_store(tmp_path / 'store', [0, 4])
    with pytest.raises(ValueError, match='cam_left_wrist'):
        load_demonstrations(store, replace(PIXELS, cameras=('cam_left_wrist',)))


def test_supervised_training_lowers_the_loss():
    settings = sft.SFTConfig(steps=60, batch=16, warmup=5)
    losses = []
    sft.train(
        tiny_task.pairs(),
        tiny_task.CONTRACT,
        tiny_task.TINY,
        settings,
        0,
        lambda step, loss: losses.append(loss),
    )
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_supervised_training_repeats_with_its_seed():
    settings = sft.SFTConfig(steps=3, batch=4, warmup=1)
    first, again, other = (
        sft.train(tiny_task.pairs(), tiny_task.CONTRACT, tiny_task.TINY, settings, seed).model.action_out_proj.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_supervised_training_from_pixels_trains_the_vision_tower(tmp_path):
    pairs = load_demonstrations(camera_store(tmp_path / 'store', [0, 4]), PIXELS)
    settings = sft.SFTConfig(steps=2, batch=4, warmup=0)
    torch.manual_seed(0)
    before = sft.Pi0(tiny_task.TINY, PIXELS).vision_tower.patch_embedding.weight
    trained = sft.train(pairs, PIXELS, tiny_task.TINY, settings, 0)
    assert not torch.equal(before, trained.model.vision_tower.patch_embedding.weight)


def test_learning_rate_warms_up_and_decays_to_zero():
    settings = sft.SFTConfig(steps=110, warmup=10, learning_rate=2.0)
    assert sft.learning_rate_at(0, settings) == pytest.approx(0.2)
    assert sft.learning_rate_at(9, settings) == pytest.approx(2.0)
    assert sft.learning_rate_at(60, settings) == pytest.approx(1.0)
    assert sft.learning_rate_at(109, settings) == pytest.approx(1 + math.cos(0.99 * math.pi))


def test_an_evaluation_counts_held_out_episodes_whatever_the_batch(waist_task):
    policy, done = tiny_task.policy(), []
    whole = evaluate(policy, 5, sampling='zero')
    parts = evaluate(policy, 5, sampling='zero', batch=2, progress=done.append)
    assert np.array_equal(whole.success, parts.success) and whole.control_steps == parts.control_steps
    assert done == [2, 4, 5]
    assert whole.seeds.min() >= HELD_OUT_SEED and not set(whole.seeds) & set(held_out_seeds(5, seed=1))
    assert whole.successes == whole.success.sum()


def test_an_evaluation_as_json_has_the_wilson_interval():
    # 8 of 10: centre 0.71674, half width 0.22656 (Wilson 1927, z = 1.959964).
    seeds = np.arange(10)
    result = evaluation.Evaluation(
        'transfer_cube', 10, 8, 5, 1234, 'random', 0, 1.0, seeds, seeds < 8
    ).to_dict()
    assert (result['wilson_low'], result['wilson_high']) == (
        pytest.approx(0.49016, abs=1e-4),
        pytest.approx(0.94332, abs=1e-4),
    )
    assert result['success_rate'] == 0.8 and result['success_strict_rate'] == 0.5


def test_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match='random or zero'):
        evaluate(tiny_task.policy(), 1, sampling='best')
