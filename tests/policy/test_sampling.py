"""How chunks are drawn in training: noise between steps, steps beyond the end, factors of the start noise."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning.rollout import Rollout, collect
from fpo_ros.learning.scale import EpisodeOptions, Local, collect_episodes
from fpo_ros.learning.scale.unit import BLOCK, BlockPolicy, noise_factors, start_noise
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.flow import BEYOND_TIME, Sampling, sample, trajectory
from fpo_ros.sim.batch import BatchedWorlds

SCENES = np.array([7, 3, 900_001, 11, 5])


def place_and_time(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    return x + time[:, None, None]


def numbers(states: list[torch.Tensor]) -> list[float]:
    return [state.item() for state in states]


def test_states_of_a_flow_by_hand():
    # v = x + t in two steps: 1 - (1 + 1) / 2 = 0, then 0 - (0 + 0.5) / 2.
    states = trajectory(place_and_time, torch.ones(1, 1, 1), 2)
    assert numbers(states) == [1.0, 0.0, -0.25]


def test_injected_noise_is_added_after_each_step_and_enters_the_next():
    # 1 -> 0 + 0.5, then 0.5 - (0.5 + 0.5) / 2 - 0.25.
    added = [torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), -0.25)]
    states = trajectory(place_and_time, torch.ones(1, 1, 1), 2, added)
    assert numbers(states) == [1.0, 0.5, -0.25]


def test_steps_beyond_the_end_follow_the_field_of_the_last_time():
    # Behind -0.25 with v = x + 0.1 and steps of 0.5: -0.25 - 0.5 (-0.15) = -0.175, then -0.175 - 0.5 (-0.075).
    seen = []

    def field(x, time):
        seen.append(time.item())
        return x + time[:, None, None]

    states = trajectory(field, torch.ones(1, 1, 1), 2, beyond=2, beyond_size=0.5)
    assert numbers(states) == pytest.approx([1.0, 0.0, -0.25, -0.175, -0.1375])
    assert seen == pytest.approx([1.0, 0.5, BEYOND_TIME, BEYOND_TIME])


@given(st.integers(1, 6), st.integers(0, 3))
def test_a_flow_has_a_state_before_and_one_behind_every_step(steps, beyond):
    states = trajectory(place_and_time, torch.ones(2, 1, 1), steps, beyond=beyond, beyond_size=0.1)
    assert len(states) == 1 + steps + beyond
    assert torch.equal(sample(place_and_time, torch.ones(2, 1, 1), steps), states[steps])


def decisions(policy: FlowPolicy, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator, contract = torch.Generator().manual_seed(2), policy.contract
    return (torch.randn(count, contract.state_dim, generator=generator), policy.prefix(None).detach(),
            torch.randn(count, contract.horizon, 14, generator=generator))


def test_other_numbers_of_steps_are_drawn_as_asked_for(make_policy):
    policy, seen = make_policy(), []
    states, prefix, noise = decisions(policy)
    plain = policy.model.denoise
    policy.model.denoise = lambda x, time, cache: seen.append(time[0].item()) or plain(x, time, cache)
    chunks = policy.draw(states, prefix, noise, sampling=Sampling(steps=2)).chunks
    assert seen == [1.0, 0.5]
    two = make_policy(flow_steps=2)
    assert torch.equal(chunks, two.act(states, prefix, noise)), 'as a contract of so many steps would have it'
    assert torch.equal(policy.draw(states, prefix, noise, sampling=Sampling(steps=4)).chunks,
                       policy.act(states, prefix, noise))


def test_steps_beyond_reach_the_chunk(make_policy):
    policy = make_policy()
    states, prefix, noise = decisions(policy)
    chunk = policy.act(states, prefix, noise)
    cache = policy.model.with_state(states, prefix)
    with torch.no_grad():
        wanted = chunk - 0.25 * policy.model.denoise(chunk, torch.full((3,), 0.1), cache)
    drawn = policy.draw(states, prefix, noise, sampling=Sampling(beyond=1, beyond_size=0.25))
    torch.testing.assert_close(drawn.chunks, wanted, atol=1e-6, rtol=1e-5)
    assert drawn.path.shape == (3, 0, 5, 14)


def test_the_path_of_injected_noise_holds_the_state_before_each_step(make_policy):
    policy = make_policy()
    states, prefix, noise = decisions(policy)
    injected = torch.randn(3, 4, 5, 14, generator=torch.Generator().manual_seed(3))
    std = tuple(tuple(0.1 * (row + 1) + 0.01 * column for column in range(14)) for row in range(4))
    drawn = policy.draw(states, prefix, noise, injected, Sampling(noise_std=std))
    assert drawn.path.shape == (3, 4, 5, 14) and torch.equal(drawn.path[:, 0], noise)
    cache = policy.model.with_state(states, prefix)
    reached = [*drawn.path[:, 1:].unbind(1), drawn.chunks]
    with torch.no_grad():
        for index, (here, there) in enumerate(zip(drawn.path.unbind(1), reached, strict=True)):
            mean = here - policy.model.denoise(here, torch.full((3,), 1 - index / 4), cache) / 4
            wanted = torch.tensor(std[index]) * injected[:, index]
            torch.testing.assert_close(there - mean, wanted, atol=1e-5, rtol=1e-4)


def test_steps_beyond_injected_noise_are_no_part_of_the_path(make_policy):
    policy = make_policy()
    states, prefix, noise = decisions(policy)
    sampling = Sampling(steps=2, beyond=3, noise_std=((0.1,) * 14,) * 2)
    drawn = policy.draw(states, prefix, noise, torch.randn(3, 2, 5, 14), sampling)
    assert drawn.path.shape == (3, 2, 5, 14)


def test_noise_after_the_last_step_alone_perturbs_the_chunk(make_policy):
    policy = make_policy()
    states, prefix, noise = decisions(policy)
    injected = torch.randn(3, 4, 5, 14)
    std = ((0.0,) * 14,) * 3 + ((0.5,) * 14,)
    drawn = policy.draw(states, prefix, noise, injected, Sampling(noise_std=std))
    torch.testing.assert_close(drawn.chunks, policy.act(states, prefix, noise) + 0.5 * injected[:, 3])


@pytest.mark.parametrize(('sampling', 'words'), [
    (Sampling(noise_std=((0.1,) * 14,) * 3), 'noise_std has 3 rows for a flow of 4 steps'),
    (Sampling(steps=2, noise_std=((0.1,) * 14,) * 4), 'noise_std has 4 rows for a flow of 2 steps')])
def test_noise_for_another_number_of_steps_is_refused(make_policy, sampling, words):
    policy = make_policy()
    states, prefix, noise = decisions(policy)
    with pytest.raises(ValueError, match=words):
        policy.draw(states, prefix, noise, torch.randn(3, 4, 5, 14), sampling)
    with pytest.raises(ValueError, match=words):
        collect_episodes(policy, SCENES[:1], Local(threads=1), EpisodeOptions(sampling=sampling, max_steps=13))


@pytest.mark.parametrize('settings', [
    {'noise_std': [[0.1] * 13] * 4}, {'noise_std': [[-0.1] * 14]}, {'noise_std': [[float('nan')] * 14]},
    {'noise_range': (1.0, 0.5)}, {'noise_range': (-0.1, 1.0)}, {'noise_range': (float('nan'), 1.0)},
    {'noise_range': (1.0,)}, {'steps': 0}, {'beyond': -1}, {'beyond': 1, 'beyond_size': 0.0}])
def test_a_sampling_that_cannot_be_is_refused(settings):
    with pytest.raises(ValueError):
        Sampling(**settings)


@pytest.mark.parametrize('sampling', [
    Sampling(), Sampling(steps=2), Sampling(beyond=2), Sampling(noise_std=((0.1,) * 14, (0.2,) * 14) * 2)])
@pytest.mark.parametrize('observation', ['state', 'pixels'])
def test_blocks_draw_what_the_policy_draws(make_policy, observation, sampling):
    policy, count = make_policy(observation), BLOCK + 5
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(count, policy.contract.state_dim, generator=generator)
    noise = torch.randn(count, 5, 14, generator=generator)
    injected = torch.randn(count, 4, 5, 14, generator=generator) if sampling.noise_std else None
    images = None
    if observation == 'pixels':
        images = np.random.default_rng(0).integers(0, 256, (count, 2, 16, 24, 3), np.uint8)
    prefix = policy.prefix(images).detach()
    blocks = BlockPolicy(policy).draw(states, prefix, noise, injected, sampling)
    whole = policy.draw(states, prefix, noise, injected, sampling)
    torch.testing.assert_close(blocks.chunks, whole.chunks, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(blocks.path, whole.path, atol=1e-5, rtol=1e-4)
    if observation == 'state':
        some = BlockPolicy(policy).draw(states[3:7], prefix, noise[3:7], None if injected is None else injected[3:7],
                                        sampling)
        assert torch.equal(some.chunks, blocks.chunks[3:7]) and torch.equal(some.path, blocks.path[3:7])


@given(st.integers(0, 2**32), st.integers(0, 40), st.floats(0, 1), st.floats(0, 2))
def test_noise_factors_lie_in_their_range(seed, decision, low, width):
    factors = noise_factors(seed, SCENES, decision, (low, low + width))
    assert factors.shape == (5, 1, 1) and factors.dtype == torch.float32
    assert float(factors.min()) >= np.float32(low) and float(factors.max()) <= np.float32(low + width)


def test_noise_factors_fill_their_range_and_differ_between_scenes_decisions_and_seeds():
    scenes = np.arange(2000)
    factors = noise_factors(0, scenes, 0, (0.5, 1.5)).flatten()
    counts = torch.histc(factors, 10, 0.5, 1.5)
    assert int(counts.min()) > 140 and len(set(factors.tolist())) > 1950
    for other in (noise_factors(1, scenes, 0, (0.5, 1.5)), noise_factors(0, scenes, 1, (0.5, 1.5))):
        assert abs(float(torch.corrcoef(torch.stack([factors, other.flatten()]))[0, 1])) < 0.08


def test_noise_factors_are_drawn_apart_from_the_noise_they_scale():
    scenes = np.arange(2000)
    factors = noise_factors(0, scenes, 0, (0.0, 1.0)).flatten()
    for stream in (0, 1):
        first = start_noise(0, scenes, 0, (1,), stream).flatten()
        assert abs(float(torch.corrcoef(torch.stack([factors, first]))[0, 1])) < 0.08


def rolled(policy: FlowPolicy, scenes: np.ndarray, sampling: Sampling, **where: int) -> Rollout:
    options = EpisodeOptions(noise_seed=3, max_steps=16, sampling=sampling)
    return collect_episodes(policy, scenes, Local(threads=1, **where), options).rollout


def test_the_start_noise_of_every_decision_is_scaled_by_its_factor(make_policy, monkeypatch):
    policy, seen = make_policy(), []
    plain = BlockPolicy.draw
    monkeypatch.setattr(BlockPolicy, 'draw', lambda *a: seen.append(a[3]) or plain(*a))
    rolled(policy, SCENES, Sampling(noise_range=(0.2, 0.8)))
    assert len(seen) == 2
    for decision, noise in enumerate(seen):
        factors = noise_factors(3, SCENES, decision, (0.2, 0.8))
        assert torch.equal(noise, factors * start_noise(3, SCENES, decision, (5, 14)))


@pytest.mark.parametrize('sampling', [
    Sampling(noise_range=(0.2, 0.8)), Sampling(noise_std=((0.1,) * 14,) * 4), Sampling(steps=2, beyond=1)])
def test_an_episode_does_not_depend_on_the_unit_it_shares(make_policy, sampling):
    policy = make_policy()
    whole = rolled(policy, SCENES, sampling)
    assert whole.chunks.shape == (5, 2, 5, 14) and whole.valid.all()
    order = np.array([4, 0, 2])
    for other in (rolled(policy, SCENES, sampling, unit=2), rolled(policy, SCENES, sampling, unit=1)):
        assert torch.equal(other.chunks, whole.chunks) and torch.equal(other.paths, whole.paths)
    some = rolled(policy, SCENES[order], sampling)
    assert torch.equal(some.chunks, whole.chunks[order]) and torch.equal(some.paths, whole.paths[order])
    assert not torch.equal(whole.chunks, rolled(policy, SCENES, Sampling()).chunks)


def test_paths_of_episodes_hold_the_states_of_every_decision(make_policy):
    policy = make_policy()
    sampling = Sampling(noise_std=((0.1,) * 14,) * 4)
    rollout = rolled(policy, SCENES, sampling)
    assert rollout.paths.shape == (5, 2, 4, 5, 14)
    prefix = policy.prefix(None).detach()
    for decision in range(2):
        noise = start_noise(3, SCENES, decision, (5, 14))
        injected = start_noise(3, SCENES, decision, (4, 5, 14), stream=1)
        drawn = BlockPolicy(policy).draw(rollout.states[:, decision], prefix, noise, injected, sampling)
        assert torch.equal(drawn.path, rollout.paths[:, decision])
        assert torch.equal(drawn.chunks, rollout.chunks[:, decision])


def test_by_default_episodes_are_those_of_the_plain_flow(make_policy):
    policy = make_policy()
    with BatchedWorlds('transfer_cube', 5, 1) as worlds:
        plain = collect(BlockPolicy(policy), worlds, SCENES, lambda decision: start_noise(3, SCENES, decision, (5, 14)),
                        max_steps=16)
    for sampling in (Sampling(), Sampling(steps=4), Sampling(noise_range=(1, 1))):
        rollout = rolled(policy, SCENES, sampling)
        for name in ('states', 'privileged', 'chunks', 'paths', 'valid', 'steps', 'gym_return'):
            assert np.array_equal(np.asarray(getattr(rollout, name)), np.asarray(getattr(plain, name))), name
    assert rollout.paths.shape == (5, 2, 0, 5, 14)
    prefix, noise = policy.prefix(None).detach(), start_noise(3, SCENES, 0, (5, 14))
    assert torch.equal(BlockPolicy(policy).act(rollout.states[:, 0], prefix, noise), rollout.chunks[:, 0])


def test_options_with_a_sampling_survive_the_journey_to_a_worker():
    options = EpisodeOptions(sampling=Sampling(3, 2, 0.1, (0.5, 1.0), ((0.1,) * 14,) * 3))
    assert EpisodeOptions.from_dict(asdict(options)) == options
