"""Fine-tuning an actor over the start noise while the policy stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_task
import torch
from runs import newest, train

from fpo_ros.learning import fpo
from fpo_ros.learning.advantages import standardise
from fpo_ros.learning.decisions import Decisions
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.latent import with_latent_actor
from fpo_ros.learning.scale import Local, open_pool
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError


def steered() -> FlowPolicy:
    return with_latent_actor(tiny_task.policy())


def test_an_actor_over_latents_learns_to_turn_the_waist():
    rates = tiny_task.rates_of_training(8, steered(), placement='latent', learning_rate=1e-2)
    assert 0.05 < np.mean(rates[:2]) < 0.45, rates
    assert np.mean(rates[-2:]) > np.mean(rates[:2]) + 0.4, rates


def test_an_actor_over_latents_unlearns_what_is_punished(monkeypatch):
    monkeypatch.setattr(fpo, 'standardise', lambda advantage, floor: -standardise(advantage))
    rates = tiny_task.rates_of_training(6, steered(), placement='latent', learning_rate=1e-2)
    assert np.mean(rates[-2:]) < np.mean(rates[:2]) - 0.05, rates


def test_the_first_rollout_is_that_of_the_start_policy(waist_task):
    chunks = []
    for policy, placement in ((tiny_task.policy(), 'expert'), (steered(), 'latent')):
        learner = FPO(policy, tiny_task.config(placement=placement))
        with open_pool(Local(unit=4)) as pool:
            learner.run_iteration(pool)
        chunks.append(learner.newest_decisions()['chunks'])
    assert torch.equal(*chunks)


def test_only_the_actor_changes(waist_task, tmp_path):
    best, history = train(tmp_path, 2, settings=tiny_task.config(placement='latent'))
    start, after = (tiny_task.weights(policy) for policy in (steered(), FlowPolicy.load(newest(tmp_path))))
    assert start.keys() == after.keys()
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert changed and all(name.startswith('latent_actor.') for name in changed)
    assert changed == {name for name in start if name.startswith('latent_actor.')}, 'every part of it'
    assert FlowPolicy.load(tmp_path / 'start').model.latent_actor is None, 'the start policy has none'
    assert best.model.config.latent_actor == 'flow'
    assert max(entry['first_ratio_error'] for entry in history if 'first_ratio_error' in entry) < 1e-5


def test_losses_are_of_the_latents_and_of_whole_chunks(waist_task):
    # Without learning the actor predicts no velocity: then a row matters to the loss of that row alone.
    learner = FPO(steered(), tiny_task.config(placement='latent', learning_rate=0.0))
    with open_pool(Local(unit=4)) as pool:
        learner.run_iteration(pool)
    found = learner.newest_decisions()
    decisions = Decisions(**{name: found[name] for name in ('states', 'prefix_kv', 'chunks', 'paths')})
    rows = torch.arange(len(decisions))
    time, noise = learner.flow.times(len(rows), 2, stratified=False), learner.flow.noise(len(rows), 2)

    def losses() -> torch.Tensor:
        return learner.flow.losses(decisions, rows, time, noise).detach()

    before, chunks = losses(), decisions.chunks
    decisions.chunks = chunks + 1
    assert torch.equal(losses(), before), 'chunks are what the policy made of latents'
    decisions.chunks = chunks
    decisions.paths[:, 0, -1] += 1
    assert not torch.equal(losses(), before), 'the row behind the executed ones started them too'


def test_recorded_pairs_have_no_latents_and_are_not_imitated(waist_task):
    learner = FPO(steered(), tiny_task.config(placement='latent'), demonstrations=tiny_task.pairs())
    assert learner.imitation.sources() == []
    with open_pool(Local(unit=4)) as pool:
        metrics = learner.run_iteration(pool)
    own = sum(len(part) for part in learner.imitation.own)
    assert own > 0 and [len(source) for source in learner.imitation.sources()] == [own]
    assert metrics['bc_loss'] > 0


@pytest.mark.parametrize(('has', 'wanted'), [('gaussian', 'flow'), ('flow', 'gaussian')])
def test_an_actor_of_another_kind_is_not_trained_over(has, wanted):
    with pytest.raises(ContractError, match=f'kind "{has}": start from one without'):
        with_latent_actor(with_latent_actor(tiny_task.policy(), has), wanted)


def test_a_run_from_a_policy_with_another_actor_is_refused_and_not_begun(waist_task, tmp_path):
    start = with_latent_actor(tiny_task.policy(), 'gaussian')
    with pytest.raises(ContractError, match='start from one without'):
        finetune(start, tmp_path, tiny_task.config(placement='latent'), 1)
    assert not (tmp_path / 'config.json').exists()


def test_a_run_goes_on_with_the_actor_that_its_start_policy_has(waist_task, tmp_path):
    start = steered()
    with torch.no_grad():
        start.model.latent_actor.action_out_proj.bias.fill_(0.01)
    finetune(start, tmp_path, tiny_task.config(placement='latent', warmup=1), 1)
    kept = tiny_task.weights(FlowPolicy.load(newest(tmp_path)))
    assert all(torch.equal(value, kept[name]) for name, value in tiny_task.weights(start).items())


@pytest.mark.parametrize('kind', ['flow', 'gaussian'])
def test_the_expert_of_a_policy_that_is_steered_is_not_trained_under_its_actor(waist_task, tmp_path, kind):
    with pytest.raises(ContractError, match='latent actor'):
        finetune(with_latent_actor(tiny_task.policy(), kind), tmp_path, tiny_task.config(), 1)
    assert not (tmp_path / 'config.json').exists()
