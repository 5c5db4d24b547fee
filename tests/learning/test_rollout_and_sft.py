"""Rollouts, demonstrations, supervised training and evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_task
import torch
from recorded import PIXELS, camera_store

from fpo_ros.learning import evaluate as evaluation
from fpo_ros.learning import rollout, sft
from fpo_ros.learning.decisions import flatten
from fpo_ros.learning.demonstrations import load_demonstrations
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.rollout import collect
from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.finite import NotFiniteError
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.scenes import SeedError, is_held_out
from fpo_ros.sim.task import REST_STEPS, sample_object_pose


def run(policy, count: int = 4, seed: int = 0, **options: object) -> rollout.Rollout:
    with BatchedWorlds('transfer_cube', count) as worlds:
        return collect(policy, worlds, np.arange(count), tiny_task.start_noise(count, seed), **options)


def test_episodes_of_a_rollout_end_at_success_or_at_the_cap(waist_task):
    got = run(tiny_task.policy(), 12)
    assert (
        got.valid.shape == (12, 4) and got.states.shape == (12, 4, 21) and got.chunks.shape == (12, 4, 4, 14)
    )
    assert got.success.any() and not got.success.all(), 'the case needs both'
    decisions = got.valid.sum(1)
    assert all((row[:-1] >= row[1:]).all() for row in got.valid.astype(int)), 'decisions are a prefix'
    assert (got.steps[~got.success] == tiny_task.STEPS).all() and (decisions[~got.success] == 4).all()
    assert (decisions[got.success] == np.ceil((got.steps[got.success] - REST_STEPS) / 3)).all()
    assert got.control_steps == got.steps.sum()
    assert (got.max_stage[got.success] == 4).all() and (got.max_stage[~got.success] == 0).all()


def test_the_stricter_rule_is_rewarded_when_it_has_held_long_enough(waist_task, monkeypatch):
    monkeypatch.setattr(rollout, 'STRICT_STEPS', 3)
    gym, strict = run(tiny_task.policy(), 12), run(tiny_task.policy(), 12, reward='strict')
    assert np.array_equal(gym.rewarded, gym.success) and np.array_equal(strict.rewarded, strict.strict)
    both = strict.rewarded
    assert both.any() and not both.all() and gym.success[both].all(), 'the case needs both'
    # Here a step that succeeds is one that is strict: the third in a row comes two steps after the first at least.
    assert (strict.steps[both] >= gym.steps[both] + 2).all()
    assert (strict.valid.sum(1)[both] == np.ceil((strict.steps[both] - REST_STEPS) / 3)).all()
    assert (strict.steps[~both] == tiny_task.STEPS).all() and (strict.valid.sum(1)[~both] == 4).all()


def test_an_unknown_reward_is_refused():
    with pytest.raises(ValueError, match="unknown reward 'sparse': use gym or strict"):
        tiny_task.config(reward='sparse')


def test_the_critic_sees_joints_pose_and_elapsed_share(waist_task):
    got = run(tiny_task.policy())
    with BatchedWorlds('transfer_cube', 4) as worlds:
        worlds.reset(np.arange(4))
        worlds.rest()
        np.testing.assert_allclose(got.privileged[:, 0, :14], worlds.joints(), atol=1e-6)
        np.testing.assert_allclose(got.privileged[:, 0, 14:21], worlds.object_pose(), atol=1e-6)
    np.testing.assert_allclose(got.privileged[:, 0, :14], np.tile(START_JOINTS, (4, 1)), atol=0.02)
    for row in range(4):
        np.testing.assert_allclose(got.privileged[row, 0, 14:16], sample_object_pose('transfer_cube', row)[:2],
                                   atol=1e-3)
    whole = got.valid.sum(1) == 4
    np.testing.assert_allclose(
        got.privileged[whole][:, :, 21], np.tile([0, 0.25, 0.5, 0.75], (whole.sum(), 1))
    )
    seen = got.states[0, 0].numpy() * 0.1 + tiny_task.policy().stats.state_mean
    np.testing.assert_allclose(seen, got.privileged[0, 0, :21], atol=1e-5)


def test_rollouts_repeat_and_zero_noise_ignores_the_generator(waist_task):
    policy = tiny_task.policy()
    assert torch.equal(run(policy).chunks, run(policy).chunks)
    assert not torch.equal(run(policy).chunks, run(policy, seed=1).chunks)
    assert torch.equal(run(policy, noise_scale=0.0).chunks, run(policy, seed=1, noise_scale=0.0).chunks)


def test_an_episode_does_not_depend_on_when_others_end(waist_task):
    policy = tiny_task.policy()
    alone, strict = run(policy, 12), run(policy, 12, continue_to_strict=True)
    assert not alone.success.all() and alone.success.any(), 'the case needs both'
    assert np.array_equal(alone.success, strict.success) and np.array_equal(alone.steps, strict.steps)
    lasting = torch.as_tensor(alone.valid)
    assert torch.equal(alone.chunks[lasting], strict.chunks[lasting])


def test_the_stricter_rule_needs_the_hold_for_ten_steps_and_is_awaited_where_asked():
    policy = tiny_task.policy()
    with tiny_task.short_episodes(), tiny_task.waist_reward(-1.0):
        at_once, strict = run(policy), run(policy, continue_to_strict=True)
    assert (at_once.steps == REST_STEPS + 1).all() and not at_once.strict.any()
    assert (strict.steps == REST_STEPS + 1).all() and strict.strict.all() and (strict.valid.sum(1) == 1).all()


def test_flattened_decisions_are_the_valid_ones(waist_task):
    got = run(tiny_task.policy(), 12)
    flat = flatten(got, got.valid)
    assert len(flat) == got.valid.sum() == len(flat.chunks)
    assert torch.equal(flat.states[0], got.states[0, 0])
    last = np.argwhere(got.valid)[-1]
    assert torch.equal(flat.chunks[-1], got.chunks[last[0], last[1]])


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
    assert all(is_held_out(int(scene)) for scene in whole.seeds)
    assert not set(whole.seeds) & set(evaluate(policy, 5, seed=1).seeds)
    assert np.array_equal(whole.gym_return, parts.gym_return)


def test_an_evaluation_as_json_has_the_wilson_interval():
    # 8 of 10: centre 0.71674, half width 0.22656 (Wilson 1927, z = 1.959964).
    seeds = np.arange(10)
    result = evaluation.Evaluation(
        'transfer_cube', 'ab', 10, 1234, 'random', 0, 1.0, seeds, seeds < 8, seeds < 5, seeds == 9, 2.0 * seeds, 300
    ).to_dict()
    assert (result['policy_sha256'], result['successes'], result['mean_return']) == ('ab', 8, 9.0)
    assert (result['wilson_low'], result['wilson_high']) == (
        pytest.approx(0.49016, abs=1e-4),
        pytest.approx(0.94332, abs=1e-4),
    )
    assert result['success_rate'] == 0.8 and result['success_strict_rate'] == 0.5


def test_the_return_of_an_episode_sums_gym_alohas_rewards_up_to_its_success(waist_task):
    """The waist counts 4 beyond the goal and 0 before: whoever succeeds has one reward of 4."""
    found = evaluate(tiny_task.policy(), 6)
    assert 0 < found.successes < 6
    assert np.array_equal(found.gym_return, np.where(found.success, 4.0, 0.0))
    assert found.policy == tiny_task.policy().digest()


def test_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match='random or zero'):
        evaluate(tiny_task.policy(), 1, sampling='best')


@pytest.mark.parametrize('options', [{'seed': -1}, {'seed': 1000}, {'episodes': 10**6}])
def test_held_out_scenes_out_of_bounds_are_refused(options):
    with pytest.raises(SeedError, match='out of bounds'):
        evaluate(tiny_task.policy(), **{'episodes': 1} | options)


def test_physics_runs_with_the_threads_asked_for(waist_task, monkeypatch):
    asked, plain = [], BatchedWorlds.__init__
    monkeypatch.setattr(BatchedWorlds, '__init__',
                        lambda worlds, *a, **k: asked.append(a[2]) or plain(worlds, *a, **k))
    evaluate(tiny_task.policy(), 1, threads=1)
    assert asked == [1]


def test_a_loss_that_is_not_finite_stops_supervised_training():
    settings = sft.SFTConfig(steps=20, batch=16, warmup=0, learning_rate=1e30)
    with pytest.raises(NotFiniteError, match='step .* of 20: .*lower learning rate than 1e.30'):
        sft.train(tiny_task.pairs(), tiny_task.CONTRACT, tiny_task.TINY, settings, 0)
