"""Which policy of a run is kept as its best."""

from __future__ import annotations

import pytest
import tiny_task
import torch
from runs import newest, train

from fpo_ros.learning.finetune import best_of
from fpo_ros.learning.update import FlowPolicyOptimization
from fpo_ros.policy.checkpoint import FlowPolicy


def test_without_a_full_window_the_best_policy_is_the_newest_that_was_measured(finished):
    run, history = finished
    smoothed = [entry['smoothed_success'] for entry in history]
    assert smoothed[0] == history[0]['rewarded_rate']
    assert smoothed[1] == pytest.approx((history[0]['rewarded_rate'] + history[1]['rewarded_rate']) / 2)
    # The first update made the policy whose rollouts are the second iteration's success.
    measured = run / 'checkpoints' / '000001' / 'policy.safetensors'
    assert (run / 'best' / 'policy.safetensors').read_bytes() == measured.read_bytes()


def test_the_best_policy_is_one_whose_success_was_measured_whatever_its_update_made_of_it(
    waist_task, tmp_path, monkeypatch
):
    plain = FlowPolicyOptimization.run

    def sabotaged(update, *arguments):
        metrics = plain(update, *arguments)
        with torch.no_grad():
            for parameter in update._flow.parameters:
                parameter.mul_(0.0)
        return metrics

    monkeypatch.setattr(FlowPolicyOptimization, 'run', sabotaged)
    best, history = train(tmp_path, 1)
    start = tiny_task.weights(tiny_task.policy())
    assert all(torch.equal(start[name], value) for name, value in tiny_task.weights(best).items())
    ruined = tiny_task.weights(FlowPolicy.load(newest(tmp_path)))
    assert any(not torch.equal(start[name], value) for name, value in ruined.items())


def test_a_best_policy_that_was_being_replaced_is_not_lost(copied, waist_task):
    kept = (copied / 'best' / 'policy.safetensors').read_bytes()
    (copied / 'best').rename(copied / '.best.old')
    train(copied, 2, resume=True)
    assert (copied / 'best' / 'policy.safetensors').read_bytes() == kept


@pytest.mark.parametrize(('smoothed', 'best'), [
    ((0.9,), 0), ((0.9, 0.5), 1), ((0.9, 0.5, 0.2), 2),  # a lucky first iteration does not count
    ((0.9, 0.5, 0.2, 0.2), 3), ((0.9, 0.5, 0.2, 0.1), 2), ((0.1, 0.1, 0.4, 0.6, 0.5), 3)])
def test_the_best_policy_is_judged_by_full_windows_alone(smoothed, best):
    history = [{'smoothed_success': value} for value in smoothed]
    assert best_of(history, 3) is history[best]
