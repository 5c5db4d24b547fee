"""The flow's path, target, loss and sampler."""

from __future__ import annotations

import numpy as np
import torch

from fpo_ros.policy.expert import Expert
from fpo_ros.policy.flow import sample, sample_time, squared_error


class Recorder:
    """A network that notes its inputs and answers with a fixed velocity."""

    between = staticmethod(Expert.between)

    def __init__(self, velocity: torch.Tensor) -> None:
        self.velocity = velocity

    def denoise(self, x: torch.Tensor, time: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        self.x, self.time = x, time
        return self.velocity


def test_path_runs_from_noise_at_one_to_actions_at_zero_and_the_target_is_their_difference():
    actions, noise = torch.full((3, 2, 1), 4.0), torch.full((3, 2, 1), -2.0)
    network = Recorder(torch.full((3, 2, 1), 1.0))
    error = squared_error(network, actions, noise, torch.tensor([1.0, 0.25, 0.0]), torch.empty(0))
    assert network.x[:, 0, 0].tolist() == [-2.0, 2.5, 4.0]
    assert (error == 49.0).all(), '(1 - (-2 - 4))^2'
    network.velocity = noise - actions
    assert (squared_error(network, actions, noise, torch.rand(3), torch.empty(0)) == 0).all()


def test_squared_error_of_the_clean_chunk_is_time_squared_times_that_of_the_velocity():
    torch.manual_seed(0)
    actions, noise, time = torch.randn(5, 2, 3), torch.randn(5, 2, 3), torch.rand(5)
    network = Recorder(torch.randn(5, 2, 3))
    error = squared_error(network, actions, noise, time, torch.empty(0))
    t = time[:, None, None]
    implied = network.x - t * network.velocity
    torch.testing.assert_close((implied - actions).square(), t.square() * error, atol=1e-5, rtol=1e-4)


def test_sampler_is_exact_for_a_constant_velocity_for_any_number_of_steps():
    noise, velocity = torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[2.0, 5.0]]])
    for steps in (1, 3, 10):
        torch.testing.assert_close(sample(lambda x, t: velocity, noise, steps), noise - velocity)


def test_sampler_visits_the_times_of_its_grid_from_one_downwards():
    seen = []
    sample(lambda x, t: seen.append(t.tolist()) or torch.zeros_like(x), torch.zeros(2, 1, 1), 4)
    assert seen == [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]]


def test_sampler_by_hand_for_a_velocity_that_depends_on_place_and_time():
    # v = x + t in two steps from 1: x = 1 - (1 + 1) / 2 = 0, then x = 0 - (0 + 0.5) / 2.
    out = sample(lambda x, t: x + t[:, None, None], torch.ones(1, 1, 1), 2)
    assert out.item() == -0.25


def test_training_times_follow_the_shifted_beta_distribution():
    times = sample_time((20000,), torch.Generator().manual_seed(0))
    assert times.min() >= 0.001 and times.max() <= 1.0
    assert abs(float(times.mean()) - (0.999 * 0.6 + 0.001)) < 0.01, 'Beta(1.5, 1) has mean 0.6'
    for level in (0.25, 0.5, 0.9):
        assert abs(float((times < level).float().mean()) - ((level - 0.001) / 0.999) ** 1.5) < 0.015


def test_sampling_from_zero_noise_is_deterministic_and_differs_from_random_noise(make_policy):
    policy = make_policy()
    rng = np.random.default_rng(0)
    states = policy.states(rng.normal(size=(2, 14)), rng.normal(size=(2, 7)))
    prefix, zero = policy.prefix(None), torch.zeros(2, 5, 14)
    first, second = policy.act(states, prefix, zero), policy.act(states, prefix, zero)
    assert torch.equal(first, second)
    assert not torch.allclose(first, policy.act(states, prefix, torch.randn(2, 5, 14)))
    assert not torch.allclose(first[0], first[1]), 'the chunk must depend on the state'
