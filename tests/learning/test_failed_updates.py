"""What iterations that fail leave behind, what a first one measures, and recorded pairs that are of no use."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task
import torch
from runs import train
from safetensors.torch import load_file

from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.learning.trained_flow import TrainedFlow
from fpo_ros.learning.values import StateValues
from fpo_ros.policy.finite import NotFiniteError
from fpo_ros.policy.flow import Sampling


def test_losses_of_an_update_that_failed_can_be_computed_again(waist_task, tmp_path, monkeypatch):
    plain, seen = TrainedFlow.losses_of_all, []
    monkeypatch.setattr(TrainedFlow, 'losses_of_all', lambda *a, **o: seen.append(plain(*a, **o)) or seen[-1] * np.nan)
    with pytest.raises(NotFiniteError, match='iteration 1'):
        train(tmp_path, 1)
    failed = load_file(tmp_path / 'failed_update.safetensors')
    flow = TrainedFlow(tiny_task.policy(), tiny_task.config(), torch.Generator())
    decisions = Decisions(**{name: failed[name] for name in ('states', 'prefix_kv', 'chunks', 'paths')})
    again = plain(flow, decisions, failed['time'], failed['noise'], tiny_task.CONFIG.microbatch)
    torch.testing.assert_close(again, seen[0])


def test_a_critic_that_fails_in_warm_up_leaves_its_own_rollout(waist_task, tmp_path, monkeypatch):
    plain = StateValues.fit

    def spoiled(values, steps):
        error = plain(values, steps)
        with torch.no_grad():
            values.module.net[0].bias.fill_(float('nan'))
        return error

    monkeypatch.setattr(StateValues, 'fit', spoiled)
    with pytest.raises(NotFiniteError, match='critic after iteration 1'):
        train(tmp_path / 'run', 1, settings=tiny_task.config(warmup=1))
    failed = load_file(tmp_path / 'run' / 'failed_update.safetensors')
    assert len(failed['privileged']) == len(failed['reward']) > 0 and 'noise' not in failed


def test_a_rollout_that_fails_leaves_nothing_of_the_iteration_before(waist_task):
    learner = FPO(tiny_task.policy(), tiny_task.config())
    with open_pool(Local(unit=4)) as pool:
        learner.run_iteration(pool)
        assert learner.newest_decisions()
        with torch.no_grad():
            learner.policy.model.action_out_proj.bias.fill_(float('nan'))
        with pytest.raises(NotFiniteError, match='actions'):
            learner.run_iteration(pool)
    assert learner.newest_decisions() == {}


@pytest.mark.parametrize(('changes', 'why'), [
    ({'algorithm': 'awr'}, 'awr imitates nothing'), ({'algorithm': 'dsrl'}, 'dsrl imitates nothing'),
    ({'placement': 'latent'}, 'nobody knows the latents of recorded chunks'),
    ({'bc_coefficient': 0.0}, 'bc_coefficient is 0')])
def test_recorded_pairs_that_nothing_would_come_of_are_refused_and_no_run_is_begun(tmp_path, changes, why):
    with pytest.raises(ValueError, match=f'{why}: leave --demonstrations out'):
        finetune(tiny_task.policy(), tmp_path, tiny_task.config(**changes), 1, demonstrations=tiny_task.pairs())
    assert not (tmp_path / 'config.json').exists()


def test_a_batch_that_has_no_place_for_recorded_and_own_successes_is_refused_and_no_run_is_begun(waist_task, tmp_path):
    one = tiny_task.config(bc_batch=1)
    with pytest.raises(ValueError, match='bc_batch is 1, .*: set it to 2 or more, or leave --demonstrations out'):
        finetune(tiny_task.policy(), tmp_path / 'run', one, 1, demonstrations=tiny_task.pairs())
    assert not (tmp_path / 'run' / 'config.json').exists()
    _, alone = finetune(tiny_task.policy(), tmp_path / 'alone', one, 1)
    _, both = finetune(tiny_task.policy(), tmp_path / 'both', tiny_task.config(bc_batch=2), 1,
                       demonstrations=tiny_task.pairs())
    assert alone[0]['bc_loss'] > 0 and both[0]['bc_loss'] > 0


@pytest.mark.parametrize('changes', [
    {'perturbation': 0.1}, {'sampling': Sampling(steps=1)}, {'sampling': Sampling(beyond=2)}, {'warmup': 0},
    {'sampling': Sampling(noise_range=(0.0, 0.5))}])
def test_the_first_iteration_measures_the_start_policy_as_it_is_evaluated(changes):
    learner = FPO(tiny_task.policy(), tiny_task.config(**changes))
    assert learner._sampling() == Sampling()
    learner.iteration, learner.spreads = 1, [0.5, 0.5]
    assert learner._sampling() == learner.flow.sampling()
