"""Networks that draw more entries than an arm has: trained, rolled out and exported; nothing reads the padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning import sft
from fpo_ros.learning.algorithms import prepared
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.objective import ObjectiveConfig, credit_weights
from fpo_ros.learning.scale import EpisodeOptions, Local, collect_episodes, open_pool
from fpo_ros.policy.contract import ContractError, Observation
from fpo_ros.policy.flow import Sampling
from fpo_ros.runtime.export import export
from fpo_ros.runtime.session import PolicySession

CONTRACT = replace(tiny_task.CONTRACT, action_width=20)


def test_a_rollout_commands_the_joints_and_keeps_whole_chunks(waist_task):
    rollout = collect_episodes(tiny_task.policy(contract=CONTRACT), np.arange(3), Local(threads=1),
                               EpisodeOptions(sampling=Sampling(steps=2, noise_std=((0.1,) * 14, (0.0,) * 14)))).rollout
    assert rollout.chunks.shape[-2:] == (4, 20) and rollout.paths.shape[-2:] == (4, 20)
    assert (rollout.chunks[rollout.valid][..., 14:] != 0).all(), 'the flow draws them, too'


def test_fine_tuning_takes_no_credit_from_what_pads(waist_task):
    learner = FPO(tiny_task.policy(contract=CONTRACT), tiny_task.config(episodes=8), demonstrations=tiny_task.pairs())
    assert learner.imitation.recorded.chunks.shape[-1] == 20
    assert (learner.imitation.recorded.chunks[..., 14:] == 0).all()
    weights = learner.flow.credit
    assert (weights[:, 14:] == 0).all() and float(weights[:3].mean()) == pytest.approx(1)
    with open_pool(Local(unit=8)) as pool:
        history = [learner.run_iteration(pool) for _ in range(2)]
    assert all(entry['first_ratio_error'] < 1e-5 and entry['grad_norm'] > 0 for entry in history)


def test_weights_of_dimensions_are_those_of_the_joints():
    weights = credit_weights(ObjectiveConfig(dimension_weights=(1.0, 3.0)), 2, 1, 2, 4)
    assert weights.tolist() == [[1.0, 3.0, 0.0, 0.0], [0.0] * 4]


def test_supervised_training_learns_that_padding_is_zero():
    spread = []
    for steps in (1, 150):
        trained = sft.train(tiny_task.pairs(), CONTRACT, tiny_task.TINY, sft.SFTConfig(steps, 16, warmup=1), 0)
        states = torch.as_tensor(trained.stats.normalise_state(tiny_task.pairs().states), dtype=torch.float32)
        noise = torch.randn(6, 4, 20, generator=torch.Generator().manual_seed(0))
        drawn = trained.act(states, trained.prefix(None).detach(), noise)
        spread.append(float(drawn[..., 14:].abs().mean()))
    assert spread[1] < 0.9 * spread[0] and trained.to_raw(drawn).shape == (6, 4, 14)


def test_an_exported_policy_draws_noise_of_its_width_and_answers_joints(tmp_path):
    policy = tiny_task.policy(contract=CONTRACT)
    assert export(policy, tmp_path, guided=False) < 1e-4
    session = PolicySession.load(tmp_path)
    stats = policy.stats
    seen = Observation(stats.state_mean[:14], object_pose=stats.state_mean[14:])
    noise = np.random.default_rng(0).standard_normal((4, 20))
    chunk = session.infer(seen, noise)
    expected = policy.to_raw(policy.act(policy.states(stats.state_mean[None, :14], stats.state_mean[None, 14:]),
                                        policy.prefix(None), torch.as_tensor(noise[None], dtype=torch.float32)))
    assert chunk.shape == (4, 14)
    np.testing.assert_allclose(chunk, expected[0], atol=1e-4)


@pytest.mark.parametrize('algorithm', ['reinflow', 'ppo'])
def test_densities_of_padding_are_not_known(algorithm):
    with pytest.raises(ContractError, match='knows no densities of padded actions'):
        prepared(tiny_task.policy(contract=CONTRACT), tiny_task.config(algorithm=algorithm, warmup=1))
