"""Ratios and trust regions of Flow Policy Optimization."""

from __future__ import annotations

import math

import pytest
import tiny_task
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning.objective import (
    ObjectiveConfig,
    credit_weights,
    log_ratios,
    pair_losses,
    policy_objective,
    scaled,
    surrogate,
)
from fpo_ros.policy.flow import squared_error

#: Of losses before exp.
SCALE = 50.0
REGIONS = pytest.mark.parametrize('region', ['ppo', 'aspo', 'none'])
RATIOS = pytest.mark.parametrize('ratio', ['per_sample', 'averaged', 'standardised'])


def objective(rho: float, advantage: float, config: ObjectiveConfig) -> tuple[float, float]:
    """Return value and derivative with respect to the ratio."""
    log = torch.tensor([[math.log(rho)]], dtype=torch.float64, requires_grad=True)
    value = surrogate(log, torch.tensor([advantage], dtype=torch.float64), config)
    value.sum().backward()
    return value.item(), log.grad.item() / rho


class Decision:
    """One batch of decisions of a small network, with stored pairs."""

    def __init__(self, batch: int = 5, pairs: int = 4) -> None:
        self.policy = tiny_task.policy()
        generator = torch.Generator().manual_seed(1)
        self.pairs = pairs
        self.states = torch.randn(batch, 21, generator=generator)
        self.chunks = torch.randn(batch, 4, 14, generator=generator)
        self.noise = torch.randn(batch * pairs, 4, 14, generator=generator)
        self.time = torch.rand(batch * pairs, generator=generator)

    def losses(self, config: ObjectiveConfig | None = None) -> torch.Tensor:
        model = self.policy.model
        cache = model.with_state(self.states, model.prefix(self.policy.tokens)).repeat_interleave(
            self.pairs, 2
        )
        error = squared_error(
            model, self.chunks.repeat_interleave(self.pairs, 0), self.noise, self.time, cache
        )
        config = config or ObjectiveConfig()
        losses = pair_losses(error, self.time, credit_weights(config, 4, 3, 14), 3)
        return scaled(losses, SCALE, config).view(-1, self.pairs)

    def gradient(self, config: ObjectiveConfig, advantage: torch.Tensor) -> torch.Tensor:
        self.policy.model.zero_grad()
        new = self.losses(config)
        (-policy_objective(new.detach(), new, advantage, config)[0].mean()).backward()
        return torch.cat(
            [p.grad.flatten() for p in self.policy.model.expert_parameters() if p.grad is not None]
        )

    def moved(self, config: ObjectiveConfig, advantage: float) -> tuple[float, float]:
        """Return the mean loss before and after one small gradient step on the objective."""
        before = self.losses().detach()
        self.gradient(config, torch.full((len(self.states),), advantage))
        with torch.no_grad():
            for parameter in self.policy.model.expert_parameters():
                if parameter.grad is not None:
                    parameter -= 1e-5 * parameter.grad
        return float(before.mean()), float(self.losses().detach().mean())


@RATIOS
def test_ratio_is_exactly_one_without_a_change(ratio):
    losses = Decision().losses().detach()
    assert (log_ratios(losses, losses.clone(), ObjectiveConfig(ratio=ratio)).exp() == 1).all()


@REGIONS
def test_per_sample_and_averaged_gradients_agree_at_the_old_weights(region):
    decision, advantage = Decision(), torch.tensor([1.0, -2.0, 0.5, -0.1, 3.0])
    first, second = (
        decision.gradient(ObjectiveConfig(ratio=ratio, trust_region=region), advantage)
        for ratio in ('per_sample', 'averaged')
    )
    assert first.norm() > 1e-3
    torch.testing.assert_close(first, second, atol=1e-5 * float(first.norm()), rtol=1e-4)


@given(st.lists(st.floats(-0.02, 0.02), min_size=2, max_size=8))
def test_mean_of_ratios_is_at_least_the_ratio_of_the_mean(changes):
    new = torch.tensor([changes], dtype=torch.float64)
    apart, averaged = (
        log_ratios(torch.zeros_like(new), new, ObjectiveConfig(ratio=ratio)).exp()
        for ratio in ('per_sample', 'averaged')
    )
    assert apart.shape == new.shape and averaged.shape == (1, 1)
    assert float(apart.mean()) >= float(averaged) - 1e-12


def test_mean_of_ratios_by_hand():
    old, new = torch.tensor([[2.0, 2.0]]), torch.tensor([[2.5, 1.5]])
    log = log_ratios(old, new, ObjectiveConfig())
    torch.testing.assert_close(log, torch.tensor([[-0.5, 0.5]]))
    assert float(log_ratios(old, new, ObjectiveConfig(ratio='averaged'))) == 0


def test_standardised_ratio_by_hand():
    # Means over the pairs change by 1, 3 and 5: mean 3, deviation sqrt(8 / 3).
    old, new = torch.tensor([[2.0, 2.0], [4.0, 4.0], [6.0, 6.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0], [0.5, 1.5]])
    log = log_ratios(old, new, ObjectiveConfig(ratio='standardised', beta=0.2))
    root = math.sqrt(8 / 3)
    torch.testing.assert_close(log, torch.tensor([[-0.4 / root], [0.0], [0.4 / root]]), atol=1e-3, rtol=0)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=9).filter(lambda values: max(values) - min(values) > 1),
       st.floats(0.01, 0.2))
def test_standardised_changes_have_no_mean_and_the_deviation_asked_for(changes, beta):
    new = torch.tensor(changes, dtype=torch.float64)[:, None]
    config = ObjectiveConfig(ratio='standardised', beta=beta, log_ratio_clip=100.0)
    log = log_ratios(torch.zeros_like(new), new, config)
    assert float(log.mean()) == pytest.approx(0, abs=1e-6)
    assert float(log.std(correction=0)) == pytest.approx(beta, rel=1e-2)


def test_a_change_of_all_losses_alike_leaves_standardised_ratios_at_one():
    old = torch.rand(6, 4, dtype=torch.float64)
    ratio = log_ratios(old, old - 2.0, ObjectiveConfig(ratio='standardised')).exp()
    torch.testing.assert_close(ratio, torch.ones(6, 1, dtype=torch.float64))


def test_rounding_errors_alone_make_no_standardised_ratio():
    old = torch.rand(256, 4, generator=torch.Generator().manual_seed(0))
    wrong = old * (1 + 1e-7 * torch.sign(torch.arange(256)[:, None] % 2 - 0.5))
    assert float((old - wrong).abs().max()) > 0, 'the case needs errors'
    error = (log_ratios(old, wrong, ObjectiveConfig(ratio='standardised')).exp() - 1).abs().max()
    assert float(error) < 1e-5


def test_standardised_gradient_weighs_the_loss_and_stops_outside_the_trust_region():
    config = ObjectiveConfig(ratio='standardised', trust_region='ppo', beta=0.3, clip=0.1)
    old, new = torch.zeros(4, 2), torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]], requires_grad=True)
    advantage = torch.tensor([2.0, -2.0, -2.0, 2.0])
    value, log = policy_objective(old, new, advantage, config)
    value.sum().backward()
    # z is 1 for the first and the third, -1 for the others; the first two have gone far enough.
    ratio = math.exp(0.3 / 1.001)
    torch.testing.assert_close(log.exp()[:, 0], torch.tensor([ratio, 1 / ratio, ratio, 1 / ratio]))
    expected = torch.tensor([0.0, 0.0, 2 * ratio, -2 / ratio])
    torch.testing.assert_close(new.grad.sum(1), expected, atol=1e-5, rtol=1e-5)


def test_log_ratios_are_clamped_and_then_carry_no_gradient():
    new = torch.tensor([[0.0, 5.0, -5.0]], requires_grad=True)
    log = log_ratios(torch.zeros(1, 3), new, ObjectiveConfig(log_ratio_clip=0.7))
    log.sum().backward()
    torch.testing.assert_close(log.detach(), torch.tensor([[0.0, -0.7, 0.7]]))
    assert new.grad.tolist() == [[-1.0, 0.0, 0.0]]


@REGIONS
@RATIOS
def test_one_small_step_lowers_the_loss_of_good_and_raises_that_of_bad_decisions(region, ratio):
    config = ObjectiveConfig(ratio=ratio, trust_region=region)
    before, after = Decision().moved(config, 1.0)
    assert after < before - 1e-7
    before, after = Decision().moved(config, -1.0)
    assert after > before + 1e-7


@pytest.mark.parametrize('eps', [0.05, 0.1, 0.3])
@pytest.mark.parametrize('advantage', [-0.5, -2.0])
def test_quadratic_penalty_peaks_at_one_minus_eps(eps, advantage):
    config = ObjectiveConfig(clip=eps)
    value, slope = objective(1 - eps, advantage, config)
    assert value == pytest.approx(advantage * (1 - eps / 2)) and slope == pytest.approx(0, abs=1e-9)
    assert objective(1.0, advantage, config)[1] == pytest.approx(advantage)
    for rho in (1 - 1.2 * eps, 1 - 0.8 * eps, 1.0, 1 + eps):
        assert objective(rho, advantage, config)[0] < value
    assert objective(1 - 2 * eps, advantage, config)[1] > 0, 'beyond the peak the gradient pulls back'


@pytest.mark.parametrize(
    ('rho', 'advantage', 'value', 'slope'),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.05, 2.0, 2.1, 2.0),
        (1.3, 2.0, 2.2, 0.0),
        (0.7, 2.0, 1.4, 2.0),
        (1.0, -2.0, -2.0, -2.0),
        (0.95, -2.0, -1.9, -2.0),
        (0.7, -2.0, -1.8, 0.0),
        (1.3, -2.0, -2.6, -2.0),
    ],
)
def test_clipping_by_hand(rho, advantage, value, slope):
    config = ObjectiveConfig(trust_region='ppo', clip=0.1)
    assert objective(rho, advantage, config) == (pytest.approx(value), pytest.approx(slope, abs=1e-9))
    if advantage > 0:
        assert objective(rho, advantage, ObjectiveConfig(clip=0.1)) == objective(rho, advantage, config)


@given(rho=st.floats(0.2, 5), advantage=st.floats(-4, 4), eps=st.floats(0.01, 0.5))
def test_objective_never_exceeds_its_bound(rho, advantage, eps):
    bound = (1 + eps) * advantage if advantage >= 0 else (1 - eps) * advantage
    assert objective(rho, advantage, ObjectiveConfig(trust_region='ppo', clip=eps))[0] <= bound + 1e-9
    bound = bound if advantage >= 0 else (1 - eps / 2) * advantage
    assert objective(rho, advantage, ObjectiveConfig(clip=eps))[0] <= bound + 1e-9


@REGIONS
def test_a_decision_without_advantage_gives_no_gradient(region):
    assert objective(1.2, 0.0, ObjectiveConfig(trust_region=region)) == (0, 0)


def test_pair_loss_by_hand():
    error = torch.tensor([[[1.0, 3.0], [5.0, 7.0], [100.0, 100.0]], [[2.0, 2.0], [2.0, 2.0], [9.0, 9.0]]])
    time = torch.tensor([0.5, 1.0])

    def losses(**settings: object) -> torch.Tensor:
        config = ObjectiveConfig(**settings)
        return scaled(pair_losses(error, time, credit_weights(config, 3, 2, 2), 2), config.kappa, config)

    torch.testing.assert_close(losses(kappa=1.0), torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(losses(kappa=10.0), torch.tensor([20.0, 20.0]))
    torch.testing.assert_close(losses(kappa=10.0, loss_clip=15.0), torch.tensor([15.0, 15.0]))
    # Steps weigh 4/3 and 2/3; dimensions 3/2 and 1/2.
    torch.testing.assert_close(losses(kappa=1.0, step_decay=0.5), torch.tensor([5 / 3, 2.0]))
    torch.testing.assert_close(losses(kappa=1.0, dimension_weights=(3.0, 1.0)), torch.tensor([1.75, 2.0]))


def test_what_is_not_executed_or_weighs_nothing_gives_no_gradient():
    config = ObjectiveConfig(dimension_weights=(1.0, 1.0, 0.0))
    error = torch.rand(3, 5, 3, requires_grad=True)
    pair_losses(error, torch.rand(3) + 0.1, credit_weights(config, 5, 2, 3), 2).sum().backward()
    assert (error.grad[:, 2:] == 0).all() and (error.grad[..., 2] == 0).all() and (error.grad[:, :2, :2] > 0).all()


@given(executed=st.integers(1, 6), decay=st.floats(0.3, 1.5), own=st.lists(st.floats(0.1, 5), min_size=2, max_size=5))
def test_credit_weights_keep_the_scale_of_the_loss(executed, decay, own):
    config = ObjectiveConfig(step_decay=decay, dimension_weights=tuple(own))
    weights = credit_weights(config, 6, executed, len(own))
    assert weights.shape == (6, len(own)) and (weights[executed:] == 0).all()
    assert float(weights[:executed].mean()) == pytest.approx(1, rel=1e-5)
    assert weights[0, 0] / weights[0, 1] == pytest.approx(own[0] / own[1], rel=1e-4)
    if executed > 1:
        assert weights[1, 0] / weights[0, 0] == pytest.approx(decay, rel=1e-4)


def test_weights_of_other_dimensions_are_refused():
    with pytest.raises(ValueError, match='2 dimension_weights for 14 dimensions'):
        credit_weights(ObjectiveConfig(dimension_weights=(1.0, 2.0)), 20, 20, 14)


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'ratio': 'geometric'}, 'per_sample, averaged or standardised'),
        ({'trust_region': 'moon'}, 'aspo, ppo or none'),
        ({'kappa': 0.0}, 'kappa'),
        ({'clip': -0.1}, 'clip'),
        ({'log_ratio_clip': 0}, 'log_ratio_clip'),
        ({'kappa': float('nan')}, 'kappa'),
        ({'beta': 0.0}, 'beta'),
        ({'loss_clip': -1.0}, 'loss_clip'),
        ({'loss_clip': 0}, 'loss_clip must be positive, got 0'),
        ({'step_decay': 0.0}, 'step_decay'),
        ({'dimension_weights': (1.0, -1.0)}, 'dimension_weights'),
        ({'dimension_weights': (0.0, 0.0)}, 'dimension_weights'),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        ObjectiveConfig(**settings)
