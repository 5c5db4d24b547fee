"""Success by start region, and how much the chunks of one observation differ."""

from __future__ import annotations

from dataclasses import replace

import made_rollouts
import numpy as np
import pytest
import tiny_task
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning.diagnostics import START_AREA, chunk_spread, region_counts, regions, worst_region
from fpo_ros.learning.rollout import Rollout
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.flow import Sampling
from fpo_ros.sim.batch import BatchedWorlds

PIXELS = replace(tiny_task.CONTRACT, observation='pixels', cameras=('cam_high',), image_height=16, image_width=24)
VALID = np.array([[True, True, False], [True, True, True]])
#: Mean over many of the deviation, with n - 1, of 16 standard normal numbers.
C4 = 0.98349


def placed(starts: list[tuple[float, float]], rewarded: list[bool] | None = None) -> Rollout:
    """Return episodes of one decision whose first object starts there."""
    valid = np.ones((len(starts), 1), bool)
    rollout = made_rollouts.rollout(tiny_task.policy(), valid, None if rewarded is None else np.array(rewarded))
    rollout.privileged[:, 0, 14:16] = starts
    return rollout


@pytest.mark.parametrize(('task', 'start', 'region'), [
    ('transfer_cube', (0.03, 0.43), 0), ('transfer_cube', (0.10, 0.43), 1), ('transfer_cube', (0.17, 0.43), 2),
    ('transfer_cube', (0.03, 0.50), 3), ('transfer_cube', (0.10, 0.50), 4), ('transfer_cube', (0.17, 0.57), 8),
    ('transfer_cube', (0.066, 0.466), 0), ('transfer_cube', (0.067, 0.467), 4),
    ('transfer_cube', (0.133, 0.533), 4), ('transfer_cube', (0.134, 0.534), 8),
    ('insertion', (0.11, 0.43), 0), ('insertion', (0.15, 0.50), 4), ('insertion', (0.19, 0.43), 2),
    # The edges of the area, and what a randomised start puts outside of it, belong to the nearest region.
    ('transfer_cube', (0.0, 0.4), 0), ('transfer_cube', (0.2, 0.6), 8), ('transfer_cube', (0.2, 0.4), 2),
    ('transfer_cube', (-0.5, 0.0), 0), ('transfer_cube', (0.9, 0.9), 8), ('transfer_cube', (-0.1, 0.9), 6)])
def test_regions_by_hand(task, start, region):
    assert regions(placed([start]), task).tolist() == [region]


def test_counts_by_hand():
    rollout = placed([(0.03, 0.43), (0.03, 0.43), (0.17, 0.57), (0.10, 0.50)], [True, False, True, False])
    counts = region_counts(rollout, 'transfer_cube')
    assert counts == [[1, 2], [0, 0], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 0], [1, 1]]


@given(st.lists(st.tuples(st.floats(-0.2, 0.4), st.floats(0.2, 0.8), st.booleans()), min_size=1, max_size=30))
def test_every_episode_counts_once(episodes):
    rollout = placed([(x, y) for x, y, _ in episodes], [rewarded for *_, rewarded in episodes])
    counts = np.array(region_counts(rollout, 'transfer_cube'))
    assert counts.shape == (9, 2) and (counts[:, 0] <= counts[:, 1]).all()
    assert counts.sum(0).tolist() == [sum(rewarded for *_, rewarded in episodes), len(episodes)]


@pytest.mark.parametrize('task', ['transfer_cube', 'insertion'])
def test_scenes_fill_the_start_area(task):
    with BatchedWorlds(task, 120, 1) as worlds:
        worlds.reset(np.arange(120), np.arange(120))
        starts = worlds.object_pose()[:, :2]
    for axis, (low, high) in enumerate(START_AREA[task]):
        assert starts[:, axis].min() >= low - 1e-6 and starts[:, axis].max() <= high + 1e-6
        assert np.ptp(starts[:, axis]) > 0.9 * (high - low)
    counts = np.array(region_counts(placed([tuple(start) for start in starts]), task))
    assert counts[:, 1].min() >= 3


def test_the_worst_region_is_judged_over_all_iterations_given():
    first, second = [[3, 4], [1, 3], [0, 2]], [[2, 2], [0, 3], [0, 2]]
    assert worst_region([first, second]) == pytest.approx(1 / 6), 'the third has four episodes alone'
    assert worst_region([first, second], least=4) == 0
    assert worst_region([first], least=4) == 0.75


def test_without_a_region_of_enough_episodes_none_is_the_worst():
    assert worst_region([[[0, 4], [0, 0]]]) is None
    assert worst_region([[[0, 5], [0, 0]]]) == 0


def scaled(policy: FlowPolicy, factor: float) -> FlowPolicy:
    """Let a policy draw its noise times a factor: four steps of v = a x leave (1 - a / 4)^4 of it."""
    rate = 4 * (1 - factor ** 0.25)
    policy.model.denoise = lambda x, time, cache: rate * x
    return policy


def test_the_spread_of_chunks_that_are_noise_is_that_of_the_noise():
    policy = scaled(tiny_task.policy(), 1.0)
    rollout = made_rollouts.rollout(policy, np.ones((8, 4), bool))
    assert chunk_spread(policy, rollout, 0) == pytest.approx(C4, abs=0.02)


def test_the_spread_grows_with_that_of_the_chunks():
    rollout = made_rollouts.rollout(tiny_task.policy(), VALID)
    whole, half, tenth = (chunk_spread(scaled(tiny_task.policy(), factor), rollout, 0) for factor in (1.0, 0.5, 0.1))
    assert half == pytest.approx(whole / 2, rel=1e-4) and tenth == pytest.approx(whole / 10, rel=1e-4)


def test_a_policy_that_ignores_its_noise_has_no_spread():
    # One that predicts the clean chunk, the same whatever it sees.
    policy = tiny_task.policy()
    policy.model.denoise = lambda x, time, cache: (x - 0.3) / time[:, None, None]
    rollout = made_rollouts.rollout(policy, VALID)
    assert chunk_spread(policy, rollout, 0) < 1e-6


def test_the_spread_is_within_observations_not_between_them():
    policy = tiny_task.policy()
    policy.model.with_state = lambda states, prefix: states
    policy.model.denoise = lambda x, time, states: (x - states[:, :1, None]) / time[:, None, None]
    rollout = made_rollouts.rollout(policy, VALID)
    assert float(rollout.states[..., 0].std()) > 0.5 and chunk_spread(policy, rollout, 0) < 1e-6


def test_rows_that_are_not_executed_do_not_count():
    policy = scaled(tiny_task.policy(), 1.0)
    rollout = made_rollouts.rollout(policy, VALID)
    before = chunk_spread(policy, rollout, 0)
    plain = policy.model.denoise

    def wild(x, time, cache):
        velocity = plain(x, time, cache)
        velocity[:, tiny_task.CONTRACT.execute:] = 100 * x[:, tiny_task.CONTRACT.execute:]
        return velocity

    policy.model.denoise = wild
    assert chunk_spread(policy, rollout, 0) == before


def test_the_spread_follows_from_the_seed():
    policy = tiny_task.policy()
    rollout = made_rollouts.rollout(policy, VALID)
    torch.manual_seed(1)
    first = chunk_spread(policy, rollout, 3)
    torch.manual_seed(2)
    assert chunk_spread(policy, rollout, 3) == first != chunk_spread(policy, rollout, 4)


@pytest.mark.parametrize('contract', [tiny_task.CONTRACT, PIXELS])
@pytest.mark.parametrize('count', [3, 40])
def test_chunks_are_drawn_from_states_and_prefixes_of_decisions_that_were_taken(contract, count, monkeypatch):
    policy = tiny_task.policy(contract=contract)
    valid = np.tile(VALID[:1], (count, 1))
    rollout = made_rollouts.rollout(policy, valid)
    numbers = torch.arange(valid.size, dtype=torch.float32)
    rollout.states[..., 0] = numbers.view(valid.shape)
    if contract.cameras:
        rollout.prefix_kv[:] = numbers[None, None, :, None, None, None]
    seen = []
    plain = FlowPolicy.draw
    monkeypatch.setattr(FlowPolicy, 'draw', lambda *a: seen.append(a) or plain(*a))
    chunk_spread(policy, rollout, 0)
    (_, states, prefix, noise, *_), = seen
    decisions = min(32, 2 * count)
    looked_at = states[::16, 0]
    assert len(states) == len(noise) == 16 * decisions and len(set(looked_at.tolist())) == decisions
    assert torch.equal(states[:, 0], looked_at.repeat_interleave(16))
    assert set(looked_at.tolist()) <= set(numbers[torch.as_tensor(valid).flatten()].tolist())
    assert {0.0, float(3 * count - 2)} <= set(looked_at.tolist()), 'from the first to the last'
    if contract.cameras:
        assert torch.equal(prefix[0, 0, :, 0, 0, 0], states[:, 0])


def test_the_spread_of_a_policy_that_acts_from_zero_noise_is_that_of_the_noise_it_adds():
    policy = scaled(tiny_task.policy(), 0.5)
    rollout = made_rollouts.rollout(policy, np.ones((8, 4), bool))
    last = (3 * ((0.0,) * 14,)) + ((0.2,) * 14,)
    assert chunk_spread(policy, rollout, 0, Sampling(noise_range=(0.0, 0.0), noise_std=last)) == pytest.approx(
        0.2 * C4, abs=0.005)
    assert chunk_spread(policy, rollout, 0, Sampling(noise_range=(0.0, 0.0))) == 0
