"""ReinFlow and PPO: likelihoods of chains of Gaussian steps, and what is learned from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny_task
import torch
from torch.distributions import Normal

from fpo_ros.learning.algorithms import flow_of, prepared
from fpo_ros.learning.chain import START_STD, ChainFlow
from fpo_ros.learning.config import FPOConfig
from fpo_ros.learning.decisions import Decisions, recorded_decisions
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.objective import ObjectiveConfig, policy_objective
from fpo_ros.learning.scale import Local, open_pool

CHAINS = pytest.mark.parametrize('algorithm', ['reinflow', 'ppo'])
#: What the start policy reaches now and then; PPO starts from less noise.
GOALS = {'reinflow': 0.006, 'ppo': 0.0}
PPO_CLIP = ObjectiveConfig(trust_region='ppo', clip=0.2)


def chain(algorithm: str) -> ChainFlow:
    config = tiny_task.config(algorithm=algorithm, warmup=1)
    flow = flow_of(prepared(tiny_task.policy(), config), config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        flow.log_std += 0.1 * torch.randn(flow.log_std.shape, generator=torch.Generator().manual_seed(1))
    return flow


def drawn(flow: ChainFlow, count: int = 3) -> Decisions:
    """Return decisions as a rollout draws them."""
    generator = torch.Generator().manual_seed(2)
    states, sampling, policy = torch.randn(count, 21, generator=generator), flow.sampling(), flow.policy
    noise = sampling.noise_range[1] * torch.randn(count, 4, 14, generator=generator)
    prefix = policy.prefix(None).detach()
    found = policy.draw(states, prefix, noise, sampling.injected(noise.shape, generator), sampling)
    return Decisions(states, prefix, found.chunks, found.path)


@pytest.mark.parametrize(('algorithm', 'steps'), [('reinflow', 4), ('ppo', 1)])
def test_the_likelihood_of_a_chain_is_the_product_of_its_steps(algorithm, steps):
    flow, rows = chain(algorithm), torch.arange(3)
    decisions = drawn(flow)
    assert flow.steps == steps and decisions.paths.shape == (3, steps, 4, 14)
    found = flow.losses(decisions, rows, flow.times(3, 2, True), flow.noise(3, 2))
    states = [*decisions.paths.unbind(1), decisions.chunks]
    cache = decisions.cache(flow.expert, rows)
    likelihood = torch.zeros(3)
    for step in range(steps):
        velocity = flow.expert.denoise(states[step], torch.full((3,), 1 - step / steps), cache)
        normal = Normal(states[step] - velocity / steps, flow.std()[step])
        likelihood += normal.log_prob(states[step + 1])[:, :3].sum((1, 2))  # of four rows three are executed
    constant = steps * 3 * 14 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(-found[:, 0].float() - constant, likelihood, rtol=1e-5, atol=1e-3)


def test_one_dimension_that_moves_by_one_deviation_by_hand():
    # From the mean to one deviation beside it the log density falls by a half, whatever the other entries.
    flow = chain('ppo')
    decisions, rows = drawn(flow, 2), torch.arange(2)
    flow.expert.denoise = lambda x, time, cache: torch.zeros_like(x)
    decisions.chunks, decisions.paths = torch.zeros(2, 4, 14), torch.zeros(2, 1, 4, 14)
    decisions.chunks[1, 2, 5] = flow.std()[0, 5].detach()
    decisions.chunks[1, 3] = 7.0  # not executed
    found = flow.losses(decisions, rows, flow.times(2, 2, True), flow.noise(2, 2))
    assert float((found[1] - found[0]).detach()) == pytest.approx(0.5, abs=1e-6)


@CHAINS
def test_the_gradient_of_the_ratio_is_that_of_the_likelihood(algorithm):
    flow, rows = chain(algorithm), torch.arange(3)
    decisions, advantage = drawn(flow), torch.tensor([1.0, -2.0, 0.5])
    losses = flow.losses(decisions, rows, flow.times(3, 2, True), flow.noise(3, 2))
    value, log_ratio = policy_objective(losses.detach(), losses, advantage, PPO_CLIP)
    assert value.shape == (3, 1) and float(log_ratio.abs().max()) == 0, 'a ratio per decision, 1 at first'
    ours, theirs = (torch.autograd.grad(loss, flow.log_std, retain_graph=True)[0] for loss in (
        value.sum(), -(advantage[:, None] * losses).sum()))
    torch.testing.assert_close(ours, theirs)


@CHAINS
def test_ratios_are_one_before_the_first_step(algorithm):
    config = tiny_task.config(algorithm=algorithm, warmup=1, objective=PPO_CLIP, episodes=24, bc_coefficient=0.0,
                              learning_rate=1e-7)
    learner = FPO(prepared(tiny_task.policy(), config), config)
    with tiny_task.short_episodes(), tiny_task.waist_reward(GOALS[algorithm]), open_pool(Local(unit=24)) as pool:
        entries = [learner.run_iteration(pool) for _ in range(3)]
    errors = [entry['first_ratio_error'] for entry in entries if 'first_ratio_error' in entry]
    assert errors and max(errors) < 1e-5 and 'first_ratio_error' not in entries[0]
    assert all(entry['steps_taken'] == 1 for entry in entries if 'first_ratio_error' in entry)


@CHAINS
def test_chains_learn_to_turn_the_waist(algorithm):
    start = prepared(tiny_task.policy(), tiny_task.config(algorithm=algorithm, warmup=1))
    rates = tiny_task.rates_of_training(6, start, GOALS[algorithm], algorithm=algorithm, objective=PPO_CLIP,
                                        drift_stop=0.05, learning_rate=3e-3)
    assert 0 < rates[1] < 0.5 and np.mean(rates[-2:]) > rates[1] + 0.2, rates


def test_ppo_imitates_the_chunk_that_it_expects():
    config = tiny_task.config(algorithm='ppo', warmup=1)
    learner = FPO(prepared(tiny_task.policy(), config), config, demonstrations=tiny_task.pairs())
    flow, known = learner.imitation._flow, recorded_decisions(tiny_task.pairs(), learner.policy)
    rows = torch.arange(len(known))
    found = flow.losses(known, rows, flow.times(len(rows), 2, False), flow.noise(len(rows), 2))
    acted = learner.policy.act(known.states, known.prefix_kv, torch.zeros(len(rows), 4, 14))
    wanted = (acted - known.chunks)[:, :3].square().mean((1, 2))
    torch.testing.assert_close(found, wanted[:, None].expand(-1, 2))


@CHAINS
def test_the_first_iteration_has_no_noise_and_a_restored_policy_has_that_of_the_start(waist_task, algorithm):
    config = tiny_task.config(algorithm=algorithm, warmup=1)
    learner = FPO(prepared(tiny_task.policy(), config), config)
    first = learner._sampling()
    assert first.noise_std == () and first.noise_range == ((0.0, 0.0) if algorithm == 'ppo' else (1.0, 1.0))
    learner.iteration, learner.spreads = 1, [0.5, 0.01]
    assert len(learner._sampling().noise_std) == learner.flow.steps
    with torch.no_grad():
        learner.flow.log_std.fill_(-2.0)
    learner.restore(tiny_task.policy() if algorithm == 'reinflow' else prepared(tiny_task.policy(), config), 0.4)
    torch.testing.assert_close(learner.flow.std().detach(), torch.full((learner.flow.steps, 14), START_STD))
    assert learner.spreads == [0.5, 0.4]


@CHAINS
@pytest.mark.parametrize(('changes', 'name'), [
    ({'objective': ObjectiveConfig(kappa=5.0)}, 'objective.kappa'),
    ({'objective': ObjectiveConfig(kappa_unit='flow_loss')}, 'objective.kappa_unit'),
    ({'objective': ObjectiveConfig(ratio='averaged')}, 'objective.ratio'),
    ({'objective': ObjectiveConfig(step_decay=0.9)}, 'objective.step_decay'), ({'warmup': 0}, 'warmup')])
def test_settings_that_a_likelihood_has_no_use_for_are_refused(algorithm, changes, name):
    with pytest.raises(ValueError, match=f'{algorithm}.*{name}'):
        FPOConfig(algorithm=algorithm, **changes)
