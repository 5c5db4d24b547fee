"""Weights in the names of openpi and LeRobot: there and back, and what is refused."""

from __future__ import annotations

import pytest
import torch

from fpo_ros.policy.config import Pi0Config, VisionConfig
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.families import FAMILIES, TIED_HEAD, UNUSED_HEAD, FamilyError, check, entries, ours_of, theirs_of
from fpo_ros.policy.pi0 import Pi0

CONFIG = Pi0Config(width=16, mlp_dim=24, expert_width=12, expert_mlp_dim=20, depth=3, num_heads=2, num_kv_heads=1,
                   head_dim=8, vocabulary_size=259,
                   vision=VisionConfig(patch_size=8, width=16, depth=2, num_heads=2, mlp_dim=24))
CONTRACT = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_left_wrist'), image_height=16,
                          image_width=24)
VLM, EXPERT = 'paligemma_with_expert.paligemma.', 'paligemma_with_expert.gemma_expert.'


@pytest.fixture(scope='module')
def model() -> Pi0:
    torch.manual_seed(0)
    found = Pi0(CONFIG, CONTRACT)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter)
    return found


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def checked(model: Pi0, tensors: dict[str, torch.Tensor], config: Pi0Config = CONFIG) -> str:
    return check(shapes(tensors), shapes(model.state_dict()), config, 'model.safetensors')


def test_every_tensor_of_the_model_has_an_entry_and_no_other(model):
    ours = [entry.ours for entry in entries(CONFIG)]
    assert sorted(ours) == sorted(model.state_dict())
    theirs = [name for entry in entries(CONFIG) for name in entry.theirs]
    assert len(set(theirs)) == len(theirs)


def test_weights_go_to_a_family_and_come_back_bit_for_bit(model, family):
    ours = model.state_dict()
    theirs = theirs_of(ours, CONFIG, family)
    assert checked(model, theirs) == family
    back = ours_of(theirs, CONFIG, family)
    assert back.keys() == ours.keys() and all(torch.equal(back[name], value) for name, value in ours.items())


@pytest.mark.parametrize(('name', 'shape'), [
    (f'{VLM}model.vision_tower.vision_model.embeddings.patch_embedding.weight', (16, 3, 8, 8)),
    (f'{VLM}model.vision_tower.vision_model.embeddings.position_embedding.weight', (6, 16)),
    (f'{VLM}model.vision_tower.vision_model.encoder.layers.1.self_attn.v_proj.bias', (16,)),
    (f'{VLM}model.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight', (24, 16)),
    (f'{VLM}model.multi_modal_projector.linear.weight', (16, 16)),
    (f'{VLM}model.language_model.layers.2.self_attn.k_proj.weight', (8, 16)),
    (f'{VLM}model.language_model.norm.weight', (16,)), (f'{VLM}lm_head.weight', (259, 16)),
    (f'{EXPERT}model.layers.0.self_attn.o_proj.weight', (12, 16)),
    (f'{EXPERT}model.layers.0.mlp.gate_proj.weight', (20, 12)), (f'{EXPERT}lm_head.weight', (259, 12)),
    ('action_time_mlp_in.weight', (12, 24)), ('action_out_proj.bias', (14,))])
def test_names_and_shapes_are_those_of_the_public_files(model, family, name, shape):
    theirs = theirs_of(model.state_dict(), CONFIG, family)
    assert theirs[FAMILIES[family] + name].shape == shape


def test_a_fused_projection_is_queries_keys_and_values_in_that_order(model):
    theirs = theirs_of(model.state_dict(), CONFIG, 'openpi')
    layer = f'{VLM}model.vision_tower.vision_model.encoder.layers.0.self_attn.'
    fused = torch.cat([theirs[f'{layer}{part}_proj.weight'] for part in 'qkv'])
    assert torch.equal(fused, model.vision_tower.layers[0].qkv.weight)


@pytest.mark.parametrize('head', [True, False])
@pytest.mark.parametrize('embedding', ['head', 'table', 'both'])
def test_either_name_of_the_token_embedding_fills_it_and_the_unused_head_may_be_there(model, family, head, embedding):
    front = FAMILIES[family]
    theirs = theirs_of(model.state_dict(), CONFIG, family)
    if not head:
        theirs.pop(front + UNUSED_HEAD)
    table = f'{front}{VLM}model.language_model.embed_tokens.weight'
    if embedding != 'head':
        theirs[table] = theirs[front + TIED_HEAD]
    if embedding == 'table':
        theirs.pop(front + TIED_HEAD)
    assert checked(model, theirs) == family
    assert torch.equal(ours_of(theirs, CONFIG, family)['embed_tokens.weight'], model.embed_tokens.weight)


def test_what_is_missing_unexpected_or_of_another_shape_is_named(model, family):
    theirs, front = theirs_of(model.state_dict(), CONFIG, family), FAMILIES[family]
    theirs.pop(f'{front}state_proj.bias')
    theirs[f'{front}more'] = torch.zeros(1)
    theirs[f'{front}action_out_proj.bias'] = torch.zeros(32)
    with pytest.raises(FamilyError) as caught:
        checked(model, theirs)
    text = str(caught.value)
    assert f'missing: {front}state_proj.bias;' in text and f'unexpected: {front}more;' in text
    assert f'{front}action_out_proj.bias is [32], the model has [14]' in text


def test_a_name_without_what_its_family_puts_in_front_is_named_and_not_taken_for_one_with_it(model):
    theirs = theirs_of(model.state_dict(), CONFIG, 'lerobot')
    both = theirs | {'state_proj.bias': theirs['model.state_proj.bias']}
    with pytest.raises(FamilyError, match=r'the model: unexpected: state_proj\.bias$'):
        checked(model, both)
    alone = {name: value for name, value in both.items() if name != 'model.state_proj.bias'}
    with pytest.raises(FamilyError, match=r'missing: model\.state_proj\.bias; unexpected: state_proj\.bias$'):
        checked(model, alone)
    with pytest.raises(FamilyError, match=rf'unexpected: {TIED_HEAD}$'):
        checked(model, theirs | {TIED_HEAD: theirs[f'model.{TIED_HEAD}']})


def test_of_many_missing_names_a_few_are_listed_and_the_rest_counted(model):
    theirs = theirs_of(model.state_dict(), CONFIG, 'openpi')
    short = {name: value for name, value in theirs.items() if '.layers.2.' not in name}
    with pytest.raises(FamilyError, match=r'missing: \S+layers\.2\.\S+, .* and 14 more$'):
        checked(model, short)


@pytest.mark.parametrize(('names', 'words'), [
    ({'normalize_inputs.buffer_observation_state.mean', 'model.state_proj.weight'}, 'before September 2025'),
    ({'action_in_proj.weight', 'time_mlp_in.weight'}, 'pi0.5'),
    ({'model.action_in_proj.weight', 'model.time_mlp_in.weight'}, 'pi0.5'),
    ({'transformer.wte.weight'}, 'begins with transformer.wte.weight'), (set(), 'begins with nothing')])
def test_files_of_other_models_are_refused_by_what_they_are(model, names, words):
    with pytest.raises(FamilyError, match=words):
        checked(model, {name: torch.zeros(1) for name in names})
