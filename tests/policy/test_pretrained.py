"""Files of openpi and LeRobot: read, written, cut short, and in half precision."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_families import CONFIG, CONTRACT

from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.families import FAMILIES, FamilyError
from fpo_ros.policy.finite import NotFiniteError
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.pretrained import read_pretrained, write_pretrained

#: pi0's own way: states and actions are padded.
PADDED = replace(CONFIG, state_width=32)
PADDED_CONTRACT = replace(CONTRACT, action_width=32, horizon=5, execute=3)


@pytest.fixture(scope='module')
def model() -> Pi0:
    torch.manual_seed(0)
    found = Pi0(PADDED, PADDED_CONTRACT)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return found.eval()


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / 'model.safetensors'
    write_pretrained(model, path, 'openpi')
    return path


def velocity(model: Pi0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 2, 3, 16, 24, generator=generator) * 2 - 1
    state, noise = (torch.randn(2, *shape, generator=generator) for shape in ((14,), (5, 32)))
    with torch.no_grad():
        prefix = model.prefix(torch.tensor([[1, 40, 2]]).expand(2, -1), images)
        return model.denoise(noise, torch.tensor([1.0, 0.3]), model.with_state(state, prefix))


@pytest.mark.parametrize('family', FAMILIES)
def test_a_network_that_was_written_and_read_computes_the_same(model, tmp_path, family):
    write_pretrained(model, tmp_path / 'model.safetensors', family)
    read = read_pretrained(tmp_path, PADDED, PADDED_CONTRACT)
    assert torch.equal(velocity(read), velocity(model))


def test_weights_in_several_files_are_read_by_their_index(model, saved, tmp_path):
    whole = load_file(saved)
    names = sorted(whole)
    parts = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
    for file, some in parts.items():
        save_file({name: whole[name] for name in some}, tmp_path / file)
    saved.unlink()
    index = {'weight_map': {name: file for file, some in parts.items() for name in some}}
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
    assert torch.equal(velocity(read_pretrained(tmp_path, PADDED, PADDED_CONTRACT)), velocity(model))
    (tmp_path / 'b.safetensors').unlink()
    with pytest.raises(FamilyError, match=r'b\.safetensors cannot be read'):
        read_pretrained(tmp_path, PADDED, PADDED_CONTRACT)
    (tmp_path / 'model.safetensors.index.json').write_text('[]')
    with pytest.raises(FamilyError, match='no index of weights'):
        read_pretrained(tmp_path, PADDED, PADDED_CONTRACT)


def test_in_half_precision_norms_and_heads_stay_single_and_velocities_are_alike(model, saved):
    half = read_pretrained(saved, PADDED, PADDED_CONTRACT, 'bfloat16')
    types = {name: value.dtype for name, value in half.state_dict().items()}
    assert types['expert_layers.0.q_proj.weight'] == types['vision_tower.layers.0.qkv.weight'] == torch.bfloat16
    for name in ('state_proj.weight', 'action_out_proj.bias', 'language_layers.0.input_layernorm.weight',
                 'vision_tower.patch_embedding.weight', 'vision_tower.position_embedding', 'expert_norm.weight'):
        assert types[name] == torch.float32, name
    plain, rough = velocity(model), velocity(half)
    assert rough.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(plain.flatten(), rough.flatten(), dim=0)
    assert cosine > 0.999 and not torch.equal(plain, rough)


def test_a_file_in_half_precision_is_read_as_it_is_or_widened(model, saved):
    whole = load_file(saved)
    save_file({name: value.bfloat16() for name, value in whole.items()}, saved)
    assert read_pretrained(saved, PADDED, PADDED_CONTRACT).computes_in == torch.bfloat16
    assert read_pretrained(saved, PADDED, PADDED_CONTRACT, 'float32').computes_in == torch.float32


#: What LeRobot keeps in single precision of a network in half precision (policies/pi0/modeling_pi0.py), and its heads.
LEROBOT_SINGLE = ('vision_tower', 'multi_modal_projector', 'input_layernorm', 'post_attention_layernorm', 'model.norm')


def as_lerobot(name: str, value: torch.Tensor) -> torch.Tensor:
    single = 'paligemma_with_expert' not in name or any(part in name for part in LEROBOT_SINGLE)
    return value if single else value.bfloat16()


def test_a_file_of_several_types_keeps_them_and_its_vision_tower_computes_in_single_precision(model, tmp_path):
    path = tmp_path / 'model.safetensors'
    write_pretrained(model, path, 'lerobot')
    mixed = {name: as_lerobot(name, value) for name, value in load_file(path).items()}
    path.unlink()  # some are mapped from it still
    save_file(mixed, path)
    read = read_pretrained(path, PADDED, PADDED_CONTRACT)
    kinds = {name: value.dtype for name, value in read.state_dict().items()}
    assert {kind for name, kind in kinds.items() if name.startswith('vision_tower.')} == {torch.float32}
    assert kinds['embed_tokens.weight'] == kinds['language_layers.1.mlp.up_proj.weight'] == torch.bfloat16
    assert read.computes_in == torch.bfloat16 and kinds['state_proj.weight'] == torch.float32
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        assert torch.equal(read.vision_tower(images), model.vision_tower(images)), 'nothing of it was rounded'
    cosine = torch.nn.functional.cosine_similarity(velocity(model).flatten(), velocity(read).flatten(), dim=0)
    assert cosine > 0.999
    write_pretrained(read, tmp_path / 'again.safetensors', 'lerobot')
    again = load_file(tmp_path / 'again.safetensors')
    assert all(torch.equal(again[name], value) and again[name].dtype == value.dtype for name, value in mixed.items())
    half = read_pretrained(path, PADDED, PADDED_CONTRACT, 'bfloat16')
    assert half.vision_tower.projector.weight.dtype == torch.bfloat16, 'as it was asked for'


def test_of_several_types_within_a_part_the_widest_is_taken(model, saved):
    name = 'paligemma_with_expert.gemma_expert.model.layers.1.self_attn.k_proj.weight'
    whole = load_file(saved)
    saved.unlink()
    save_file({key: value if key == name else value.bfloat16() for key, value in whole.items()}, saved)
    read = read_pretrained(saved, PADDED, PADDED_CONTRACT)
    assert torch.equal(read.expert_layers[1].k_proj.weight, model.expert_layers[1].k_proj.weight)
    assert read.computes_in == torch.float32 and velocity(read).isfinite().all()
    assert read.vision_tower.layers[0].qkv.weight.dtype == torch.bfloat16


def test_a_file_that_is_cut_short_missing_or_not_finite_is_one_clear_error(saved, tmp_path):
    whole = load_file(saved)
    content = saved.read_bytes()
    for size in (0, 7, 100, len(content) - 10):
        saved.write_bytes(content[:size])
        with pytest.raises(FamilyError, match='cut short'):
            read_pretrained(saved, PADDED, PADDED_CONTRACT)
    saved.unlink()
    with pytest.raises(FamilyError, match='holds no model.safetensors'):
        read_pretrained(tmp_path, PADDED, PADDED_CONTRACT)
    whole['state_proj.bias'][0] = float('nan')
    save_file(whole, saved)
    with pytest.raises(NotFiniteError, match=r'1 of 12 values of state_proj\.bias'):
        read_pretrained(saved, PADDED, PADDED_CONTRACT)


def test_weights_of_other_sizes_are_refused_by_name(saved):
    with pytest.raises(FamilyError, match=r'of another shape: .*mlp\.gate_proj\.weight is \[24, 16\], the model has'):
        read_pretrained(saved, replace(PADDED, mlp_dim=48), PADDED_CONTRACT)
    with pytest.raises(FamilyError, match=r'state_proj\.weight is \[12, 32\], the model has \[12, 14\]'):
        read_pretrained(saved, CONFIG, PADDED_CONTRACT)


@pytest.mark.parametrize(('config', 'contract'), [
    (CONFIG, replace(CONTRACT, observation='state', cameras=())), (replace(CONFIG, predicts='actions'), CONTRACT),
    (replace(CONFIG, steps_per_token=5), CONTRACT), (replace(CONFIG, latent_actor='flow'), CONTRACT)])
def test_what_is_no_pi0_is_not_written_as_one(tmp_path, config, contract):
    with pytest.raises(FamilyError, match='only a pi0 with cameras'):
        write_pretrained(Pi0(config, contract), tmp_path / 'model.safetensors', 'lerobot')
    assert not list(tmp_path.iterdir())


def test_pi0_at_full_size_has_the_public_number_of_parameters():
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_left_wrist', 'cam_right_wrist'),
                              image_height=224, image_width=224, horizon=50, execute=25, action_width=32)
    with torch.device('meta'):
        model = Pi0(preset('pi0'), contract)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_238_048_528
    assert sum(parameter.numel() for parameter in model.expert_parameters()) == 314_713_120


def test_padding_of_the_state_is_zeros_and_too_narrow_a_network_is_refused(model):
    state, wide = torch.randn(2, 14), torch.zeros(2, 32)
    wide[:, :14] = state
    prefix = torch.zeros(3, 2, 1, 1, 4, 8)
    plain = Pi0(PADDED, PADDED_CONTRACT)
    plain.load_state_dict(model.state_dict())
    by_hand = torch.nn.functional.linear(wide, model.state_proj.weight, model.state_proj.bias)
    seen = []
    plain.expert_layers[0].input_layernorm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][:, 0]))
    plain.with_state(state, prefix)
    assert torch.equal(seen[0], by_hand)
    with pytest.raises(ContractError, match='a state of 14 entries does not fit into a state_width of 8'):
        Pi0(replace(CONFIG, state_width=8), CONTRACT)
    with pytest.raises(ContractError, match='action_width must be 0 or at least 14, got 7'):
        replace(CONTRACT, action_width=7)
