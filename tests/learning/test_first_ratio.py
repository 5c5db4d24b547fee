"""Before the first step of an iteration every ratio is 1, or the run stops."""

from __future__ import annotations

import pytest
import tiny_task
import torch
from runs import train

from fpo_ros.learning.objective import ObjectiveConfig
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.update import FlowPolicyOptimization, RatioError

STANDARDISED = tiny_task.config(objective=ObjectiveConfig(ratio='standardised'))


def test_the_first_ratio_of_an_iteration_is_one(finished):
    errors = [entry['first_ratio_error'] for entry in finished[1] if 'first_ratio_error' in entry]
    assert errors and max(errors) < 1e-5, 'entries are left out where all episodes ended alike'


def test_losses_that_are_not_computed_alike_stop_the_run(waist_task, tmp_path, monkeypatch):
    plain = TrainedFlow.losses
    monkeypatch.setattr(TrainedFlow, 'losses', lambda *a: plain(*a) + (1e-4 if torch.is_grad_enabled() else 0.0))
    with pytest.raises(RatioError, match='not computed alike'):
        train(tmp_path, 1)


def rounding(plain):
    """Return losses that round by how many there are and where each stands, as a matrix product may."""
    def losses(flow, decisions, rows, *rest):
        found = plain(flow, decisions, rows, *rest)
        return found * (1 + 1e-7 * (torch.arange(len(rows))[:, None] * len(rows) % 5 - 2))

    return losses


def test_standardised_ratios_of_the_first_step_are_one_whatever_losses_round(waist_task, tmp_path, monkeypatch):
    seen, plain = [], FlowPolicyOptimization._prefer

    def prefer(update, batch, rows, *rest):
        log_ratio, raw = plain(update, batch, rows, *rest)
        seen.append((batch.where, len(rows), float((log_ratio.exp() - 1).abs().max())))
        return log_ratio, raw

    monkeypatch.setattr(TrainedFlow, 'losses', rounding(TrainedFlow.losses))
    monkeypatch.setattr(FlowPolicyOptimization, '_prefer', prefer)
    _, history = train(tmp_path, 2, settings=STANDARDISED)
    first = {where: (size, error) for where, size, error in reversed(seen)}
    assert first and all(size == 6 and error < 1e-5 for size, error in first.values()), 'a whole minibatch'
    assert all(entry['first_ratio_error'] < 1e-5 for entry in history if 'first_ratio_error' in entry)


def test_a_whole_minibatch_that_is_not_computed_alike_stops_a_run_of_standardised_ratios(
        waist_task, tmp_path, monkeypatch):
    plain, whole = TrainedFlow.losses, tiny_task.CONFIG.minibatch
    monkeypatch.setattr(TrainedFlow, 'losses', lambda flow, decisions, rows, *rest: plain(
        flow, decisions, rows, *rest) + (1e-4 if torch.is_grad_enabled() and len(rows) == whole else 0.0))
    with pytest.raises(RatioError, match='not computed alike'):
        train(tmp_path, 1, settings=STANDARDISED)
