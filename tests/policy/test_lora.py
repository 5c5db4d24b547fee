"""Low-rank adapters: what they add, what is trained beside them, and policies without them that do the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families import CONFIG, CONTRACT

from fpo_ros.learning.latent import with_latent_actor
from fpo_ros.policy.adapted import (
    PARTS,
    TRAINABLES,
    check_trainable,
    merged,
    merged_network,
    trainable_parameters,
    with_adapters,
)
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import LoraConfig, Pi0Config, preset
from fpo_ros.policy.contract import ContractError, Observation, PolicyContract
from fpo_ros.policy.lora import AdaptedLinear, Adapter
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.pretrained import read_pretrained, write_pretrained
from fpo_ros.runtime.export import export
from fpo_ros.runtime.session import PolicySession

BOTH = ('language', 'expert')
#: Of pi0 at full size.
WHOLE, EXPERT, PROJECTIONS, VISION = 3_238_048_528, 314_713_120, 3_248_160, 412_442_352 + 2_361_344


def adapted(policy: FlowPolicy, parts: tuple[str, ...] = BOTH, std: float = 0.3) -> FlowPolicy:
    """Return the policy with adapters that change much."""
    found = with_adapters(policy, parts, rank=2)
    torch.manual_seed(3)
    for module in found.model.modules():
        if isinstance(module, Adapter):
            for factor in module.parameters():
                torch.nn.init.normal_(factor, std=std)
    return found


def chunk(policy: FlowPolicy) -> torch.Tensor:
    contract, generator = policy.contract, torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, len(contract.cameras), contract.image_height, contract.image_width, 3), np.uint8)
    state, noise = (torch.randn(2, *shape, generator=generator) for shape in (
        (contract.state_dim,), (contract.horizon, contract.action_dim)))
    with torch.no_grad():
        return policy.act(state, policy.prefix(images), noise)


def weights(policy: FlowPolicy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def test_an_adapter_adds_the_product_of_its_factors_times_alpha_over_rank_head_by_head():
    adapter = Adapter(2, 4, LoraConfig(1, 3.0), heads=2)
    with torch.no_grad():
        adapter.down.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        adapter.up.copy_(torch.tensor([[1.0], [2.0], [5.0], [-1.0]]))
    # x = (1, 1): 3 and 1 of the two heads; 3 * (3, 6) and 3 * (5, -1).
    assert adapter(torch.ones(1, 2)).tolist() == [[9, 18, 15, -3]]
    assert adapter.delta().tolist() == [[3, 6], [6, 12], [0, 15], [0, -3]]


@settings(max_examples=25)
@given(inputs=st.integers(1, 6), heads=st.integers(1, 4), each=st.integers(1, 5), rank=st.integers(1, 6),
       alpha=st.floats(0.5, 4), shape=st.lists(st.integers(1, 3), max_size=2))
def test_an_adapter_does_what_its_weight_does(inputs, heads, each, rank, alpha, shape):
    torch.manual_seed(0)
    adapter = Adapter(inputs, heads * each, LoraConfig(rank, alpha), heads)
    x = torch.randn(*shape, inputs)
    torch.testing.assert_close(adapter(x), x @ adapter.delta().T)


def test_adapters_start_as_openpis_do_and_leave_the_random_state_alone(make_policy):
    policy = make_policy()
    before, state = weights(policy), torch.get_rng_state()
    found = with_adapters(policy, BOTH)
    assert torch.equal(torch.get_rng_state(), state)
    factors = torch.cat([factor.flatten() for module in found.model.modules() if isinstance(module, Adapter)
                         for factor in module.parameters()])
    assert len(factors) > 10_000 and abs(factors.mean()) < 1e-3 and abs(factors.std() - 0.01) < 5e-4
    assert (found.model.config.language_lora, found.model.config.expert_lora) == (
        LoraConfig(16, 16.0), LoraConfig(32, 32.0))
    after = weights(found)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    more = set(after) - set(before)
    assert more and all('.adapter.' in name and name.startswith(('language_layers.', 'expert_layers.'))
                        for name in more)
    layer = found.model.expert_layers[1]
    assert all(isinstance(part, AdaptedLinear) for part in (
        layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj, *layer.mlp.children()))
    again, other = with_adapters(policy, BOTH), with_adapters(policy, BOTH, seed=1)
    assert found.digest() == again.digest() != other.digest()


@pytest.mark.parametrize('observation', ['state', 'pixels'])
@pytest.mark.parametrize('parts', [('language',), ('expert',), BOTH])
def test_an_adapter_that_starts_at_zero_changes_nothing(make_policy, observation, parts):
    policy = make_policy(observation)
    assert torch.equal(chunk(with_adapters(policy, parts, unchanged=True)), chunk(policy))
    assert not torch.equal(chunk(with_adapters(policy, parts)), chunk(policy))


@pytest.mark.parametrize('observation', ['state', 'pixels'])
@pytest.mark.parametrize('parts', [('language',), ('expert',), BOTH])
def test_merged_weights_do_what_adapters_do(make_policy, observation, parts):
    policy = make_policy(observation)
    found = adapted(policy, parts)
    once = merged(found)
    assert once.model.config == policy.model.config and once.model.state_dict().keys() == weights(policy).keys()
    torch.testing.assert_close(chunk(once), chunk(found), atol=2e-5, rtol=0)
    assert (chunk(found) - chunk(policy)).abs().max() > 0.05, 'the case needs adapters that matter'
    assert merged(once) is once


def test_every_projection_is_adapted_and_merged(make_policy):
    policy = make_policy('pixels')
    found = adapted(policy)
    changed = {name for name, value in weights(merged(found)).items()
               if not torch.equal(value, policy.model.state_dict()[name])}
    assert changed == {f'{stack}.{index}.{part}.weight' for stack in ('language_layers', 'expert_layers')
                       for index in range(3) for part in (
                           'q_proj', 'k_proj', 'v_proj', 'o_proj', 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj')}


def test_gradients_of_adapters_are_those_of_the_merged_weights_by_the_chain_rule(make_policy):
    found = adapted(make_policy(), ('expert',))
    once = merged(found)
    for policy in (found, once):
        model, tokens = policy.model, policy.tokens
        cache = model.with_state(torch.ones(1, policy.contract.state_dim), model.prefix(tokens))
        model.denoise(torch.ones(1, 5, 14), torch.tensor([0.5]), cache).sum().backward()
    for part in ('q_proj', 'v_proj', 'o_proj'):
        layer, plain = (getattr(policy.model.expert_layers[0], part) for policy in (found, once))
        heads = layer.adapter.heads
        of_weight = plain.weight.grad.unflatten(0, (heads, -1))
        of_up = (of_weight @ layer.adapter.down.unflatten(0, (heads, -1)).transpose(1, 2)).flatten(0, 1)
        torch.testing.assert_close(layer.adapter.up.grad, of_up * layer.adapter.scale, atol=1e-4, rtol=1e-4)


def whole(parts: tuple[str, ...]) -> Pi0:
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_left_wrist', 'cam_right_wrist'),
                              image_height=224, image_width=224, horizon=50, execute=25, action_width=32)
    with torch.device('meta'):
        return Pi0(replace(preset('pi0'), **{f'{part}_lora': PARTS[part] for part in parts}), contract)


def by_hand(width: int, mlp: int, rank: int) -> int:
    """Return the parameters of adapters of 18 layers with 8 query heads and one of keys and values, 256 wide."""
    q = 8 * rank * width + 2048 * rank
    kv = 2 * (rank * width + 256 * rank)
    o = rank * 2048 + width * rank
    return 18 * (q + kv + o + 3 * rank * (width + mlp))


@pytest.mark.parametrize('trainable', TRAINABLES)
def test_at_full_size_as_many_parameters_are_trained_as_by_hand(trainable):
    language, expert = by_hand(2048, 16384, 16), by_hand(1024, 4096, 32)
    assert (language, expert) == (23_740_416, 17_989_632)
    model = whole(TRAINABLES[trainable])
    trained = trainable_parameters(model, trainable)
    wanted = {'full': WHOLE, 'expert': EXPERT, 'lora': language + expert + PROJECTIONS + VISION,
              'lora_language': language + EXPERT + VISION, 'lora_expert': expert + PROJECTIONS}[trainable]
    assert sum(parameter.numel() for parameter in trained) == wanted
    assert len({id(parameter) for parameter in trained}) == len(trained)
    added = sum({'language': language, 'expert': expert}[part] for part in TRAINABLES[trainable])
    assert sum(parameter.numel() for parameter in model.parameters()) == WHOLE + added
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == wanted


@pytest.mark.parametrize(('trainable', 'fronts'), [
    ('full', ('',)), ('expert', ('expert_', 'state_proj', 'action_')),
    ('lora', ('vision_tower.', 'state_proj', 'action_')), ('lora_expert', ('state_proj', 'action_')),
    ('lora_language', ('vision_tower.', 'expert_', 'state_proj', 'action_'))])
def test_all_else_is_frozen(make_policy, trainable, fronts):
    model = with_adapters(make_policy('pixels'), TRAINABLES[trainable], rank=2).model
    trained = {id(parameter) for parameter in trainable_parameters(model, trainable)}
    for name, parameter in model.named_parameters():
        wanted = '.adapter.' in name or name.startswith(fronts)
        assert (id(parameter) in trained, parameter.requires_grad) == (wanted, wanted), name


def test_a_policy_with_adapters_comes_back_from_disk_bit_for_bit(make_policy, tmp_path):
    policy = adapted(make_policy('pixels'))
    policy.save(tmp_path)
    again = FlowPolicy.load(tmp_path)
    assert again.model.config == policy.model.config and again.digest() == policy.digest()
    assert torch.equal(chunk(again), chunk(policy))
    document = json.loads((tmp_path / 'policy.json').read_text())['model']
    assert document['expert_lora'] == {'rank': 2, 'alpha': 2.0}
    assert 'expert_lora' not in merged(policy).model.config.to_dict()
    assert Pi0Config.from_dict(merged(policy).model.config.to_dict()) == merged(policy).model.config


@pytest.mark.parametrize('damage', [{'expert_lora': {'rank': 0, 'alpha': 1.0}}, {'expert_lora': {'rang': 2}},
                                    {'expert_lora': 2}, {'language_lora': {'rank': 3, 'alpha': 2.0}}])
def test_a_damaged_configuration_of_adapters_is_a_contract_error(make_policy, tmp_path, damage):
    adapted(make_policy()).save(tmp_path)
    path = tmp_path / 'policy.json'
    document = json.loads(path.read_text())
    document['model'] |= damage
    path.write_text(json.dumps(document))
    with pytest.raises(ContractError, match='not a readable policy'):
        FlowPolicy.load(tmp_path)


def test_an_exported_policy_has_its_adapters_merged(make_policy, tmp_path):
    policy = adapted(make_policy('state'))
    export(policy, tmp_path, guided=False)
    assert b'adapter' not in (tmp_path / 'denoise.onnx').read_bytes()
    joints, pose, noise = np.zeros(14), np.array([0, 0, 0, 1, 0, 0, 0.0]), np.ones((5, 14), np.float32)
    drawn = PolicySession.load(tmp_path).infer(Observation(joints, object_pose=pose), noise)
    with torch.no_grad():
        own = policy.act(policy.states(joints[None], pose[None]), policy.prefix(None), torch.as_tensor(noise)[None])
    np.testing.assert_allclose(drawn, policy.to_raw(own)[0], atol=1e-4)


def test_files_of_pi0_hold_merged_weights(tmp_path):
    torch.manual_seed(0)
    contract = replace(CONTRACT, action_width=32)
    config = replace(CONFIG, state_width=32)
    model = Pi0(replace(config, language_lora=LoraConfig(2, 2.0), expert_lora=LoraConfig(3, 6.0)), contract)
    write_pretrained(model, tmp_path / 'model.safetensors', 'openpi')
    read = read_pretrained(tmp_path, config, contract)
    once = merged_network(model).state_dict()
    assert read.state_dict().keys() == once.keys()
    assert all(torch.equal(value, once[name]) for name, value in read.state_dict().items())
    assert not torch.equal(read.expert_layers[0].q_proj.weight, model.expert_layers[0].q_proj.weight)


def test_adapters_stay_in_single_precision_beside_weights_in_half(make_policy):
    policy = make_policy('state')
    for name, parameter in policy.model.named_parameters():
        if name.endswith(('q_proj.weight', 'k_proj.weight', 'v_proj.weight', 'o_proj.weight')) or '.mlp.' in name \
                or name == 'embed_tokens.weight':
            parameter.data = parameter.data.bfloat16()
    found = adapted(policy)
    assert all(factor.dtype == torch.float32 for module in found.model.modules() if isinstance(module, Adapter)
               for factor in module.parameters())
    once = merged(found)
    assert once.model.expert_layers[0].q_proj.weight.dtype == torch.bfloat16
    drawn, wanted = chunk(found).flatten(), chunk(once).flatten()
    assert torch.nn.functional.cosine_similarity(drawn, wanted, 0) > 0.999


def test_a_policy_that_has_the_adapters_is_itself_and_others_are_merged_first(make_policy):
    policy = adapted(make_policy())
    assert with_adapters(policy, BOTH, rank=2) is policy
    other = with_adapters(policy, ('expert',), rank=3, unchanged=True)
    assert (other.model.config.language_lora, other.model.config.expert_lora) == (None, LoraConfig(3, 3.0))
    assert torch.equal(chunk(other), chunk(merged(policy)))


def test_an_actor_over_latents_has_no_adapters_and_none_are_added_beside_it(make_policy):
    steered = with_latent_actor(make_policy())
    with pytest.raises(ContractError, match='cannot be trained together'):
        with_adapters(steered, ('expert',))
    beside = with_latent_actor(adapted(make_policy()))
    assert not any(isinstance(module, Adapter) for module in beside.model.latent_actor.modules())
    assert torch.equal(chunk(beside), chunk(adapted(make_policy())))


@pytest.mark.parametrize(('trainable', 'rank', 'words'), [
    ('some', None, "unknown trainable 'some': use full, expert, lora"), ('expert', 4, "'expert' trains no adapters"),
    ('lora', 0, 'rank 0 cannot be')])
def test_what_cannot_be_trained_is_refused(trainable, rank, words):
    with pytest.raises(ValueError, match=words):
        check_trainable(trainable, rank)
