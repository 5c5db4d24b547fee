"""What exported graphs consist of: weights beside them, half precision, their origin, optional cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import ExternalDataInfo

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import ContractError, Observation, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.realtime import Leftover
from fpo_ros.runtime.export import HALF_VECTOR_ATOL, export, write
from fpo_ros.runtime.export_hollow import hollow
from fpo_ros.runtime.export_weights import PAGE
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession

CAMERAS = ('cam_high', 'cam_left_wrist', 'cam_right_wrist')


def lively(observation: str = 'pixels', **contract: object) -> FlowPolicy:
    """Return a pi0_tiny whose chunks depend on all that it sees."""
    torch.manual_seed(0)
    cameras = CAMERAS if observation == 'pixels' else ()
    contract = PolicyContract(observation=observation, cameras=cameras, image_height=32, image_width=32, **contract)
    model = Pi0(preset('pi0_tiny'), contract)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.6 / parameter.shape[1] ** 0.5)
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), np.zeros(14), np.full(14, 0.3))
    return FlowPolicy(model, stats)


def observation_of(policy: FlowPolicy, seed: int, without: tuple[str, ...] = ()) -> Observation:
    rng, contract = np.random.default_rng(seed), policy.contract
    images = {name: rng.integers(0, 256, (contract.image_height, contract.image_width, 3), np.uint8)
              for name in contract.cameras}
    for name in without:
        images.pop(name)
    return Observation(rng.normal(size=14), images, None if contract.cameras else rng.normal(size=7))


def torch_chunk(policy: FlowPolicy, seen: Observation, noise: np.ndarray) -> np.ndarray:
    names = [name for name in policy.contract.cameras if name in seen.images]
    images = np.stack([seen.images[name] for name in names])[None] if names else None
    pose = None if seen.object_pose is None else seen.object_pose[None]
    with torch.no_grad():
        states = policy.states(seen.joint_positions[None], pose)
        start = torch.as_tensor(noise[None], dtype=torch.float32)
        return policy.to_raw(policy.act(states, policy.prefix(images), start))[0]


def pairs(policy: FlowPolicy, session: PolicySession, without: tuple[str, ...] = ()) -> list[tuple]:
    """Return chunks of torch and of a session for a few observations."""
    found, rng = [], np.random.default_rng(1)
    for seed in range(4):
        seen, noise = observation_of(policy, seed, without), rng.standard_normal((policy.contract.horizon, 14))
        found.append((torch_chunk(policy, seen, noise), session.infer(seen, noise)))
    return found


@pytest.fixture(scope='module')
def policy() -> FlowPolicy:
    return lively(optional_cameras=CAMERAS[1:])


@pytest.fixture(scope='module')
def single(policy, tmp_path_factory):
    directory = tmp_path_factory.mktemp('single')
    export(policy, directory)
    return directory


def test_chunks_of_onnx_are_those_of_torch_to_a_hundred_thousandth(policy, single):
    found = pairs(policy, PolicySession.load(single))
    assert max(np.abs(ours - theirs).max() for theirs, ours in found) <= 1e-5
    assert np.ptp([ours for _, ours in found], 0).max() > 0.1, 'chunks differ by what is seen'


def test_a_network_without_weights_takes_no_memory_and_knows_their_shapes(policy):
    empty = hollow(policy.model)
    shapes = {name: parameter.shape for name, parameter in empty.named_parameters()}
    assert all(shapes[name] == parameter.shape for name, parameter in policy.model.named_parameters())
    assert all(parameter.untyped_storage().nbytes() == 4 for parameter in empty.parameters())


def test_large_weights_lie_beside_the_graphs_once_and_compute_the_same(policy, single, tmp_path):
    (tmp_path / 'latent.weights').write_bytes(b'of an earlier export')
    assert export(policy, tmp_path, external_over=0) <= 1e-5
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {'prefix.onnx', 'prefix.weights', 'denoise.onnx', 'denoise.weights', 'guided.onnx', 'contract.json',
                     'norm_stats.json', 'vectors.npz'}
    places = {}
    for name in ('prefix', 'denoise', 'guided'):
        graph = onnx.load(tmp_path / f'{name}.onnx', load_external_data=False)
        large = [ExternalDataInfo(one) for one in graph.graph.initializer if one.external_data]
        assert large and all(info.offset % PAGE == 0 for info in large)
        places[name] = {(info.location, info.offset) for info in large}
    assert places['guided'] == places['denoise'], 'both graphs use the same weights'
    seen = observation_of(policy, 7)
    ours, inline = (PolicySession.load(one).infer(seen) for one in (tmp_path, single))
    np.testing.assert_allclose(ours, inline, atol=1e-5)


def test_the_loop_holds_no_weights_and_only_its_projections_are_in_half_precision(policy, tmp_path):
    write(policy, tmp_path, vectors=1, precision='float16', external_over=0, guided=False)
    graph = onnx.load(tmp_path / 'denoise.onnx', load_external_data=False).graph
    body = next(node for node in graph.node if node.op_type == 'Loop').attribute[0].g
    assert not body.initializer and any(tensor.external_data for tensor in graph.initializer)
    used = {name for part in (graph, body) for node in part.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
    flow = (body.input[2], body.output[1])
    assert {value.type.tensor_type.elem_type for value in flow} == {onnx.TensorProto.FLOAT}
    halves = {node.output[0] for node in body.node
              if node.op_type == 'Cast' and node.attribute[0].i == onnx.TensorProto.FLOAT16}
    assert halves and {node.op_type for node in body.node if halves.intersection(node.input)} == {'MatMul'}


@pytest.mark.parametrize('external_over', [0, 1 << 28])
def test_files_of_the_prefix_are_the_same_when_only_the_expert_has_changed(policy, tmp_path, external_over):
    changed = FlowPolicy(Pi0(policy.model.config, policy.contract), policy.stats)
    changed.model.load_state_dict(policy.model.state_dict())
    with torch.no_grad():
        for parameter in changed.model.expert_parameters():
            parameter.mul_(1.01)
    for name, one in (('a', policy), ('b', changed)):
        (tmp_path / name).mkdir()
        write(one, tmp_path / name, vectors=1, external_over=external_over, guided=False)
    files = {file.name: file.read_bytes() == (tmp_path / 'b' / file.name).read_bytes()
             for file in (tmp_path / 'a').iterdir()}
    weights = 'denoise.weights' if external_over == 0 else 'denoise.onnx'
    assert files['prefix.onnx'] and files.get('prefix.weights', True) and not files[weights]


def test_graphs_say_what_they_were_exported_from_and_serve_no_other_contract(policy, single, tmp_path):
    for name in ('prefix', 'denoise', 'guided'):
        notes = {one.key: one.value for one in onnx.load(single / f'{name}.onnx').metadata_props}
        assert notes['contract_sha256'] == policy.contract.digest() and notes['precision'] == 'float32'
        assert notes['torch'] == torch.__version__ and notes['fpo_ros'] and notes['onnx']
        assert onnx.load(single / f'{name}.onnx').opset_import[0].version >= 19
    for file in single.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    other = replace(policy.contract, flow_steps=3)
    (tmp_path / 'contract.json').write_text(other.to_json())
    with pytest.raises(PolicyError, match=r'prefix\.onnx was exported for another contract .*export the policy again'):
        PolicySession.load(tmp_path)


@pytest.mark.parametrize('observation', ['state', 'pixels'])
def test_in_half_precision_chunks_are_nearly_those_of_torch(observation, tmp_path):
    policy = lively(observation)
    assert export(policy, tmp_path, precision='float16', external_over=0, guided=False) <= HALF_VECTOR_ATOL
    for theirs, ours in pairs(policy, PolicySession.load(tmp_path)):
        assert np.isfinite(ours).all() and not np.array_equal(ours, theirs)
        assert np.vdot(ours, theirs) / (np.linalg.norm(ours) * np.linalg.norm(theirs)) > 0.999
    graph = onnx.load(tmp_path / 'denoise.onnx', load_external_data=False)
    halves = {one.name for one in graph.graph.initializer if one.data_type == onnx.TensorProto.FLOAT16}
    assert {'model.expert_layers.1.mlp.up_proj.weight', 'model.expert_layers.0.joined_weight'} <= halves
    assert not any('norm' in name or 'action_' in name or 'state_proj' in name for name in halves)
    kinds = {value.name: value.type.tensor_type.elem_type
             for value in onnx.shape_inference.infer_shapes(onnx.load(tmp_path / 'denoise.onnx')).graph.value_info}
    softmax = [node for node in graph.graph.node if node.op_type == 'Softmax']
    assert softmax and all(kinds[node.output[0]] == onnx.TensorProto.FLOAT for node in softmax)


def test_weights_beyond_half_precision_and_unknown_precisions_are_refused(tmp_path):
    policy = lively('state')
    with torch.no_grad():
        policy.model.expert_layers[1].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(PolicyError, match=r'expert_layers\.1\.mlp\.up_proj\.weight .*beyond the range of float16'):
        write(policy, tmp_path, vectors=1, precision='float16')
    with pytest.raises(ContractError, match="unknown precision 'int8': use float32 or float16"):
        write(policy, tmp_path, vectors=1, precision='int8')


def test_a_policy_in_bfloat16_is_exported_as_torch_computes_it_in_single_precision(tmp_path):
    policy = lively()
    before = {}
    for name, parameter in policy.model.named_parameters():
        if 'layers' in name and 'norm' not in name:
            parameter.data = parameter.data.bfloat16()
            before[name] = parameter.data.clone()
    assert policy.model.computes_in == torch.bfloat16
    assert export(policy, tmp_path, guided=False) <= 1e-5
    after = dict(policy.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items()), 'the policy is as it was'


@pytest.mark.parametrize('without', [CAMERAS[1:2], CAMERAS[2:], CAMERAS[1:]])
def test_a_missing_optional_camera_shortens_the_prefix(policy, single, without):
    session = PolicySession.load(single)
    for theirs, ours in pairs(policy, session, without):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    whole = session.infer(observation_of(policy, 0))
    assert np.abs(whole - session.infer(observation_of(policy, 0, without))).max() > 1e-3


def test_test_vectors_show_missing_cameras_and_required_ones_stay_required(policy, single):
    with np.load(single / 'vectors.npz') as vectors:
        assert vectors['seen'].tolist() == [[True] * 3, [True, False, False]] * 2
    session = PolicySession.load(single)
    with pytest.raises(ContractError, match='lacks camera cam_high'):
        session.infer(observation_of(policy, 0, CAMERAS[:1]))


def test_guidance_wants_all_cameras(policy, single):
    session, rows = PolicySession.load(single), np.zeros((5, 14), np.float32)
    assert session.infer(observation_of(policy, 0), leftover=Leftover(rows, 2)).shape == (20, 14)
    with pytest.raises(PolicyError, match='goes on from a leftover with all cameras alone, and cam_'):
        session.infer(observation_of(policy, 0, CAMERAS[1:2]), leftover=Leftover(rows, 2))


def test_graphs_of_a_fixed_number_of_cameras_serve_no_contract_with_optional_ones(single, tmp_path):
    for file in single.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph = onnx.load(tmp_path / 'prefix.onnx')
    images = next(value for value in graph.graph.input if value.name == 'images')
    images.type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(graph, tmp_path / 'prefix.onnx')
    with pytest.raises(PolicyError, match='takes pictures of 3 cameras, and the contract has optional ones'):
        PolicySession.load(tmp_path)


def test_optional_cameras_are_some_of_the_cameras_and_contracts_without_any_are_as_before():
    plain = PolicyContract(observation='pixels', cameras=CAMERAS)
    assert 'optional_cameras' not in plain.to_json()
    chosen = replace(plain, optional_cameras=CAMERAS[1:])
    assert PolicyContract.from_dict(chosen.to_dict()) == chosen
    assert PolicyContract.from_dict(plain.to_dict()) == plain
    for wrong in (CAMERAS, ('cam_low',)):
        with pytest.raises(ContractError, match='optional_cameras must be some of the cameras'):
            replace(plain, optional_cameras=wrong)
