"""Exported graphs against torch."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from sizes import SHARED

from fpo_ros.policy.contract import Observation
from fpo_ros.policy.transforms import image_tensor
from fpo_ros.runtime import export_graphs
from fpo_ros.runtime.export import VECTOR_ATOL, check, export
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession


@pytest.fixture(scope='module', params=['state', 'pixels', 'shared tokens'])
def exported(request, make_policy, tmp_path_factory):
    """Return a policy, the directory of its export and the difference that export found."""
    directory = tmp_path_factory.mktemp('exported')
    policy = (make_policy(sizes=SHARED, horizon=6) if request.param == 'shared tokens' else make_policy(request.param))
    return policy, directory, export(policy, directory, vectors=3, guided=False)


def observation(policy, seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    contract = policy.contract
    images = {name: rng.integers(0, 256, (16, 24, 3), np.uint8) for name in contract.cameras}
    return Observation(rng.normal(size=14), images, None if contract.cameras else rng.normal(size=7))


def cache_of(policy, seen):
    """Return the (1, 14) joints of an observation, and what torch attends to."""
    joints = np.asarray(seen.joint_positions)[None]
    images = np.stack([seen.images[name] for name in policy.contract.cameras])[None] if seen.images else None
    pose = None if seen.object_pose is None else seen.object_pose[None]
    with torch.no_grad():
        return joints, policy.model.with_state(policy.states(joints, pose), policy.prefix(images))


def test_export_reproduces_torch_on_its_vectors(exported):
    policy, directory, difference = exported
    assert 0 <= difference <= VECTOR_ATOL
    assert PolicySession.load(directory).verify_vectors() == difference
    with np.load(directory / 'vectors.npz', allow_pickle=False) as vectors:
        assert len(vectors['chunk']) == 3 and float(vectors['atol']) == np.float32(VECTOR_ATOL)
        assert np.ptp(vectors['chunk'], 0).max() > 100 * VECTOR_ATOL, 'vectors tell chunks apart'
    assert json.loads((directory / 'contract.json').read_text()) == policy.contract.to_dict()


def test_a_session_acts_as_the_torch_policy_on_new_observations(exported):
    policy, directory, _ = exported
    session = PolicySession.load(directory)
    noise = np.random.default_rng(1).standard_normal((policy.contract.horizon, 14))
    for seed in (5, 6):
        seen = observation(policy, seed)
        images = (
            np.stack([seen.images[name] for name in policy.contract.cameras])[None] if seen.images else None
        )
        pose = None if seen.object_pose is None else seen.object_pose[None]
        expected = policy.to_raw(
            policy.act(
                policy.states(seen.joint_positions[None], pose),
                policy.prefix(images),
                torch.as_tensor(noise[None], dtype=torch.float32),
            )
        )[0]
        np.testing.assert_allclose(session.infer(seen, noise), expected, atol=VECTOR_ATOL)


@pytest.mark.parametrize('batch', [1, 2, 5])
def test_graphs_take_any_batch_size(exported, batch):
    policy, directory, _ = exported
    contract, model, rng = policy.contract, policy.model, np.random.default_rng(0)
    prefix, denoise = (
        onnxruntime.InferenceSession(directory / name) for name in ('prefix.onnx', 'denoise.onnx')
    )
    tokens = np.repeat(policy.tokens.numpy(), batch, 0)
    feeds, images = {'tokens': tokens}, None
    if contract.cameras:
        images = image_tensor(rng.integers(0, 256, (batch, 2, 16, 24, 3), np.uint8))
        feeds['images'] = images
    cache = prefix.run(None, feeds)[0]
    x, state = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((batch, contract.horizon, 14), (batch, contract.state_dim))
    )
    with torch.no_grad():
        expected = model.prefix(torch.as_tensor(tokens), None if images is None else torch.as_tensor(images))
        actions = policy.act(torch.as_tensor(state), expected, torch.as_tensor(x))
    assert cache.shape == tuple(expected.shape)
    np.testing.assert_allclose(cache, expected.numpy(), atol=1e-4)
    found = denoise.run(None, {'noise': x, 'state': state, 'prefix_kv': cache})[0]
    np.testing.assert_allclose(found, actions.numpy(), atol=1e-4)


@pytest.mark.parametrize('steps', [1, 3])
def test_the_loop_takes_the_steps_that_a_session_would(make_policy, tmp_path, monkeypatch, steps):
    policy = make_policy(flow_steps=steps)
    looped, stepped = tmp_path / 'looped', tmp_path / 'stepped'
    for directory in (looped, stepped):
        directory.mkdir()
        export(policy, directory, guided=False)
        monkeypatch.setattr(export_graphs, 'loop_steps', lambda proto, weights, *_: (proto, weights))
    assert {value.name for value in onnxruntime.InferenceSession(stepped / 'denoise.onnx').get_inputs()} == {
        'x_t', 'time', 'state', 'prefix_kv'}
    noise = np.random.default_rng(1).standard_normal((policy.contract.horizon, 14), np.float32)
    by_loop, by_steps = (PolicySession.load(path).infer(observation(policy), noise) for path in (looped, stepped))
    np.testing.assert_allclose(by_loop, by_steps, atol=1e-5)


def test_the_loop_repeats_nothing_that_steps_share(exported):
    policy, directory, _ = exported
    graph = onnx.load(directory / 'denoise.onnx').graph
    loop = next(node for node in graph.node if node.op_type == 'Loop')
    body = loop.attribute[0].g
    products = [node for node in body.node if node.op_type == 'MatMul']
    # Of each layer: projections in and out, three of the MLP, two of attention; and four of the tokens' own.
    assert len(products) <= 7 * policy.model.config.depth + 4
    assert not {'Sin', 'Cos'} & {node.op_type for node in body.node}
    assert not {'state', 'prefix_kv'} & {name for node in body.node for name in node.input}


@pytest.mark.parametrize('name', ['prefix.onnx', 'denoise.onnx'])
def test_a_changed_weight_is_noticed(exported, tmp_path, name):
    copy = shutil.copytree(exported[1], tmp_path / 'copy')
    graph = onnx.load(copy / name)
    matrices = [
        tensor
        for tensor in graph.graph.initializer
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT
    ]
    for tensor in matrices:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.05, tensor.name))
    assert matrices
    onnx.save(graph, copy / name)
    with pytest.raises(PolicyError, match='does not reproduce'):
        PolicySession.load(copy).verify_vectors()


def test_an_export_that_differs_from_torch_fails(make_policy, tmp_path, monkeypatch):
    policy = make_policy()
    plain = policy.act
    monkeypatch.setattr(policy, 'act', lambda *arguments: plain(*arguments) + 0.01)
    with pytest.raises(PolicyError, match='does not reproduce'):
        export(policy, tmp_path, guided=False)


def test_graphs_hold_every_weight_that_acts_and_no_sampler_state(exported):
    policy, directory, _ = exported
    names = {value.name for value in onnxruntime.InferenceSession(directory / 'denoise.onnx').get_inputs()}
    assert names == {'noise', 'state', 'prefix_kv'}
    graph = onnx.load(directory / 'denoise.onnx')
    held = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
    weights = sum(parameter.numel() for parameter in policy.model.expert_parameters())
    assert held > 0.9 * weights


@pytest.mark.parametrize('kind', ['state', 'pixels'])
def test_one_vector_is_enough(make_policy, tmp_path, kind):
    assert export(make_policy(kind), tmp_path, vectors=1, guided=False) <= VECTOR_ATOL


def falsified(directory, factor: float = 1.0, shift: float = 0.0):
    """Change the chunks that the test vectors of an export want."""
    with np.load(directory / 'vectors.npz') as archive:
        vectors = dict(archive)
    vectors['chunk'] = vectors['chunk'] * np.float32(factor) + np.float32(shift)
    np.savez(directory / 'vectors.npz', **vectors)


def test_on_the_machine_that_exports_chunks_must_agree_more_closely_than_elsewhere(exported, tmp_path):
    _, directory, difference = exported
    copy = shutil.copytree(directory, tmp_path / 'copy')
    falsified(copy, shift=5e-5)
    assert PolicySession.load(copy).verify_vectors() <= VECTOR_ATOL
    with pytest.raises(PolicyError, match=r'does not reproduce on cpu: row .*\(tolerance 1e-05\)'):
        check(copy, 'float32')
    assert check(copy, 'float16') <= VECTOR_ATOL, 'half precision has the tolerance of the vectors'
    assert check(directory, 'float32') == difference


def test_in_half_precision_chunks_must_point_where_those_of_torch_do(exported, tmp_path):
    copy = shutil.copytree(exported[1], tmp_path / 'copy')
    falsified(copy, factor=-1)
    with pytest.raises(PolicyError, match=r'the cosine between chunks is -?0\.\d+, wanted is 0.999 at least'):
        PolicySession.load(copy).verify_vectors(atol=np.inf, cosine=0.999)
