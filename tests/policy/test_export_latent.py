"""Exported actors over the start noise against torch."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from sizes import SHARED, TINY
from test_export import observation

from fpo_ros.policy.flow import sample
from fpo_ros.runtime.export import VECTOR_ATOL, export
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession


def steered(make_policy, actor: str, seen: str, sizes=TINY, **contract):
    """Return a policy whose actor has learned something: each starts with a last layer of zeros.

    Weights of the size of trained ones: larger ones, layer behind layer, make of rounding errors more than is allowed.
    """
    policy = make_policy(seen, sizes=replace(sizes, latent_actor=actor), **contract)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.latent_actor.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.fixture(scope='module')
def exports(make_policy, tmp_path_factory):
    """Return a function that exports a policy once: the policy with an actor, and the directory."""
    made = {}

    def of(actor: str, seen: str):
        if (actor, seen) not in made:
            policy = (steered(make_policy, actor, 'state', SHARED, horizon=6) if seen == 'shared tokens'
                      else steered(make_policy, actor, seen))
            directory = tmp_path_factory.mktemp('exported')
            assert export(policy, directory, vectors=3) <= VECTOR_ATOL
            made[actor, seen] = policy, directory
        return made[actor, seen]

    return of


@pytest.fixture(scope='module', params=[('flow', 'state'), ('flow', 'pixels'), ('gaussian', 'state'),
                                        ('gaussian', 'pixels'), ('flow', 'shared tokens')], ids='-'.join)
def exported(request, exports):
    """Return a policy with an actor and the directory of its export."""
    return exports(*request.param)


def inputs_of(policy, seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the (1, ...) state and prefix of an observation."""
    cameras = policy.contract.cameras
    images = np.stack([seen.images[name] for name in cameras])[None] if cameras else None
    pose = None if seen.object_pose is None else seen.object_pose[None]
    return policy.states(seen.joint_positions[None], pose), policy.prefix(images)


def test_a_session_acts_as_the_steered_torch_policy(exported):
    policy, directory = exported
    session, contract = PolicySession.load(directory), policy.contract
    for seed in (5, 6):
        seen = observation(policy, seed)
        noise = np.random.default_rng(seed).standard_normal((contract.horizon, 14), np.float32)
        found = session.infer(seen, noise)
        with torch.no_grad():
            states, prefix = inputs_of(policy, seen)
            expected = policy.to_raw(policy.act(states, prefix, torch.as_tensor(noise)[None]))[0]
            cache = policy.model.with_state(states, prefix)
            plain = policy.to_raw(sample(lambda x, time, cache=cache: policy.model.denoise(x, time, cache),
                                         torch.as_tensor(noise)[None], contract.flow_steps))[0]
        np.testing.assert_allclose(found, expected, atol=VECTOR_ATOL)
        assert np.abs(found - plain).max() > 100 * VECTOR_ATOL, 'the actor steers'


def test_the_session_that_draws_without_noise_is_the_torch_policy_from_zero(exported):
    policy, directory = exported
    seen = observation(policy)
    states, prefix = inputs_of(policy, seen)
    expected = policy.to_raw(policy.act(states, prefix, torch.zeros(1, policy.contract.horizon, 14)))[0]
    np.testing.assert_allclose(PolicySession.load(directory).infer(seen), expected, atol=VECTOR_ATOL)


@pytest.mark.parametrize('batch', [1, 2, 5])
def test_the_graph_of_an_actor_takes_any_batch_size(exported, batch):
    policy, directory = exported
    contract, actor = policy.contract, policy.model.latent_actor
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        images = None
        if contract.cameras:
            images = torch.rand(batch, 2, 3, 16, 24, generator=generator) * 2 - 1
        prefix = policy.model.prefix(policy.tokens.expand(batch, -1), images)
        noise = torch.randn(batch, contract.horizon, 14, generator=generator)
        states = torch.randn(batch, contract.state_dim, generator=generator)
        feeds = {'noise': noise.numpy(), 'state': states.numpy(), 'prefix_kv': prefix.numpy()}
        if policy.model.config.latent_actor == 'gaussian':
            expected = actor.latent(noise, states, prefix)
        else:
            cache = actor.with_state(states, prefix)
            expected = sample(lambda x, time: actor.denoise(x, time, cache), noise, contract.flow_steps)
    found = onnxruntime.InferenceSession(directory / 'latent.onnx').run(None, feeds)[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_a_changed_weight_of_an_actor_is_noticed(exported, tmp_path):
    copy = shutil.copytree(exported[1], tmp_path / 'copy')
    graph = onnx.load(copy / 'latent.onnx')
    matrices = [tensor for tensor in graph.graph.initializer
                if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT]
    for tensor in matrices:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.05, tensor.name))
    assert matrices
    onnx.save(graph, copy / 'latent.onnx')
    with pytest.raises(PolicyError, match='does not reproduce'):
        PolicySession.load(copy).verify_vectors()


def test_an_actor_that_is_missing_is_noticed(exported, tmp_path):
    copy = shutil.copytree(exported[1], tmp_path / 'copy')
    (copy / 'latent.onnx').unlink()
    with pytest.raises(PolicyError, match='does not reproduce'):
        PolicySession.load(copy).verify_vectors()


def test_an_actor_is_a_file_beside_the_graphs_of_the_frozen_policy(make_policy, exports, tmp_path):
    with_actor, steered_directory = exports('flow', 'state')
    plain, weights = make_policy(), with_actor.model.state_dict()
    plain.model.load_state_dict({name: weights[name] for name in plain.model.state_dict()})
    export(plain, tmp_path)
    names, others = ({path.name for path in directory.iterdir()} for directory in (tmp_path, steered_directory))
    assert names == {'prefix.onnx', 'denoise.onnx', 'guided.onnx', 'vectors.npz', 'contract.json', 'norm_stats.json'}
    assert others - names == {'latent.onnx'} and names - others == {'guided.onnx'}
    for name in ('prefix.onnx', 'denoise.onnx'):
        ours, theirs = (onnx.load(path / name).graph.initializer for path in (tmp_path, steered_directory))
        ours, theirs = ([numpy_helper.to_array(tensor) for tensor in held] for held in (ours, theirs))
        assert len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))


def test_an_export_over_an_earlier_one_leaves_no_actor_behind(make_policy, exports, tmp_path):
    copy = shutil.copytree(exports('gaussian', 'state')[1], tmp_path / 'copy')
    assert (copy / 'latent.onnx').exists()
    export(make_policy(), copy, guided=False)
    assert not (copy / 'latent.onnx').exists()
    assert PolicySession.load(copy).verify_vectors() <= VECTOR_ATOL
