"""Critics: what they see, what they are trained towards, and what a state is worth to them."""

from __future__ import annotations

import math
from dataclasses import replace

import made_rollouts
import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning.config import CriticConfig
from fpo_ros.learning.critic import Ensemble
from fpo_ros.learning.latent import with_latent_actor
from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.values import EnsembleValues, StateValues, Values, seen_by_critic, values_of
from fpo_ros.policy.checkpoint import Drawn, FlowPolicy
from fpo_ros.policy.flow import Sampling

PIXELS = replace(tiny_task.CONTRACT, observation='pixels', cameras=('cam_high',), image_height=16, image_width=24)
#: Two decisions, three, one.
VALID = np.array([[True, True, False], [True, True, True], [True, False, False]])
REWARDED = np.array([True, False, True])
REWARD = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])


def critic(policy: FlowPolicy | None = None, gamma: float = 0.9, **settings: object) -> Values:
    return values_of(CriticConfig(**settings), policy or tiny_task.policy(), gamma, 0,
                     torch.Generator().manual_seed(0))


def opinionated(values: Values) -> Values:
    """Give the networks opinions that nothing supports."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in values.module.named_parameters():
            if name.endswith('net.4.weight'):
                parameter.normal_(generator=generator)
    return values


def constant(critics: torch.nn.ModuleList, numbers: list[float]) -> None:
    """Let each critic predict one number."""
    for network, number in zip(critics, numbers, strict=True):
        torch.nn.init.zeros_(network.net[-1].weight)
        torch.nn.init.constant_(network.net[-1].bias, number)


@pytest.mark.parametrize(('kind', 'wanted'), [('value', StateValues), ('ensemble', EnsembleValues)])
def test_settings_choose_the_critic(kind, wanted):
    assert type(critic(kind=kind)) is wanted


@pytest.mark.parametrize('settings', [{'kind': 'value'}, {'kind': 'ensemble', 'members': 3}])
@pytest.mark.parametrize('inputs', ['privileged', 'observation'])
@pytest.mark.parametrize('contract', [tiny_task.CONTRACT, PIXELS])
def test_at_first_every_state_is_worth_what_the_start_policy_reaches(settings, inputs, contract):
    policy = tiny_task.policy(contract=contract)
    values = critic(policy, inputs=inputs, **settings)
    rollout = made_rollouts.rollout(policy, VALID)
    values.begin(rollout, 0.25)
    worth = values.estimate(rollout, Sampling())
    assert worth.dtype == np.float64 and worth.shape == VALID.shape
    np.testing.assert_allclose(worth, 0.25, atol=1e-6)


def test_privileged_inputs_are_the_privileged_state():
    rollout = made_rollouts.rollout(tiny_task.policy(), VALID)
    assert np.array_equal(seen_by_critic(rollout, 'privileged').numpy(), rollout.privileged)


def test_observation_inputs_of_a_policy_without_cameras_are_its_state_and_the_elapsed_share():
    rollout = made_rollouts.rollout(tiny_task.policy(), VALID)
    seen = seen_by_critic(rollout, 'observation')
    assert torch.equal(seen[..., :21], rollout.states)
    assert seen.shape[-1] == 22 and np.array_equal(seen[..., 21].numpy(), rollout.privileged[..., -1])


def test_observation_inputs_of_a_policy_with_cameras_hold_the_mean_over_the_prefix_of_each_decision():
    rollout = made_rollouts.rollout(tiny_task.policy(contract=PIXELS), VALID)
    seen = seen_by_critic(rollout, 'observation')
    assert torch.equal(seen[..., :14], rollout.states) and seen.shape[-1] == 14 + 2 * 8 + 1
    for episode, decision in np.argwhere(VALID):
        own = rollout.prefix_kv[-1, :, episode * 3 + decision]  # keys and values (2, heads, tokens, width)
        torch.testing.assert_close(seen[episode, decision, 14:-1], own.mean(2).flatten())
        assert seen[episode, decision, -1] == rollout.privileged[episode, decision, -1]


def moved(rollout: Rollout, columns: slice) -> Rollout:
    """Return the rollout with other privileged entries."""
    privileged = rollout.privileged.copy()
    privileged[..., columns] += 0.5
    return replace(rollout, privileged=privileged)


@pytest.mark.parametrize('settings', [{'kind': 'value'}, {'kind': 'ensemble', 'baseline': 'stored'}])
@pytest.mark.parametrize('inputs', ['observation', 'privileged'])
def test_a_critic_of_observations_does_not_know_where_the_object_is(settings, inputs):
    policy = tiny_task.policy(contract=PIXELS)
    rollout = made_rollouts.rollout(policy, VALID)
    values = critic(policy, inputs=inputs, **settings)
    values.begin(rollout, 0.5)
    opinionated(values)
    worth = values.estimate(rollout, Sampling())
    blind = inputs == 'observation'
    assert np.array_equal(values.estimate(moved(rollout, slice(0, 14)), Sampling()), worth) == blind, 'true joints'
    assert np.array_equal(values.estimate(moved(rollout, slice(14, 21)), Sampling()), worth) == blind, 'the cube'
    assert not np.array_equal(values.estimate(moved(rollout, slice(21, 22)), Sampling()), worth), 'elapsed share'
    assert np.array_equal(values.estimate(replace(rollout, states=rollout.states + 1), Sampling()), worth) != blind


def test_values_of_states_are_regressed_onto_the_targets():
    policy = tiny_task.policy()
    rollout, values = made_rollouts.rollout(policy, VALID), critic(policy, steps=1)
    values.begin(rollout, 0.5)
    target = np.where(VALID, 0.75, 99.0)
    assert values.learn(rollout, REWARD, target) == pytest.approx(0.0625, abs=1e-6), '(0.5 - 0.75)^2'
    values.fit(300)
    np.testing.assert_allclose(values.estimate(rollout, Sampling())[VALID], 0.75, atol=0.02)


@pytest.mark.parametrize('kind', ['value', 'ensemble'])
def test_decisions_are_trained_on_as_long_as_they_are_kept(kind):
    policy = tiny_task.policy()
    values = critic(policy, kind=kind, members=2, steps=1, history=2)
    for seed in (1, 2, 3):
        rollout = made_rollouts.rollout(policy, VALID, REWARDED, seed)
        values.begin(rollout, 0.5)
        values.learn(rollout, REWARD, np.zeros(VALID.shape))
    name = {'value': 'seen', 'ensemble': 'now'}[kind]
    kept = [part[name][:, :22] for part in values.data]
    assert len(kept) == 2
    for seed, seen in zip((2, 3), kept, strict=True):
        wanted = made_rollouts.rollout(policy, VALID, REWARDED, seed).privileged[VALID]
        assert np.array_equal(seen.numpy(), wanted)


def test_what_follows_a_decision_is_the_next_one_of_its_episode():
    policy = tiny_task.policy()
    rollout = made_rollouts.rollout(policy, VALID, REWARDED)
    values = critic(policy, kind='ensemble', members=2, steps=1)
    values.begin(rollout, 0.5)
    values.learn(rollout, REWARD, np.zeros(VALID.shape))
    (kept,) = values.data
    assert kept['follows'].tolist() == [1, 0, 1, 1, 0, 0] and kept['reward'].tolist() == [0, 1, 0, 0, 0, 1]
    vectors = np.concatenate([rollout.privileged, rollout.chunks[:, :, :3].flatten(2).numpy()], -1)
    assert np.array_equal(kept['now'].numpy(), vectors[VALID])
    for row, (episode, decision) in enumerate(((0, 0), (1, 0), (1, 1))):
        follower = {0: 0, 1: 2, 2: 3}[row]
        assert np.array_equal(kept['next'][follower].numpy(), vectors[episode, decision + 1])


@pytest.mark.parametrize(('reward', 'follows', 'wanted'), [
    (0.0, 1.0, 0.9 * 0.3), (0.25, 1.0, 0.25 + 0.9 * 0.3), (1.0, 0.0, 1.0), (0.0, 0.0, 0.0)])
def test_the_target_is_reward_and_the_least_slow_value_of_what_follows(reward, follows, wanted):
    values = critic(kind='ensemble', members=2)
    constant(values.module.members, [0.5, -0.5])
    constant(values.module.targets, [0.7, 0.3])
    size = values.module.members[0].mean.shape[0]
    values.data.append({'now': torch.zeros(1, size), 'next': torch.ones(1, size), 'reward': torch.tensor([reward]),
                        'follows': torch.tensor([follows])})
    assert values.fit(1) == pytest.approx(((0.5 - wanted) ** 2 + (-0.5 - wanted) ** 2) / 2, abs=1e-6)


def test_the_target_looks_at_the_next_decision_with_the_slow_copies():
    values = opinionated(critic(kind='ensemble', members=3))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for network in values.module.targets:
            network.net[-1].weight.normal_(generator=generator)
    size = values.module.members[0].mean.shape[0]
    now, following = torch.randn(1, size, generator=generator), torch.randn(1, size, generator=generator)
    values.data.append({'now': now, 'next': following, 'reward': torch.tensor([0.5]), 'follows': torch.ones(1)})
    with torch.no_grad():
        slow = min(float(network(following)) for network in values.module.targets)
        errors = [(float(network(now)) - (0.5 + 0.9 * slow)) ** 2 for network in values.module.members]
    assert values.fit(1) == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_least_value_of_the_members_counts():
    ensemble = Ensemble(5, 3)
    constant(ensemble.members, [0.2, -0.4, 0.1])
    constant(ensemble.targets, [0.9, 0.8, 0.7])
    vectors = torch.randn(2, 4, 5)
    torch.testing.assert_close(ensemble(vectors)[:, 0, 0], torch.tensor([0.2, -0.4, 0.1]))
    torch.testing.assert_close(ensemble.least(vectors), torch.full((2, 4), -0.4))
    torch.testing.assert_close(ensemble.least_of_targets(vectors), torch.full((2, 4), 0.7))


def test_members_differ_from_each_other_and_their_copies_equal_them():
    ensemble = Ensemble(5, 3)
    first, second, third = (network.net[0].weight for network in ensemble.members)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert all(torch.equal(one.net[0].weight, other.net[0].weight)
               for one, other in zip(ensemble.members, ensemble.targets, strict=True))
    assert not any(parameter.requires_grad for parameter in ensemble.targets.parameters())


def test_slow_copies_go_their_share_of_the_way():
    ensemble = Ensemble(2, 2)
    constant(ensemble.members, [1.0, -1.0])
    constant(ensemble.targets, [0.0, 3.0])
    for wanted in ([0.25, 2.0], [0.4375, 1.25]):
        ensemble.follow(0.25)
        assert [float(network.net[-1].bias.detach()) for network in ensemble.targets] == pytest.approx(wanted)


def test_every_step_of_learning_moves_the_copies_once():
    values = opinionated(critic(kind='ensemble', members=2, polyak=0.25))
    size = values.module.members[0].mean.shape[0]
    values.data.append({'now': torch.ones(1, size), 'next': torch.ones(1, size), 'reward': torch.ones(1),
                        'follows': torch.zeros(1)})
    for _ in range(2):
        before = [parameter.clone() for parameter in values.module.targets.parameters()]
        values.fit(1)
        for old, slow, fast in zip(before, values.module.targets.parameters(), values.module.members.parameters(),
                                   strict=True):
            torch.testing.assert_close(slow, 0.75 * old + 0.25 * fast.detach())


def test_the_stored_baseline_is_the_chunk_that_was_executed():
    policy = tiny_task.policy()
    rollout = made_rollouts.rollout(policy, VALID)
    values = critic(policy, kind='ensemble', members=2, baseline='stored')
    values.begin(rollout, 0.5)
    opinionated(values)
    vectors = torch.cat([torch.as_tensor(rollout.privileged), rollout.chunks[:, :, :3].flatten(2)], -1)
    with torch.no_grad():
        wanted = values.module.least(vectors).numpy()
    np.testing.assert_allclose(values.estimate(rollout, Sampling()), wanted, atol=1e-6)
    wanted = values.estimate(rollout, Sampling())
    unexecuted, executed = rollout.chunks.clone(), rollout.chunks.clone()
    unexecuted[:, :, 3] += 1
    executed[:, :, 2] += 1
    assert np.array_equal(values.estimate(replace(rollout, chunks=unexecuted), Sampling()), wanted)
    assert not np.array_equal(values.estimate(replace(rollout, chunks=executed), Sampling()), wanted)


@pytest.mark.parametrize('contract', [tiny_task.CONTRACT, PIXELS])
def test_the_fresh_baseline_is_a_chunk_that_the_policy_draws_in_that_state(contract, monkeypatch):
    policy = tiny_task.policy(contract=contract)
    rollout = made_rollouts.rollout(policy, VALID)
    values = critic(policy, kind='ensemble', members=2)
    values.begin(rollout, 0.5)
    opinionated(values)
    drawn = []
    plain = FlowPolicy.draw
    monkeypatch.setattr(FlowPolicy, 'draw', lambda *a: drawn.append((a, plain(*a))) or drawn[-1][1])
    worth = values.estimate(rollout, Sampling())
    ((_, states, prefix, noise, *_), got), = drawn
    assert torch.equal(states.view_as(rollout.states), rollout.states) and prefix is rollout.prefix_kv
    assert noise.shape == (9, 4, 14) and abs(float(noise.std()) - 1) < 0.15
    chunks = got.chunks.view_as(rollout.chunks)
    stored = critic(policy, kind='ensemble', members=2, baseline='stored')
    stored.module.load_state_dict(values.module.state_dict())
    np.testing.assert_allclose(worth, stored.estimate(replace(rollout, chunks=chunks), Sampling()), atol=1e-6)
    assert not np.array_equal(values.estimate(rollout, Sampling()), worth), 'noise is drawn anew'
    again = critic(policy, kind='ensemble', members=2)
    again.module.load_state_dict(values.module.state_dict())
    moved_on = replace(rollout, chunks=rollout.chunks + 1)
    assert np.array_equal(again.estimate(moved_on, Sampling()), worth), 'executed chunks'


@pytest.mark.parametrize('baseline', ['stored', 'fresh'])
def test_critics_of_a_policy_with_a_latent_actor_see_whole_latents(baseline, monkeypatch):
    policy = with_latent_actor(tiny_task.policy())
    rollout = made_rollouts.rollout(policy, VALID)
    values = critic(policy, kind='ensemble', members=2, baseline=baseline)
    values.begin(rollout, 0.5)
    opinionated(values)
    monkeypatch.setattr(FlowPolicy, 'draw', lambda *_: Drawn(
        torch.zeros(9, 4, 14), rollout.paths.flatten(0, 1)))
    vectors = torch.cat([torch.as_tensor(rollout.privileged), rollout.paths[:, :, 0].flatten(2)], -1)
    with torch.no_grad():
        wanted = values.module.least(vectors).numpy()
    np.testing.assert_allclose(values.estimate(rollout, Sampling()), wanted, atol=1e-6)


@pytest.mark.parametrize('latent', [False, True])
def test_an_ensemble_learns_which_chunk_is_good(latent):
    policy = with_latent_actor(tiny_task.policy()) if latent else tiny_task.policy()
    valid = np.ones((120, 1), bool)
    rollout = made_rollouts.rollout(policy, valid)
    acts = rollout.paths[:, :, 0] if latent else rollout.chunks
    acts[..., 0] = torch.where(torch.rand(120, 1, 1, generator=torch.Generator().manual_seed(5)) > 0.5, 1.0, -1.0)
    good = acts[:, 0, 0, 0].numpy() > 0
    values = critic(policy, kind='ensemble', members=2, steps=60, baseline='stored')
    values.begin(rollout, float(good.mean()))
    values.learn(rollout, good[:, None].astype(float), np.zeros(valid.shape))
    unseen = made_rollouts.rollout(policy, valid, seed=1)
    worth = []
    for act in (1.0, -1.0):
        (unseen.paths[:, :, 0] if latent else unseen.chunks)[..., 0] = act
        worth.append(values.estimate(unseen, Sampling()))
    assert worth[0].mean() > 0.8 and worth[1].mean() < 0.2
    assert (worth[0] > worth[1]).mean() > 0.95


def test_values_travel_back_from_the_reward_through_what_follows():
    policy = tiny_task.policy()
    valid = np.ones((40, 3), bool)
    rollout = made_rollouts.rollout(policy, valid, np.ones(40, bool))
    privileged = rollout.privileged
    privileged[..., -1] = np.arange(3)
    reward = np.zeros(valid.shape)
    reward[:, -1] = 1
    values = critic(policy, gamma=0.5, kind='ensemble', members=2, steps=300, polyak=0.2, baseline='stored')
    values.begin(rollout, 1.0)
    values.learn(rollout, reward, np.zeros(valid.shape))
    np.testing.assert_allclose(values.estimate(rollout, Sampling()).mean(0), [0.25, 0.5, 1.0], atol=0.06)


@pytest.mark.parametrize(('sampling', 'low', 'high'), [
    (Sampling(noise_range=(0.25, 0.5)), 0.25, 0.5),
    (Sampling(noise_range=(0.0, 0.0), noise_std=4 * ((0.1,) * 14,)), 0, 0)])
def test_the_fresh_baseline_is_drawn_as_the_chunks_of_the_rollout_were(sampling, low, high, monkeypatch):
    policy = tiny_task.policy()
    rollout = made_rollouts.rollout(policy, np.ones((40, 3), bool))
    values, drawn, plain = critic(policy, kind='ensemble', members=2), [], FlowPolicy.draw
    values.begin(rollout, 0.5)
    monkeypatch.setattr(FlowPolicy, 'draw', lambda *a: drawn.append(a) or plain(*a))
    values.estimate(rollout, sampling)
    (_, _, _, noise, injected, how), = drawn
    deviations = noise.flatten(1).std(1)
    assert how is sampling and 0.8 * low <= float(deviations.min()) <= float(deviations.max()) <= 1.2 * high
    assert float(deviations.std()) == pytest.approx((high - low) / math.sqrt(12), abs=0.02), 'a factor per decision'
    assert injected is None if not sampling.noise_std else injected.shape == (120, 4, 4, 14)
