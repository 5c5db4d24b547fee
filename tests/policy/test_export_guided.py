"""Exported policies whose chunks go on from what is left of the one before."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import sizes
import torch
from test_export import cache_of, observation

from fpo_ros.policy.guided import sample_guided
from fpo_ros.policy.realtime import Leftover, entry_mask, padded
from fpo_ros.runtime.export import VECTOR_ATOL, export
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession


@pytest.fixture(scope='module', params=[
    {'action_width': 20, 'units': 'pi', 'relative': True}, {'observation': 'pixels'},
    {'sizes': sizes.SHARED, 'horizon': 6}], ids=['padded and relative', 'pixels', 'shared'])
def exported(request, make_policy, tmp_path_factory):
    policy = make_policy(**request.param)
    directory = tmp_path_factory.mktemp('guided')
    export(policy, directory)
    return policy, directory, PolicySession.load(directory)


@pytest.fixture(scope='module')
def plain(make_policy, tmp_path_factory):
    policy, directory = make_policy(), tmp_path_factory.mktemp('plain')
    export(policy, directory)
    return policy, directory


def old_rows(policy, count: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(0.2, 0.6, (count, 14)).astype(np.float32)


@pytest.mark.parametrize(('count', 'delay'), [(3, 1), (4, 4), (1, 0), (2, 9)])
def test_a_session_goes_on_as_torch_does(exported, count, delay):
    policy, _, session = exported
    contract, seen, rows = policy.contract, observation(policy, 5), old_rows(policy, count)
    noise = np.random.default_rng(1).standard_normal((contract.horizon, contract.action_dim)).astype(np.float32)
    joints, cache = cache_of(policy, seen)
    decided = policy.known_chunks(padded(rows, contract.horizon)[None], joints)
    mask = torch.as_tensor(entry_mask(count, delay, contract.horizon, contract.action_dim))[None]
    drawn = sample_guided(lambda x, time: policy.model.denoise(x, time, cache), torch.as_tensor(noise)[None],
                          contract.flow_steps, decided, mask)
    found = session.infer(seen, noise, leftover=Leftover(rows, delay))
    np.testing.assert_allclose(found, policy.to_raw(drawn, joints)[0], atol=VECTOR_ATOL)


def test_a_chunk_that_goes_on_lies_nearer_to_what_was_left(exported):
    policy, _, session = exported
    seen, rows = observation(policy, 5), old_rows(policy, 3)
    free, guided = (session.infer(seen, leftover=left) for left in (None, Leftover(rows, 2)))
    assert np.abs(guided[:2] - rows[:2]).mean() < np.abs(free[:2] - rows[:2]).mean()


def test_with_nothing_left_the_flow_is_free(exported):
    policy, _, session = exported
    seen = observation(policy, 5)
    assert np.array_equal(session.infer(seen, leftover=Leftover(np.empty((0, 14)), 2)), session.infer(seen))


def test_vectors_show_a_guided_step_that_is_damaged(plain, tmp_path):
    policy, directory = plain
    other = tmp_path / 'other'
    other.mkdir()
    with torch.no_grad():
        policy.model.action_out_proj.bias += 1.0
        try:
            export(policy, other)
        finally:
            policy.model.action_out_proj.bias -= 1.0
    copy = shutil.copytree(directory, tmp_path / 'copy')
    shutil.copy(other / 'guided.onnx', copy / 'guided.onnx')
    with pytest.raises(PolicyError, match=r'\(guided\) does not reproduce'):
        PolicySession.load(copy).verify_vectors()


def test_a_release_without_a_guided_step_serves_but_cannot_go_on(plain, tmp_path):
    policy, directory = plain
    copy = shutil.copytree(directory, tmp_path / 'copy')
    (copy / 'guided.onnx').unlink()
    session = PolicySession.load(copy)
    assert not session.goes_on and session.verify_vectors() < VECTOR_ATOL
    with pytest.raises(PolicyError, match='cannot go on from the one before; export the policy again'):
        session.infer(observation(policy, 5), leftover=Leftover(old_rows(policy, 2), 1))


@pytest.mark.parametrize(('name', 'value', 'match'), [
    ('guided', None, "lacks \\['guided'\\]"), ('delay', None, "lacks \\['delay'\\]"),
    ('leftover', np.zeros((4, 3, 13)), 'leftover has shape'),
    ('guided', np.full((4, 5, 14), np.nan), 'guided is not finite')])
def test_unfit_guided_vectors_are_refused(plain, tmp_path, name, value, match):
    copy = shutil.copytree(plain[1], tmp_path / 'copy')
    with np.load(copy / 'vectors.npz') as vectors:
        parts = dict(vectors)
    parts |= {name: value}
    np.savez(copy / 'vectors.npz', **{key: part for key, part in parts.items() if part is not None})
    with pytest.raises(PolicyError, match=match):
        PolicySession.load(copy).verify_vectors()
