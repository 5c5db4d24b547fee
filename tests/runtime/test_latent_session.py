"""Exported policies with an actor over their start noise: its graph runs before the flow, and is as signed."""

from __future__ import annotations

import numpy as np
import pytest
from release_shop import offered, value
from tiny_releases import write_latent, write_velocity

from fpo_ros.policy.contract import Observation, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.releases import ReleaseError, load_release
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.session import PolicySession


@pytest.fixture
def with_latent(tmp_path, make_release, small_contract):
    """Return a function that writes a policy of constant velocity with an actor's graph beside it."""
    def make(write=write_velocity, velocity: float = 0.25, contract: PolicyContract = small_contract, stats=None,
             **gains: float):
        path = make_release(tmp_path / 'policy', contract, stats=stats, bias=velocity)
        write(path / 'latent.onnx', contract, **gains)
        return path
    return make


def test_a_flow_over_latents_is_integrated_before_the_flow_of_chunks(with_latent, observation):
    noise = np.random.default_rng(0).standard_normal((4, 14))
    # The other way round it would be 0.9^10 (noise - 0.25).
    chunk = PolicySession.load(with_latent(gain=1.0)).infer(observation, noise)
    np.testing.assert_allclose(chunk, 0.9 ** 10 * noise - 0.25, atol=1e-6)


def test_times_of_a_flow_over_latents_run_from_one_down(with_latent, observation):
    chunk = PolicySession.load(with_latent(time_gain=1.0)).infer(observation, np.zeros((4, 14)))
    np.testing.assert_allclose(chunk, -0.55 - 0.25, atol=1e-6)


def test_an_actor_that_is_no_flow_is_called_once(with_latent, observation):
    noise = np.random.default_rng(0).standard_normal((4, 14))
    chunk = PolicySession.load(with_latent(write_latent, gain=2.0, bias=3.0)).infer(observation, noise)
    np.testing.assert_allclose(chunk, np.tile(2 * noise[0] + 3 - 0.25, (4, 1)), atol=1e-6)


@pytest.mark.parametrize(('write', 'sign'), [(write_velocity, -1), (write_latent, 1)])
def test_actors_see_the_normalised_state_and_the_prefix(with_latent, write, sign):
    contract = PolicyContract(horizon=4, execute=3, prompt='Ab')
    stats = NormStats(np.full(21, 0.5), np.full(21, 2.0), np.zeros(14), np.ones(14))
    path = with_latent(write, 0.0, contract, stats, state_gain=1.0, prefix_gain=0.01)
    chunk = PolicySession.load(path).infer(Observation(np.full(14, 0.9), object_pose=np.zeros(7)))
    np.testing.assert_allclose(chunk, sign * (0.2 + 0.01 * 172 / 4), atol=1e-6)


@pytest.mark.parametrize('write', [write_velocity, write_latent])
def test_given_noise_is_left_alone_and_calls_repeat(with_latent, observation, write):
    session, noise = PolicySession.load(with_latent(write, gain=0.5)), np.ones((4, 14), np.float32)
    first = session.infer(observation, noise)
    assert (noise == 1).all() and np.array_equal(session.infer(observation, noise), first)


def test_test_vectors_cover_the_actor(with_latent, small_contract):
    # Without a velocity the latent is the noise, as the vectors of a policy without an actor have it.
    path = with_latent(bias=0.0)
    assert PolicySession.load(path).verify_vectors() < 1e-5
    for write in (write_velocity, write_latent):
        write(path / 'latent.onnx', small_contract, bias=0.1)
        with pytest.raises(PolicyError, match='does not reproduce'):
            PolicySession.load(path).verify_vectors()


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda path, contract: path.write_bytes(b'no graph'), 'onnxruntime cannot open the graph'),
    (lambda path, contract: path.write_bytes((path.with_name('prefix.onnx')).read_bytes()),
     r"inputs are \['tokens'\], the contract wants \['prefix_kv', 'state', 'time', 'x_t'\]"),
    (lambda path, contract: write_latent(path, PolicyContract(horizon=6, execute=3)),
     r'noise has shape \[6, 14\] per sample, the contract wants \[4, 14\]'),
    (lambda path, contract: write_velocity(path, PolicyContract(horizon=6, execute=3)),
     r'x_t has shape \[6, 14\] per sample'),
    (lambda path, contract: write_latent(path, PolicyContract('insertion', horizon=4, execute=3)),
     r'state has shape \[28\] per sample, the contract wants \[21\]')])
def test_a_graph_of_an_actor_that_does_not_fit_is_refused(with_latent, small_contract, damage, message):
    path = with_latent()
    damage(path / 'latent.onnx', small_contract)
    with pytest.raises(PolicyError, match=f'latent.onnx: {message}'):
        PolicySession.load(path)


def test_a_link_that_leads_nowhere_is_not_taken_for_a_policy_without_an_actor(with_latent):
    path = with_latent()
    (path / 'latent.onnx').unlink()
    (path / 'latent.onnx').symlink_to(path / 'nowhere')
    with pytest.raises(PolicyError, match='latent.onnx: cannot be read'):
        PolicySession.load(path)


@pytest.fixture
def published(shop, make_release, small_contract):
    """A signed, promoted release whose latent is the noise minus 0.5, and the chunk minus another 0.25."""
    def make(path, contract, bias, **options):
        made = make_release(path, contract, bias=bias + 0.5)
        vectors = (made / 'vectors.npz').read_bytes()
        make_release(made, contract, bias=bias)
        (made / 'vectors.npz').write_bytes(vectors)
        write_velocity(made / 'latent.onnx', contract, bias=0.5)
        return made
    shop._make = make
    return shop.publish(0.25)


def test_a_release_carries_the_actor_to_the_cell(shop, slot, published, observation):
    assert 'latent.onnx' in published.manifest.files
    offered(slot, published)
    assert slot.at_chunk_edge(), slot.last_refusal
    assert value(slot, observation) == -0.75


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda file: file.unlink(), 'latent.onnx is missing: copy the release again'),
    (lambda file: file.write_bytes(file.read_bytes()[:-1] + b'x'), 'latent.onnx does not have the digest')])
def test_an_actor_that_was_lost_or_changed_after_signing_is_refused(shop, published, damage, message):
    opened = load_release(published.path, shop.trusted)
    damage(published.path / 'latent.onnx')
    with pytest.raises(PolicyError, match=message):
        PolicySession.load(opened)
    with pytest.raises(ReleaseError, match=message):
        load_release(published.path, shop.trusted)


def test_an_actor_that_was_not_signed_is_refused(shop, small_contract, observation):
    release = shop.publish(0.25)
    write_velocity(release.path / 'latent.onnx', small_contract, bias=0.5)
    assert value(PolicySession.load(release), observation) == -0.25, 'only signed files count'
    with pytest.raises(ReleaseError, match='latent.onnx is not in the manifest'):
        load_release(release.path, shop.trusted)
