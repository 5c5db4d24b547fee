"""Real-time chunking: the paper's mask and weights, and what guidance does to a flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.policy.guided import guided_velocity, sample_guided
from fpo_ros.policy.realtime import decided_rows, entry_mask, guidance_weight, padded, soft_mask


def test_the_mask_is_that_of_the_paper():
    found = soft_mask(10, 4, 2)
    np.testing.assert_allclose(found, [1, 1, 0.5706, 0.2871, 0.1145, 0.0258, 0, 0, 0, 0], atol=5e-5)


@pytest.mark.parametrize(('cap', 'expected'), [
    (10.0, [10, 9.111, 4.25, 2.762, 2.167, 2, 2.167, 2.762, 4.25, 9.111]),
    (5.0, [5, 5, 4.25, 2.762, 2.167, 2, 2.167, 2.762, 4.25, 5])])
def test_the_weights_are_those_of_the_paper(cap, expected):
    found = [guidance_weight(1 - step / 10, cap) for step in range(10)]
    np.testing.assert_allclose(found, expected, atol=1e-3)


@given(horizon=st.integers(1, 60), data=st.data())
def test_a_mask_falls_from_one_to_zero(horizon, data):
    executed = data.draw(st.integers(0, horizon))
    delay = data.draw(st.integers(0, horizon - executed))
    mask = soft_mask(horizon, executed, delay)
    assert mask.shape == (horizon,) and (mask[:delay] == 1).all() and (mask[horizon - executed:] == 0).all()
    assert (np.diff(mask) <= 1e-6).all() and (mask >= 0).all() and (mask <= 1).all()


@pytest.mark.parametrize(('executed', 'delay'), [(8, 3), (11, 0), (0, -1)])
def test_a_delay_that_outlasts_the_chunk_is_refused(executed, delay):
    with pytest.raises(ValueError, match='cannot be bridged'):
        soft_mask(10, executed, delay)


def linear(x, time):
    """A flow towards x_0 = 1 + x_t / 2 for every entry."""
    return (x - (1 + x / 2)) / time[:, None, None]


def test_guidance_is_the_gradient_of_the_distance_to_what_is_decided():
    x, decided = torch.randn(1, 3, 2), torch.randn(1, 3, 2)
    time, weight, mask = torch.tensor([0.4]), torch.tensor([2.0]), torch.rand(1, 3, 2)
    leads_to = x - 0.4 * linear(x, time)
    # x_0 moves by half of what x_t does, so the gradient is half of the weighted error.
    expected = linear(x, time) - 2.0 * 0.5 * mask * (decided - leads_to)
    torch.testing.assert_close(guided_velocity(linear, x, time, decided, mask, weight), expected)


def test_the_gradient_goes_through_the_network():
    """Against automatic differentiation of the distance, for a flow whose entries depend on each other."""
    torch.manual_seed(0)
    mix = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 6)).double()

    def denoise(x, time):
        return mix(x.flatten(1)).view_as(x) * time[:, None, None]

    x, decided, mask = torch.randn(1, 3, 2).double(), torch.randn(1, 3, 2).double(), torch.rand(1, 3, 2).double()
    time, weight = torch.tensor([0.7]).double(), torch.tensor([1.0]).double()
    moved = x.clone().requires_grad_()
    with torch.no_grad():
        error = mask * (decided - (x - 0.7 * denoise(x, time)))
    ((moved - 0.7 * denoise(moved, time)) * error).sum().backward()
    found = guided_velocity(denoise, x, time, decided, mask, weight)
    torch.testing.assert_close(found, denoise(x, time) - moved.grad)


def test_without_a_mask_nothing_is_guided():
    noise = torch.randn(2, 4, 3)
    free = noise
    for step in range(5):
        free = free - linear(free, torch.full((2,), 1 - step / 5)) / 5
    torch.testing.assert_close(sample_guided(linear, noise, 5, torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)), free)


def test_what_is_decided_is_kept_and_the_rest_follows_the_flow():
    decided = torch.full((1, 4, 16), -2.0)
    mask = torch.as_tensor(entry_mask(3, 2, 4, 16))[None]
    drawn = sample_guided(linear, torch.zeros(1, 4, 16), 10, decided, mask)
    free = sample_guided(linear, torch.zeros(1, 4, 16), 10, decided, torch.zeros(1, 4, 16))
    missed = [(chunk - decided)[0, :2, :14].abs().max() for chunk in (drawn, free)]
    assert missed[0] < 0.6 * missed[1]
    assert torch.equal(drawn[0, 3], free[0, 3]), 'behind the leftover the flow is free'
    assert torch.equal(drawn[..., 14:], free[..., 14:]), 'padding is left alone'


def test_a_delay_beyond_what_is_left_decides_all_that_is_left():
    assert (entry_mask(2, 9, 4, 14)[:2] == 1).all() and (entry_mask(2, 9, 4, 14)[2:] == 0).all()


def test_short_leftovers_are_filled_with_their_last_row():
    rows = np.arange(6.0).reshape(3, 2)
    assert padded(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert padded(rows, 2).tolist() == [[0, 1], [2, 3]]


@given(tokens=st.integers(1, 12), steps=st.integers(1, 6), data=st.data())
def test_decided_are_whole_tokens_of_rows_that_are_left(tokens, steps, data):
    horizon = tokens * steps
    left, delay = data.draw(st.integers(0, horizon)), data.draw(st.integers(0, horizon))
    decided = decided_rows(left, delay, horizon, steps)
    count = int(decided.sum())
    assert (decided[:count] == 1).all() and count % steps == 0
    assert count <= left, 'none is invented'
    assert count > min(left, delay) - steps and count < delay + steps, 'as many as are executed, but for a token'


def test_a_token_that_the_leftover_covers_in_part_is_free():
    assert decided_rows(7, 6, 20, 5).tolist() == [1] * 5 + [0] * 15
    assert decided_rows(10, 6, 20, 5).tolist() == [1] * 10 + [0] * 10
    assert decided_rows(7, 6, 20).tolist() == [1] * 6 + [0] * 14
