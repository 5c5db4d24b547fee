"""What goes wrong in silence when weights of pi0 are used: sizes of whole files, units, statistics, exported graphs."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import onnxruntime
import pytest
import torch
from sizes import TINY
from test_parity import CLOSE, CLOSE_AFTER_STEPS, FIXTURES, Golden

from fpo_ros.policy.aloha import ARM_COLUMNS, action_from_pi, state_to_pi
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import GRIPPER_COLUMNS, PolicyContract
from fpo_ros.policy.families import FAMILIES, check, theirs_of
from fpo_ros.policy.family_policy import write_policy
from fpo_ros.policy.flow import sample
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.statistics import read_lerobot
from fpo_ros.runtime import export_graphs
from fpo_ros.runtime.export import export

CAMERAS = ('cam_high', 'cam_left_wrist', 'cam_right_wrist')
VLM, EXPERT = 'paligemma_with_expert.paligemma.', 'paligemma_with_expert.gemma_expert.'
VISION = f'{VLM}model.vision_tower.vision_model.'
#: Tensors of a file of openpi, and some of them (openpi models/gemma.py, models/siglip.py).
COUNT = 777
SHAPES = {
    f'{VISION}embeddings.patch_embedding.weight': (1152, 3, 14, 14),
    f'{VISION}embeddings.position_embedding.weight': (256, 1152),
    f'{VISION}encoder.layers.26.self_attn.k_proj.weight': (1152, 1152),
    f'{VISION}encoder.layers.26.mlp.fc1.weight': (4304, 1152),
    f'{VISION}post_layernorm.bias': (1152,),
    f'{VLM}model.multi_modal_projector.linear.weight': (2048, 1152),
    f'{VLM}lm_head.weight': (257152, 2048),
    f'{VLM}model.language_model.layers.17.self_attn.q_proj.weight': (2048, 2048),
    f'{VLM}model.language_model.layers.17.self_attn.k_proj.weight': (256, 2048),
    f'{VLM}model.language_model.layers.17.mlp.down_proj.weight': (2048, 16384),
    f'{VLM}model.language_model.norm.weight': (2048,),
    f'{EXPERT}model.layers.17.self_attn.q_proj.weight': (2048, 1024),
    f'{EXPERT}model.layers.17.self_attn.o_proj.weight': (1024, 2048),
    f'{EXPERT}model.layers.17.mlp.gate_proj.weight': (4096, 1024),
    f'{EXPERT}lm_head.weight': (257152, 1024),
    'state_proj.weight': (1024, 32), 'action_in_proj.weight': (1024, 32), 'action_time_mlp_in.weight': (1024, 2048),
    'action_time_mlp_out.weight': (1024, 1024), 'action_out_proj.weight': (32, 1024),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_a_file_of_full_size_has_the_published_names_and_shapes(family):
    config = preset('pi0')
    contract = PolicyContract(observation='pixels', cameras=CAMERAS, image_height=224, image_width=224, horizon=50,
                              execute=25, action_width=32)
    with torch.device('meta'):
        ours = Pi0(config, contract).state_dict()
    found = {name: tuple(value.shape) for name, value in theirs_of(ours, config, family).items()}
    assert len(found) == COUNT
    assert {name: found[FAMILIES[family] + name] for name in SHAPES} == SHAPES
    assert check(found, {name: tuple(value.shape) for name, value in ours.items()}, config, 'a file') == family


def test_states_and_actions_of_pi_agree_on_arms_and_differ_on_grippers():
    joints = np.linspace(0.1, 0.9, 14, dtype=np.float32)
    joints[list(GRIPPER_COLUMNS)] = 0.25, 0.75
    through = action_from_pi(state_to_pi(joints))
    np.testing.assert_allclose(through[ARM_COLUMNS], joints[ARM_COLUMNS], atol=1e-6)
    np.testing.assert_allclose(through[list(GRIPPER_COLUMNS)], [0.3105, 0.6591], atol=1e-4)


def test_lerobot_adds_its_epsilon_to_what_states_are_divided_by_alone(tmp_path, monkeypatch):
    contract = PolicyContract(observation='pixels', cameras=CAMERAS[:2], image_height=16, image_width=24,
                              action_width=32, prompt_tokens=(2, 5, 108))
    sizes, small = replace(TINY, state_width=32), np.full(14, 1e-3, np.float32)
    monkeypatch.setattr('fpo_ros.policy.family_config.preset', lambda name: sizes)
    write_policy(FlowPolicy(Pi0(sizes, contract), NormStats(small, small, small, small)), tmp_path, 'lerobot')
    read = read_lerobot(tmp_path, contract)
    np.testing.assert_allclose(read.state_std, 1e-3 + 1e-8, rtol=1e-6)
    np.testing.assert_allclose(read.action_std, 1e-3, rtol=1e-6)


class Graphs:
    """Exported graphs, one observation and one step of the flow at a time."""

    def __init__(self, policy: FlowPolicy, directory) -> None:
        with patch.object(export_graphs, 'loop_steps', lambda proto, weights, *_: (proto, weights)):
            export(policy, directory, vectors=2, guided=False)
        self.prefix_graph, self.step_graph = (
            onnxruntime.InferenceSession(directory / name) for name in ('prefix.onnx', 'denoise.onnx'))

    def prefix(self, tokens: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.prefix_graph.run(None, {'tokens': tokens.numpy(), 'images': images.numpy()})[0])

    def denoise(self, x_t: torch.Tensor, time: torch.Tensor, state: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        feeds = {'x_t': x_t, 'time': time, 'state': state, 'prefix_kv': prefix}
        return torch.as_tensor(self.step_graph.run(None, {name: value.numpy() for name, value in feeds.items()})[0])


def alike(ours: torch.Tensor, theirs: torch.Tensor, within: float) -> None:
    torch.testing.assert_close(ours, theirs, atol=within, rtol=0)
    assert torch.nn.functional.cosine_similarity(ours.flatten().double(), theirs.flatten().double(), 0) > 0.999999


@pytest.mark.parametrize('cameras', [1, 2, 3])
@torch.no_grad()
def test_graphs_compute_stage_by_stage_what_torch_does_for_any_number_of_cameras(make_policy, tmp_path, cameras):
    policy = make_policy('pixels', sizes=replace(TINY, state_width=32), cameras=CAMERAS[:cameras], action_width=32)
    model, graphs, generator = policy.model.eval(), Graphs(policy, tmp_path), torch.Generator().manual_seed(0)
    images = torch.rand(1, cameras, 3, 16, 24, generator=generator) * 2 - 1
    state, noise = torch.randn(1, 14, generator=generator), torch.randn(1, 5, 32, generator=generator)
    prefix = model.prefix(policy.tokens, images)
    assert prefix.shape[4] == 6 * cameras + policy.tokens.shape[1]
    alike(graphs.prefix(policy.tokens, images), prefix, CLOSE)
    cache = model.with_state(state, prefix)
    for time in (torch.tensor([1.0]), torch.tensor([0.1])):
        alike(graphs.denoise(noise, time, state, prefix), model.denoise(noise, time, cache), CLOSE)
    alike(sample(lambda x, time: graphs.denoise(x, time, state, prefix), noise, 10),
          sample(lambda x, time: model.denoise(x, time, cache), noise, 10), CLOSE_AFTER_STEPS)


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_graphs_of_their_weights_compute_their_numbers(tmp_path, family):
    golden = Golden(FIXTURES / f'pi0_{family}.safetensors', tmp_path)
    given, theirs = golden.inputs, golden.outputs
    tokens, images = given['tokens'][:1, given['token_masks'][0]], given['images'][:1, given['image_masks'][0]]
    golden.model.contract = replace(golden.model.contract, prompt_tokens=tuple(tokens[0].tolist()))
    graphs = Graphs(FlowPolicy(golden.model, NormStats(*[np.zeros(14), np.ones(14)] * 2)), tmp_path)
    prefix, there = graphs.prefix(tokens, images), golden.there(0)
    alike(prefix[:, 0, 0], theirs['prefix_keys'][:, 0][:, :, there], CLOSE)
    alike(prefix[:, 1, 0], theirs['prefix_values'][:, 0][:, :, there], CLOSE)
    state, noise = given['state'][:1, :14], given['noise'][:1]
    for time, velocity in zip(given['times'], theirs['velocities'], strict=True):
        alike(graphs.denoise(noise, time[:1], state, prefix)[0], velocity[0], CLOSE)
    drawn = sample(lambda x, time: graphs.denoise(x, time, state, prefix), noise, 10)
    alike(drawn[0], theirs['sample'][0], CLOSE_AFTER_STEPS)
