"""Actors over the start noise: they change nothing at first, and steer the policy without touching its weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sizes import SHARED, TINY

from fpo_ros.learning.latent import with_latent_actor
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.expert import Expert
from fpo_ros.policy.flow import Sampling, sample, squared_error
from fpo_ros.policy.latent import FlowLatent, GaussianLatent, pooled_prefix

SIZES = pytest.mark.parametrize('sizes', [TINY, SHARED])
SEEN = pytest.mark.parametrize('observation', ['state', 'pixels'])
ACTORS = pytest.mark.parametrize('kind', ['flow', 'gaussian'])


def seen_by(policy: FlowPolicy, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states, prefix and noise of some decisions."""
    contract, generator = policy.contract, torch.Generator().manual_seed(5)
    states = torch.randn(count, contract.state_dim, generator=generator)
    images = None
    if contract.cameras:
        shape = (count, len(contract.cameras), contract.image_height, contract.image_width, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    noise = torch.randn(count, contract.horizon, contract.action_dim, generator=generator)
    return states, policy.prefix(images).detach(), noise


def shaken(actor: torch.nn.Module, by: float = 0.3) -> None:
    """Give an actor an opinion."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))


@SEEN
@SIZES
def test_a_fresh_flow_actor_leaves_chunks_as_they_were_bit_for_bit(make_policy, observation, sizes):
    policy = make_policy(observation, sizes=sizes, horizon=6)
    steered = with_latent_actor(policy)
    states, prefix, noise = seen_by(policy)
    drawn = steered.draw(states, prefix, noise)
    assert torch.equal(drawn.chunks, policy.act(states, prefix, noise))
    assert drawn.path.shape == (3, 1, 6, 14) and torch.equal(drawn.path[:, 0], noise)


def test_the_policy_without_an_actor_is_left_as_it_was(make_policy):
    policy = make_policy()
    before = policy.digest()
    steered = with_latent_actor(policy)
    shaken(steered.model.latent_actor)
    assert policy.digest() == before and policy.model.latent_actor is None
    assert steered.contract == policy.contract and steered.stats is policy.stats
    own = policy.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in steered.model.state_dict().items()
               if not name.startswith('latent_actor.'))


@ACTORS
def test_the_weights_of_a_new_actor_follow_from_the_seed_alone(make_policy, kind):
    policy = make_policy()
    torch.manual_seed(3)
    first = with_latent_actor(policy, kind, seed=4)
    untouched = torch.rand(1)
    second, other = with_latent_actor(policy, kind, seed=4), with_latent_actor(policy, kind, seed=5)
    assert first.digest() == second.digest() != other.digest()
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), untouched), 'the global random state is left alone'


@ACTORS
def test_a_policy_that_has_the_actor_is_returned_as_it_is(make_policy, kind):
    steered = with_latent_actor(make_policy(), kind)
    assert with_latent_actor(steered, kind) is steered


@pytest.mark.parametrize(('has', 'wanted'), [('flow', 'gaussian'), ('gaussian', 'flow')])
def test_an_actor_of_another_kind_is_refused(make_policy, has, wanted):
    with pytest.raises(ContractError, match=f'latent actor of kind "{has}": start from one without'):
        with_latent_actor(with_latent_actor(make_policy(), has), wanted)


@SIZES
def test_a_latent_is_the_start_noise_of_the_policy(make_policy, sizes):
    policy = make_policy(sizes=sizes, horizon=6)
    steered = with_latent_actor(policy)
    actor = steered.model.latent_actor
    shaken(actor)
    states, prefix, noise = seen_by(policy)
    drawn = steered.draw(states, prefix, noise)
    cache = actor.with_state(states, prefix)
    latent = sample(lambda x, time: actor.denoise(x, time, cache), noise, 4)
    assert torch.equal(drawn.path[:, 0], latent) and float((latent - noise).abs().max()) > 0.01
    assert torch.equal(drawn.chunks, policy.act(states, prefix, latent))


def test_a_sampling_is_of_the_actor_and_decoding_stays_as_the_contract_says(make_policy):
    policy = make_policy()
    steered = with_latent_actor(policy)
    shaken(steered.model.latent_actor)
    states, prefix, noise = seen_by(policy)
    drawn = steered.draw(states, prefix, noise, sampling=Sampling(steps=2))
    assert not torch.equal(drawn.path, steered.draw(states, prefix, noise).path)
    assert torch.equal(drawn.chunks, policy.act(states, prefix, drawn.path[:, 0]))


def test_a_flow_over_latents_predicts_velocities_whatever_the_policy_predicts(make_policy):
    steered = with_latent_actor(make_policy(sizes=SHARED, horizon=6))
    actor = steered.model.latent_actor
    with torch.no_grad():
        actor.action_out_proj.bias.fill_(0.5)
    states, prefix, noise = seen_by(steered)
    torch.testing.assert_close(steered.draw(states, prefix, noise).path[:, 0], noise - 0.5)


@pytest.mark.parametrize('path', [FlowLatent.between, Expert.between])
def test_paths_run_from_data_at_zero_to_noise_at_one(path):
    data, noise = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    for time, end in ((0.0, data), (1.0, noise)):
        torch.testing.assert_close(path(data, noise, torch.full((2,), time, dtype=torch.float64))[0], end)


@pytest.mark.parametrize('path', [FlowLatent.between, Expert.between])
def test_the_velocity_is_the_derivative_of_the_path(path):
    data, noise = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    time = torch.tensor([0.0, 0.1, 0.5, 0.77, 1.0], dtype=torch.float64)
    _, velocity = path(data, noise, time)
    step = 1e-5
    (after, _), (before, _) = path(data, noise, time + step), path(data, noise, time - step)
    torch.testing.assert_close((after - before) / (2 * step), velocity, atol=1e-8, rtol=1e-7)


def test_points_of_a_turning_path_between_random_ends_are_as_random_as_the_ends():
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(4, 100, 200, generator=generator), torch.randn(4, 100, 200, generator=generator)
    point, _ = FlowLatent.between(data, noise, torch.tensor([0.1, 0.3, 0.5, 0.9]))
    torch.testing.assert_close(point.std((1, 2)), torch.ones(4), atol=0.02, rtol=0)


def test_no_velocity_is_expected_anywhere_on_turning_paths_to_random_latents():
    # The velocity that minimises the loss is E[v | x_t]; along straight paths it is (2 t - 1) / (t² + (1 - t)²) x_t.
    generator = torch.Generator().manual_seed(0)
    count = 40_000
    for t in (0.1, 0.5, 0.9):
        data, noise = torch.randn(1, count, 1, generator=generator), torch.randn(1, count, 1, generator=generator)
        for path, slope in ((FlowLatent.between, 0.0), (Expert.between, (2 * t - 1) / (t * t + (1 - t) ** 2))):
            point, velocity = (part.flatten() for part in path(data, noise, torch.tensor([t])))
            assert float((point * velocity).mean() / point.square().mean()) == pytest.approx(slope, abs=0.04)
            for low in (-2.0, -1.0, 0.0, 1.0):
                there = (point > low) & (point < low + 1)
                expected = float((velocity - slope * point)[there].mean())
                assert abs(expected) < 5 * math.pi / 2 / math.sqrt(int(there.sum())), (t, low)


def test_a_fresh_flow_actor_cannot_be_bettered_where_latents_are_random(make_policy):
    """Training on latents of the policy itself, all of them worth the same, must not move it on average."""
    steered = with_latent_actor(make_policy())
    actor = steered.model.latent_actor
    generator = torch.Generator().manual_seed(0)
    count = 4000
    states = torch.zeros(count, steered.contract.state_dim)
    latents, noise = (torch.randn(count, 5, 14, generator=generator) for _ in range(2))
    cache = actor.with_state(states, steered.prefix(None).detach())
    error = squared_error(actor, latents, noise, torch.rand(count, generator=generator), cache)
    error.mean().backward()
    gradient = actor.action_out_proj.bias.grad
    # The mean of 20,000 velocities of variance pi² / 4, times 2 / 14: the error is a mean over 14 dimensions.
    assert float(gradient.abs().max()) < 4 * 2 / 14 * (math.pi / 2) / math.sqrt(5 * count)


def test_a_fresh_gaussian_actor_by_hand(make_policy):
    policy = make_policy()
    steered = with_latent_actor(policy, 'gaussian')
    states, prefix, noise = seen_by(policy)
    drawn = steered.draw(states, prefix, noise)
    expected = (0.5 * torch.tanh(math.exp(-0.3) * noise[:, 0]))[:, None].expand(-1, 5, -1)
    torch.testing.assert_close(drawn.path[:, 0], expected)
    assert drawn.path.shape == (3, 1, 5, 14) and torch.equal(drawn.chunks, policy.act(states, prefix, drawn.path[:, 0]))


def test_a_gaussian_latent_is_bounded_and_the_same_for_all_steps_of_a_chunk(make_policy):
    steered = with_latent_actor(make_policy(), 'gaussian')
    shaken(steered.model.latent_actor, 5.0)
    states, prefix, noise = seen_by(steered, 20)
    latent = steered.draw(states, prefix, 10 * noise).path[:, 0]
    assert torch.isfinite(latent).all() and float(latent.abs().max()) <= GaussianLatent.BOUND
    assert float(latent.abs().max()) > 0.47
    assert (latent == latent[:, :1]).all()
    other = noise.clone()
    other[:, 1:] = 0
    assert torch.equal(steered.draw(states, prefix, 10 * other).path[:, 0], latent), 'noise of the first step alone'


@pytest.mark.parametrize(('bias', 'wanted'), [(-50.0, -5.0), (50.0, 1.0), (0.25, 0.25)])
def test_the_deviation_of_a_gaussian_latent_is_bounded(make_policy, bias, wanted):
    policy = make_policy()
    steered = with_latent_actor(policy, 'gaussian')
    with torch.no_grad():
        steered.model.latent_actor.net[-1].bias[:14] = 0.5
        steered.model.latent_actor.net[-1].bias[14:] = bias
    states, prefix, noise = seen_by(policy)
    expected = 0.5 * torch.tanh(0.5 + math.exp(wanted) * noise[:, 0])
    torch.testing.assert_close(steered.draw(states, prefix, noise).path[:, 0, 0], expected)


@SEEN
def test_a_gaussian_actor_sees_state_and_prefix(make_policy, observation):
    steered = with_latent_actor(make_policy(observation), 'gaussian')
    shaken(steered.model.latent_actor)
    states, prefix, noise = seen_by(steered)
    plain = steered.draw(states, prefix, noise).path
    assert not torch.equal(steered.draw(states + 1, prefix, noise).path, plain)
    assert not torch.equal(steered.draw(states, prefix + 1, noise).path, plain)


def test_a_pooled_prefix_is_the_mean_over_the_tokens_of_the_last_layer():
    prefix = torch.zeros(2, 2, 2, 1, 3, 2)  # layers, keys and values, batch, heads, tokens, width
    prefix[1, 0, 0, 0] = torch.tensor([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]])
    prefix[1, 1, 1, 0] = torch.tensor([[-3.0, 0.0], [0.0, 0.0], [0.0, 9.0]])
    prefix[0] = 99.0
    assert pooled_prefix(prefix, 2).tolist() == [[3, 30, 0, 0], [0, 0, -1, 3]]
    assert pooled_prefix(prefix[:, :, :1], 3).tolist() == [[3, 30, 0, 0]] * 3, 'one prefix for all'


@ACTORS
@SEEN
def test_a_saved_policy_with_an_actor_acts_as_before(make_policy, tmp_path, kind, observation):
    steered = with_latent_actor(make_policy(observation), kind)
    shaken(steered.model.latent_actor)
    steered.save(tmp_path)
    again = FlowPolicy.load(tmp_path)
    assert again.model.config == steered.model.config and again.model.config.latent_actor == kind
    assert again.digest() == steered.digest()
    states, prefix, noise = seen_by(steered)
    assert torch.equal(again.act(states, prefix, noise), steered.act(states, prefix, noise))


def test_a_policy_that_was_saved_before_there_were_actors_still_loads(make_policy, tmp_path):
    policy = make_policy()
    policy.save(tmp_path)
    document = json.loads((tmp_path / 'policy.json').read_text())
    assert document['model'].pop('latent_actor') == ''
    (tmp_path / 'policy.json').write_text(json.dumps(document))
    again = FlowPolicy.load(tmp_path)
    assert again.model.latent_actor is None and again.digest() == policy.digest()
    assert again.model.config == policy.model.config


@pytest.mark.parametrize('change', [{'latent_actor': 'flow'}, {'latent_actor': 'moon'}])
def test_an_actor_without_weights_or_of_no_kind_is_one_error_that_names_the_file(make_policy, tmp_path, change):
    make_policy().save(tmp_path)
    document = json.loads((tmp_path / 'policy.json').read_text())
    document['model'].update(change)
    (tmp_path / 'policy.json').write_text(json.dumps(document))
    with pytest.raises(ContractError) as caught:
        FlowPolicy.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)


def test_the_parameters_of_the_expert_do_not_include_those_of_an_actor(make_policy):
    steered = with_latent_actor(make_policy())
    own = {id(parameter) for parameter in steered.model.expert_parameters()}
    actor = {id(parameter) for parameter in steered.model.latent_actor.parameters()}
    assert not own & actor and actor == {id(p) for p in steered.model.latent_actor.expert_parameters()}


def test_sizes_with_an_actor_survive_json():
    for kind in ('', 'flow', 'gaussian'):
        sizes = replace(TINY, latent_actor=kind)
        assert Pi0Config.from_dict(json.loads(json.dumps(sizes.to_dict()))) == sizes
