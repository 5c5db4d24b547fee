"""Flows that were trained to go on from rows of the chunk before: loss, samplers, exported graphs."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import sizes
import torch
from test_export import cache_of, observation

from fpo_ros.policy.continued import continued_velocity, draw_decided, sample_continued
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.flow import sample, squared_error
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.realtime import Leftover, padded
from fpo_ros.runtime.export import VECTOR_ATOL, export
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession


@pytest.fixture(scope='module', params=[
    {'action_width': 20, 'units': 'pi', 'relative': True, 'observation': 'pixels'},
    {'sizes': sizes.SHARED, 'horizon': 6}], ids=['padded', 'shared'])
def policy(request, make_policy):
    return make_policy(max_delay=3, **request.param)


@pytest.fixture(scope='module')
def exported(policy, tmp_path_factory):
    directory = tmp_path_factory.mktemp('continued')
    export(policy, directory)
    return directory, PolicySession.load(directory)


def drawn(policy, count: int = 2):
    """Return chunks, noise and a cache."""
    contract, generator = policy.contract, torch.Generator().manual_seed(4)
    shape = (count, contract.horizon, contract.action_dim)
    states = torch.randn(count, contract.state_dim, generator=generator)
    images = None
    if contract.cameras:
        images = np.zeros((count, len(contract.cameras), contract.image_height, contract.image_width, 3), np.uint8)
    with torch.no_grad():
        cache = policy.model.with_state(states, policy.prefix(images))
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), cache


def first(policy, rows: int, count: int = 2):
    return (torch.arange(policy.contract.horizon) < rows).expand(count, -1)


def test_flow_times_of_single_tokens_take_no_parameter(policy):
    plain = Pi0(policy.model.config, replace(policy.contract, max_delay=0)).state_dict()
    assert {name: value.shape for name, value in policy.model.state_dict().items()} == {
        name: value.shape for name, value in plain.items()}
    chunk, _, cache = drawn(policy)
    time = torch.tensor([0.3, 0.9])
    with torch.no_grad():
        all_clean = policy.model.project(chunk, time, cache, policy.model.clean_tokens(first(policy, 99)))
        assert torch.allclose(all_clean, policy.model.project(chunk, time * 0, cache), atol=1e-6)
        none_clean = policy.model.project(chunk, time, cache, policy.model.clean_tokens(first(policy, 0)))
        assert torch.allclose(none_clean, policy.model.project(chunk, time, cache), atol=1e-6)


def test_decided_rows_have_no_error_and_the_mean_is_that_of_the_others(policy):
    chunk, noise, cache = drawn(policy)
    spt, time = policy.model.config.steps_per_token, torch.tensor([0.3, 0.9])
    with torch.no_grad():
        plain = squared_error(policy.model, chunk, noise, time, cache)
        free = squared_error(policy.model, chunk, noise, time, cache, first(policy, 0))
        assert torch.allclose(free, plain, atol=1e-6)
        error = squared_error(policy.model, chunk, noise, time, cache, first(policy, 1))
        seen = torch.cat([chunk[:, :spt], policy.model.between(chunk, noise, time)[0][:, spt:]], 1)
        velocity = policy.model.denoise(seen, time, cache, policy.model.clean_tokens(first(policy, 1)))
    assert (error[:, :spt] == 0).all(), 'a token that holds a decided row is decided as a whole'
    others = (velocity - (noise - chunk)).square()[:, spt:]
    assert torch.allclose(error.mean((1, 2)), others.mean((1, 2)), atol=1e-5)
    all_decided = squared_error(policy.model, chunk, noise, time, cache, first(policy, 99))
    assert torch.isfinite(all_decided).all() and not all_decided.any()


def test_delays_are_drawn_from_nought_to_the_largest():
    decided = draw_decided(4000, 8, 3, torch.Generator().manual_seed(0))
    count = torch.bincount(decided.sum(1))
    assert len(count) == 4 and (abs(count / 4000 - 0.25) < 0.03).all()
    assert (decided[:, :-1].int() >= decided[:, 1:].int()).all(), 'the first rows'


def test_a_chunk_begins_with_what_is_decided_and_without_it_is_as_ever(policy):
    chunk, noise, cache = drawn(policy)
    steps, spt = policy.contract.flow_steps, policy.model.config.steps_per_token
    with torch.no_grad():
        found = sample_continued(policy.model, noise, steps, cache, chunk, first(policy, 1))
        free = sample_continued(policy.model, noise, steps, cache, chunk, first(policy, 0))
        plain = sample(lambda x, time: policy.model.denoise(x, time, cache), noise, steps)
    assert torch.allclose(found[:, :spt], chunk[:, :spt], atol=1e-5)
    assert torch.allclose(free, plain, atol=1e-5) and not torch.allclose(found[:, spt:], plain[:, spt:], atol=1e-3)


def test_the_velocity_of_decided_rows_leads_straight_to_them(policy):
    chunk, noise, cache = drawn(policy)
    time = torch.tensor([0.5, 0.25])
    with torch.no_grad():
        velocity = continued_velocity(policy.model, noise, time, cache, chunk, first(policy, 1).float())
    spt = policy.model.config.steps_per_token
    assert torch.allclose((noise - time[:, None, None] * velocity)[:, :spt], chunk[:, :spt], atol=1e-5)


@pytest.mark.parametrize(('count', 'delay'), [(3, 1), (1, 0), (2, 3)])
def test_a_session_goes_on_as_torch_does(policy, exported, count, delay):
    _, session = exported
    contract, seen = policy.contract, observation(policy, 5)
    rows = np.random.default_rng(3).uniform(0.2, 0.6, (count, 14)).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((contract.horizon, contract.action_dim)).astype(np.float32)
    joints, cache = cache_of(policy, seen)
    with torch.no_grad():
        known = policy.known_chunks(padded(rows, contract.horizon)[None], joints)
        chunk = sample_continued(policy.model, torch.as_tensor(noise)[None], contract.flow_steps, cache, known,
                                 first(policy, min(count, delay), 1))
    found = session.infer(seen, noise, leftover=Leftover(rows, delay))
    np.testing.assert_allclose(found, policy.to_raw(chunk, joints)[0], atol=VECTOR_ATOL)
    np.testing.assert_allclose(found[:min(count, delay)], rows[:delay], atol=VECTOR_ATOL)


def test_rows_behind_the_leftover_are_drawn_although_they_share_a_token_with_its_last_one(policy, exported):
    """Invented ones, such as copies of that last row, would stop the arms for as long."""
    _, session = exported
    contract, seen, spt = policy.contract, observation(policy, 5), policy.model.config.steps_per_token
    rows = np.random.default_rng(3).uniform(0.2, 0.6, (3, 14)).astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((contract.horizon, contract.action_dim)).astype(np.float32)
    joints, cache = cache_of(policy, seen)
    whole = 3 // spt * spt
    with torch.no_grad():
        known = policy.known_chunks(padded(rows, contract.horizon)[None], joints)
        chunk = sample_continued(policy.model, torch.as_tensor(noise)[None], contract.flow_steps, cache, known,
                                 first(policy, whole, 1))
    found = session.infer(seen, noise, leftover=Leftover(rows, 3))
    np.testing.assert_allclose(found, policy.to_raw(chunk, joints)[0], atol=VECTOR_ATOL)
    assert np.abs(found[3] - rows[2]).max() > 0.01


def test_a_delay_longer_than_was_learned_is_refused(policy, exported):
    _, session = exported
    assert session.objection(policy.contract.cameras, 3) == ''
    assert session.objection(policy.contract.cameras, 4).endswith(
        'was trained to go on over 3 control periods at most, and chunks take 4')
    with pytest.raises(PolicyError, match='3 control periods at most, and chunks take 4: give no leftover'):
        session.infer(observation(policy, 5), leftover=Leftover(np.zeros((5, 14), np.float32), 4))


@pytest.mark.parametrize('noted', [None, '0', '4', 'two'])
def test_a_graph_that_does_not_say_how_many_rows_share_a_token_is_refused(policy, exported, tmp_path, noted):
    copy = shutil.copytree(exported[0], tmp_path / 'copy')
    model = onnx.load(copy / 'continued.onnx', load_external_data=False)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes.pop('steps_per_token') == str(policy.model.config.steps_per_token)
    onnx.helper.set_model_props(model, notes | ({} if noted is None else {'steps_per_token': noted}))
    onnx.save(model, copy / 'continued.onnx')
    with pytest.raises(PolicyError, match=r'continued\.onnx: notes .* rows per token.*: export the policy again'):
        PolicySession.load(copy)


def test_vectors_show_a_flow_that_goes_on_wrongly(policy, exported, tmp_path):
    directory, _ = exported
    assert 'continued.onnx' in {path.name for path in directory.iterdir()} and not (directory / 'guided.onnx').exists()
    (tmp_path / 'other').mkdir()
    with torch.no_grad():
        policy.model.action_out_proj.bias += 1.0
        try:
            export(policy, tmp_path / 'other')
        finally:
            policy.model.action_out_proj.bias -= 1.0
    copy = shutil.copytree(directory, tmp_path / 'copy')
    shutil.copy(tmp_path / 'other' / 'continued.onnx', copy / 'continued.onnx')
    with pytest.raises(PolicyError, match=r'\(guided\) does not reproduce'):
        PolicySession.load(copy).verify_vectors()


@pytest.mark.parametrize('value', [-1, 20, 25])
def test_a_delay_that_leaves_no_row_is_refused(value):
    with pytest.raises(ContractError, match='max_delay must leave a row'):
        PolicyContract(max_delay=value)


def test_a_contract_without_one_reads_as_before():
    assert 'max_delay' not in PolicyContract().to_json()
    assert PolicyContract.from_dict(PolicyContract(max_delay=4).to_dict()) == PolicyContract(max_delay=4)
