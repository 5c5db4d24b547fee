"""Units of episodes on this machine: equal bit for bit, however they are cut."""

from __future__ import annotations

import numpy as np
import tiny_task
import torch
from equal_episodes import OPTIONS, SCENES, assert_equal, of_scenes
from recorded import PIXELS

from fpo_ros.learning import scale
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.scale import EpisodeOptions, Local, collect_episodes, wire
from fpo_ros.learning.scale.unit import BLOCK, UnitRunner, start_noise
from fpo_ros.sim.task import REST_STEPS


def test_an_episode_does_not_depend_on_threads_units_or_companions(waist_task):
    policy = tiny_task.policy()
    whole = collect_episodes(policy, SCENES, Local(threads=1), OPTIONS).rollout
    assert whole.success.any() and not whole.success.all(), 'the case needs both'
    for where in (Local(threads=2), Local(threads=1, unit=3), Local(threads=2, unit=1)):
        assert_equal(collect_episodes(policy, SCENES, where, OPTIONS).rollout, whole)
    order = np.array([8, 0, 4])
    some = collect_episodes(policy, np.append(SCENES[order], np.arange(100, 100 + 2 * BLOCK)), Local(), OPTIONS).rollout
    wanted = of_scenes(whole, order)
    for name, value in of_scenes(some, np.arange(3)).items():
        assert np.array_equal(value, wanted[name]), name


def test_what_the_network_says_of_a_row_does_not_depend_on_how_many_there_are():
    policy, noise = tiny_task.policy(), torch.randn(33, 4, 14)
    states, prefix = torch.randn(33, 21), policy.prefix(None).detach()
    blocks = scale.unit.BlockPolicy(policy)
    for count in range(1, 34):
        assert torch.equal(blocks.act(states[:count], prefix, noise[:count]), blocks.act(states, prefix, noise)[:count])
    torch.testing.assert_close(blocks.act(states, prefix, noise), policy.act(states, prefix, noise))


def test_an_episode_from_pictures_does_not_depend_on_its_unit():
    policy = tiny_task.policy(contract=PIXELS)
    options = EpisodeOptions(noise_seed=1, max_steps=REST_STEPS + 6)
    whole = collect_episodes(policy, SCENES[:3], Local(threads=1), options).rollout
    assert whole.prefix_kv.shape[2] == whole.valid.size
    assert_equal(collect_episodes(policy, SCENES[:3], Local(threads=1, unit=2), options).rollout, whole)


def test_noise_is_a_function_of_seed_scene_and_decision():
    shape = (50, 14)
    first = start_noise(0, SCENES, 0, shape)
    assert torch.equal(first[4], start_noise(0, SCENES[4:5], 0, shape)[0])
    drawn = [first[0], first[1], start_noise(1, SCENES, 0, shape)[0], start_noise(0, SCENES, 1, shape)[0]]
    for index, one in enumerate(drawn):
        assert all(abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.15
                   for other in drawn[:index])
    assert abs(float(first.mean())) < 0.05 and abs(float(first.std()) - 1) < 0.05


def test_noise_seed_and_scale_reach_the_flow(waist_task):
    policy = tiny_task.policy()
    chunks = [collect_episodes(policy, SCENES[:2], Local(), options).rollout.chunks for options in (
        EpisodeOptions(noise_seed=0), EpisodeOptions(noise_seed=1), EpisodeOptions(noise_seed=0, noise_scale=0.0),
        EpisodeOptions(noise_seed=1, noise_scale=0.0))]
    assert not torch.equal(chunks[0], chunks[1]) and torch.equal(chunks[2], chunks[3])


def test_torch_keeps_its_threads_and_prefixes_can_be_left_out(waist_task):
    torch.set_num_threads(2)
    try:
        got = collect_episodes(tiny_task.policy(), SCENES[:2], Local(), EpisodeOptions(prefixes=False)).rollout
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert got.prefix_kv.shape[2] == 0 and got.valid.any()


def test_an_evaluation_with_random_noise_does_not_depend_on_the_batch(waist_task):
    policy = tiny_task.policy()
    whole, parts = evaluate(policy, 9), evaluate(policy, 9, batch=2)
    assert np.array_equal(whole.success, parts.success) and whole.control_steps == parts.control_steps


def test_a_policy_and_a_rollout_survive_the_journey(waist_task):
    policy = tiny_task.policy()
    message = wire.policy_message(policy)
    assert set(message) == {'policy.json', 'policy.safetensors'}
    assert all(content.dtype == np.uint8 for content in message.values())
    assert wire.policy_of(message).digest() == policy.digest()
    with UnitRunner(policy, 2) as runner:
        rollout = runner.run(SCENES[:2], OPTIONS)
    assert_equal(wire.rollout_of(wire.rollout_message(rollout)), rollout)
