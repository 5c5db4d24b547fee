"""Adapters trained by demonstrations and by trying: what changes, what stays, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch
from recorded import PIXELS, camera_store
from runs import newest, train
from safetensors.torch import load_file

from fpo_ros.learning import sft
from fpo_ros.learning.algorithms import prepared
from fpo_ros.learning.demonstrations import load_demonstrations
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.imitation import check_imitated
from fpo_ros.learning.prefixes import prefix_of
from fpo_ros.policy.adapted import TRAINABLES, merged, with_adapters
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import LoraConfig

SETTINGS = tiny_task.config(placement='lora', lora_rank=2)
#: What is trained beside adapters.
PROJECTIONS = ('state_proj.', 'action_')


def learned(name: str) -> bool:
    return '.adapter.' in name or name.startswith(PROJECTIONS)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in after.items() if name not in before or not torch.equal(before[name], value)}


def test_adapters_learn_to_turn_the_waist():
    start = prepared(tiny_task.policy(), SETTINGS)
    rates = tiny_task.rates_of_training(5, start, placement='lora', lora_rank=2, learning_rate=1e-2)
    assert 0.05 < np.mean(rates[:2]) < 0.45, rates
    assert np.mean(rates[-2:]) > np.mean(rates[:2]) + 0.3, rates


def test_a_run_changes_adapters_and_projections_and_keeps_a_state_of_the_optimiser_for_those_alone(waist_task,
                                                                                                   tmp_path):
    best, _ = train(tmp_path, 2, settings=SETTINGS)
    start, end = (tiny_task.weights(FlowPolicy.load(path)) for path in (tmp_path / 'start', newest(tmp_path)))
    assert not any('.adapter.' in name for name in start), 'the start policy stays as it was'
    assert changed(start, end) == {name for name in end if learned(name)}
    assert best.model.config.expert_lora == LoraConfig(2, 2.0) and best.model.config.language_lora is None
    kept = load_file(newest(tmp_path) / 'learner.safetensors')
    moments = [value.numel() for name, value in kept.items()
               if name.startswith('actor_optimizer/') and name.endswith('/exp_avg')]
    assert sum(moments) == sum(value.numel() for name, value in end.items() if learned(name))


def test_base_weights_are_frozen_and_the_first_iteration_is_the_start_policys():
    policy = tiny_task.policy()
    learner = FPO(prepared(policy, SETTINGS), SETTINGS)
    for name, parameter in learner.policy.model.named_parameters():
        assert parameter.requires_grad == learned(name), name
    states, noise = torch.randn(3, 21), torch.randn(3, 4, 14)
    with torch.no_grad():
        drawn, wanted = (one.act(states, one.prefix(None), noise) for one in (learner.policy, policy))
    assert torch.equal(drawn, wanted)


def test_what_another_placement_trains_has_its_adapters_merged():
    policy = with_adapters(tiny_task.policy(), ('language', 'expert'), rank=2)
    assert prepared(policy, SETTINGS).model.config.expert_lora == LoraConfig(2, 2.0)
    again = with_adapters(tiny_task.policy(), ('expert',), rank=2)
    assert prepared(again, SETTINGS) is again
    for changes in ({}, {'placement': 'latent'}, {'algorithm': 'ppo', 'warmup': 1}):
        config = prepared(policy, tiny_task.config(**changes)).model.config
        assert config.expert_lora is None and config.language_lora is None
    assert prepared(policy, tiny_task.config(placement='lora', algorithm='ppo', warmup=1)).contract.flow_steps == 1
    with pytest.raises(ValueError, match='dsrl trains an actor over latents'):
        tiny_task.config(placement='lora', algorithm='dsrl')


@pytest.mark.parametrize('trainable', TRAINABLES)
def test_demonstrations_change_what_is_trained_and_lower_the_loss(trainable):
    policy, losses = tiny_task.policy(), []
    before = tiny_task.weights(policy)
    rank = 2 if TRAINABLES[trainable] else None
    settings = sft.SFTConfig(steps=40, batch=16, warmup=5, learning_rate=1e-2, trainable=trainable, lora_rank=rank)
    trained = sft.go_on(policy, tiny_task.pairs(), settings, 0, lambda step, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert trained.contract == policy.contract and trained.stats is policy.stats
    after = tiny_task.weights(trained)
    assert {name.split('_')[0] for name in after if '.adapter.' in name} == set(TRAINABLES[trainable])
    found = {name for name in changed(before, after) if name in before}
    projections = {name for name in before if name.startswith(PROJECTIONS)}
    expert = {name for name in before if name.startswith(('expert_', *PROJECTIONS))}
    if trainable == 'full':
        assert expert < found and any(name.startswith('language_layers.') for name in found)
    else:
        assert found == (expert if trainable in ('expert', 'lora_language') else projections)


def test_adapters_of_the_language_model_learn_with_the_vision_tower_and_repeat_with_their_seed(tmp_path):
    pairs = load_demonstrations(camera_store(tmp_path / 'store', [0, 4]), PIXELS)
    settings = sft.SFTConfig(steps=2, batch=4, warmup=0, trainable='lora', lora_rank=2)
    made = [sft.go_on(tiny_task.policy(contract=PIXELS), pairs, settings, seed) for seed in (0, 0, 1)]
    assert made[0].digest() == made[1].digest() != made[2].digest()
    before = tiny_task.weights(tiny_task.policy(contract=PIXELS))
    found = changed(before, tiny_task.weights(made[0]))
    assert {name for name in found if name in before} == {name for name in before
                                                           if name.startswith(('vision_tower.', *PROJECTIONS))}


def test_training_goes_on_with_the_adapters_that_were_saved(tmp_path):
    settings = sft.SFTConfig(steps=3, batch=4, warmup=0, trainable='lora_expert', lora_rank=2)
    first = sft.go_on(tiny_task.policy(), tiny_task.pairs(), settings, 0)
    first.save(tmp_path)
    kept, second = tiny_task.weights(first), sft.go_on(FlowPolicy.load(tmp_path), tiny_task.pairs(), settings, 1)
    assert tiny_task.weights(second).keys() == kept.keys()
    assert second.digest() == sft.go_on(first, tiny_task.pairs(), settings, 1).digest()
    full = replace(settings, trainable='full', lora_rank=None)
    whole = sft.go_on(FlowPolicy.load(tmp_path), tiny_task.pairs(), full, 1)
    assert whole.model.config == tiny_task.TINY


def test_a_prefix_with_adapters_serves_merged():
    policy = with_adapters(tiny_task.policy(contract=PIXELS), ('language',), rank=2)
    network = prefix_of(merged(policy), PIXELS)
    wanted = merged(policy).model.language_layers[0].q_proj.weight
    assert torch.equal(network.language_layers[0].q_proj.weight, wanted)


def test_adapters_learn_from_recorded_successes_too():
    config = tiny_task.config(placement='lora', lora_rank=2)
    check_imitated(config)
    learner = FPO(prepared(tiny_task.policy(), config), config, demonstrations=tiny_task.pairs())
    assert len(learner.imitation.recorded) == len(tiny_task.pairs().states)
    with pytest.raises(ValueError, match='nobody knows the latents of recorded chunks'):
        check_imitated(tiny_task.config(placement='latent'))
