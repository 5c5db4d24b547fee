"""Latent soft actor-critic (DSRL): densities, targets and what is learned."""

from __future__ import annotations

import made_rollouts
import numpy as np
import pytest
import tiny_task
import torch
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from fpo_ros.learning.algorithms import prepared
from fpo_ros.learning.decisions import flatten
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.learning.soft_actor_critic import FIRST_TEMPERATURE, TARGET_ENTROPY, log_density
from fpo_ros.learning.update import Batch
from fpo_ros.learning.values import seen_by_critic
from fpo_ros.policy.flow import Sampling

CONFIG = tiny_task.config(algorithm='dsrl', gamma=0.9)


def learner_of() -> FPO:
    return FPO(prepared(tiny_task.policy(), CONFIG), CONFIG)


def test_the_density_of_a_latent_is_that_of_the_squashed_gaussian():
    actor, generator = learner_of().flow.expert, torch.Generator().manual_seed(0)
    seen, noise = (torch.randn(5, size, generator=generator) for size in (actor.net[0].in_features, 14))
    with torch.no_grad():
        actor.net[-1].weight.normal_(0, 0.3, generator=generator)
        latent, density = log_density(actor, seen, noise)
        mean, log_std = actor.distribution(seen)
        squashed = TransformedDistribution(Normal(mean.double(), log_std.exp().double()), [
            TanhTransform(), AffineTransform(0.0, actor.bound.double())])
        wanted = squashed.log_prob(latent.double()).sum(-1)
    assert float(latent.abs().max()) < 0.5
    torch.testing.assert_close(density.double(), wanted, rtol=1e-3, atol=1e-2)


def test_the_density_at_the_middle_by_hand():
    # At first the mean is 0 and the deviation exp(-0.3): w = tanh(0) / 2 = 0, and the density per dimension
    # 1 / (0.5 exp(-0.3) sqrt(2 pi)) = exp(0.6931 + 0.3 - 0.9189).
    actor = learner_of().flow.expert
    with torch.no_grad():
        latent, density = log_density(actor, torch.zeros(1, actor.net[0].in_features), torch.zeros(1, 14))
    assert not latent.any() and float(density) == pytest.approx(14 * 0.0742, abs=1e-3)


def test_a_fresh_actor_draws_latents_almost_evenly_over_their_range():
    actor = learner_of().flow.expert
    noise = torch.randn(20000, 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latent, density = log_density(actor, torch.zeros(20000, actor.net[0].in_features), noise)
    evenly = 14 * np.log(2 * 0.5)
    assert evenly - 0.05 * 14 < -float(density.mean()) < evenly
    assert 0.24 < float(latent.std()) < 0.29, '0.289 if even'
    assert -float(density.mean()) > TARGET_ENTROPY * 14, 'so the temperature falls at first'


def test_targets_of_the_critics_by_hand():
    learner = learner_of()
    update, count = learner.update, 3
    with torch.no_grad():
        for index, critic in enumerate(update.critics.targets):  # the mean of 0 to 0.9 is 0.45
            critic.net[-1].bias.fill_(index / 10)
        update.log_temperature.fill_(np.log(0.5))  # has no part in it
    size, acted = update.critics.members[0].net[0].in_features - 14, learner.flow.expert.net[0].in_features
    part = {'next_acted': torch.zeros(count, acted), 'next_seen': torch.zeros(count, size),
            'reward': torch.tensor([0.0, 0.0, 1.0]), 'follows': torch.tensor([1.0, 1.0, 0.0])}
    wanted = [0.9 * 0.45, 0.9 * 0.45, 1.0]
    torch.testing.assert_close(update.targets(part), torch.tensor(wanted))


def test_targets_depend_on_what_follows_and_on_what_the_actor_would_do_there():
    learner = learner_of()
    update, actor = learner.update, learner.flow.expert
    with torch.no_grad():
        for critic in update.critics.targets:
            critic.net[-1].weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
            critic.net[-1].bias.fill_(0.5)
    size, acted = update.critics.members[0].net[0].in_features - 14, actor.net[0].in_features

    def target(seen: float = 0.0, mean: float = 0.0) -> float:
        with torch.no_grad():
            actor.net[-1].bias[:14] = mean
        learner.flow.generator.manual_seed(0)
        return float(update.targets({'next_acted': torch.zeros(1, acted), 'next_seen': torch.full((1, size), seen),
                                     'reward': torch.zeros(1), 'follows': torch.ones(1)}))

    assert len({round(target(seen, mean), 5) for seen in (0.0, 1.0) for mean in (0.0, 2.0)}) == 4


def test_what_is_remembered_of_each_decision_by_hand(monkeypatch):
    monkeypatch.setattr('fpo_ros.learning.soft_actor_critic.CAPACITY', 6)
    learner = learner_of()
    valid = np.array([[True, True, False], [True, True, True]])
    rollout = made_rollouts.rollout(learner.policy, valid)
    reward = np.array([[0.0, 1.0, 9.0], [0.1, 0.2, 0.3]])
    batch = Batch(flatten(rollout, valid), torch.zeros(5), rollout, reward, True, 'here', 'none', 3e-3)
    assert learner.update.warm_up(batch) == {}
    kept = learner.update.replay
    torch.testing.assert_close(kept['reward'], torch.tensor([0.0, 1.0, 0.1, 0.2, 0.3]))
    assert kept['follows'].tolist() == [1, 0, 1, 1, 0]
    taken = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    acted = learner.flow.expert.see(rollout.states.flatten(0, 1), rollout.prefix_kv).view(2, 3, -1)
    seen = seen_by_critic(rollout, CONFIG.critic.inputs)
    for index, (episode, decision) in enumerate(taken):
        assert torch.equal(kept['latent'][index], rollout.paths[episode, decision, 0, 0])
        assert torch.equal(kept['seen'][index], seen[episode, decision])
        assert torch.equal(kept['acted'][index], acted[episode, decision])
        if kept['follows'][index]:
            assert torch.equal(kept['next_seen'][index], seen[episode, decision + 1])
            assert torch.equal(kept['next_acted'][index], acted[episode, decision + 1])
    first = kept['latent'][4].clone()
    learner.update.remember(batch)
    assert len(learner.update.replay['reward']) == 6 and torch.equal(learner.update.replay['latent'][0], first)


@pytest.mark.parametrize(('believed', 'wanted'), [(3.0, 1.0), (-2.0, 0.0)])
def test_no_target_lies_beyond_what_an_episode_can_return(believed, wanted):
    learner = learner_of()
    update = learner.update
    with torch.no_grad():
        for critic in update.critics.targets:
            critic.net[-1].bias.fill_(believed)
    size, acted = update.critics.members[0].net[0].in_features - 14, learner.flow.expert.net[0].in_features
    part = {'next_acted': torch.zeros(1, acted), 'next_seen': torch.zeros(1, size),
            'reward': torch.zeros(1), 'follows': torch.ones(1)}
    assert update.targets(part).tolist() == [wanted]


def test_the_actor_learns_which_latents_are_rewarded(monkeypatch):
    monkeypatch.setattr('fpo_ros.learning.soft_actor_critic._BATCH', 64)
    learner, valid = learner_of(), np.ones((120, 1), bool)
    rollout = made_rollouts.rollout(learner.policy, valid)
    good = (rollout.paths[:, :, 0, 0, 0] > 0).numpy()
    given = Batch(flatten(rollout, valid), torch.zeros(120), rollout, good.astype(float), True, 'here', 'none', 3e-3)
    seen = learner.flow.expert.see(rollout.states[:, 0], rollout.prefix_kv)
    before = learner.flow.expert.distribution(seen)[0].detach()
    assert not before.any()
    learner.update.run(given)
    after = learner.flow.expert.distribution(seen)[0].detach().mean(0)
    assert float(after[0]) > 1.5 * float(after[1:].abs().max()) > 0, after


def test_the_first_rollout_is_drawn_as_it_is_evaluated_and_the_policy_stays_as_it_is(waist_task):
    learner = learner_of()
    before = tiny_task.weights(learner.policy)
    assert learner._sampling() == Sampling()
    with open_pool(Local(unit=4)) as pool:
        metrics = learner.run_iteration(pool)
    after = tiny_task.weights(learner.policy)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith('latent_actor.') for name in changed)
    assert 0 < metrics['soft_q_loss'] < 1 and metrics['temperature'] == pytest.approx(FIRST_TEMPERATURE, rel=0.1)
