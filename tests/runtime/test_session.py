"""Inference of exported graphs: exact arithmetic, test vectors, refusals."""

from __future__ import annotations

import json
import os
import re
import tempfile

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from fpo_ros.policy.contract import ContractError, Observation, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.tokenizer import tokenize
from fpo_ros.releases import Release, ReleaseStore, generate_keypair, load_release, load_trusted_keys
from fpo_ros.runtime import graphs, providers
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.release_files import external_files
from fpo_ros.runtime.session import PolicySession


def test_constant_velocity_moves_noise_by_minus_the_velocity(tmp_path, make_release, observation):
    session = PolicySession.load(make_release(tmp_path, bias=0.25))
    noise = np.full((4, 14), 2.0)
    chunk = session.infer(observation, noise)
    assert chunk.dtype == np.float32
    np.testing.assert_allclose(chunk, 1.75, atol=1e-6)


def test_linear_velocity_integrates_to_the_euler_power(tmp_path, make_release, observation):
    # x <- x - x/10, ten times: 0.9^10
    chunk = PolicySession.load(make_release(tmp_path, gain=1.0)).infer(observation, np.ones((4, 14)))
    np.testing.assert_allclose(chunk, 0.9 ** 10, rtol=1e-5)


def test_time_runs_from_one_down_to_one_step_above_zero(tmp_path, make_release, observation):
    # sum over k of (1 - k/10)/10 = 0.55
    chunk = PolicySession.load(make_release(tmp_path, time_gain=1.0)).infer(observation, np.zeros((4, 14)))
    np.testing.assert_allclose(chunk, -0.55, atol=1e-6)


def test_state_is_normalised_and_actions_are_unnormalised(tmp_path, make_release, observation):
    contract = PolicyContract(horizon=4, execute=3)
    stats = NormStats(np.full(21, 0.5), np.full(21, 2.0), np.arange(14.0), np.full(14, 3.0))
    session = PolicySession.load(make_release(tmp_path, contract, stats=stats, state_gain=1.0))
    chunk = session.infer(observation)
    expected = -(np.arange(14) * 0.1 - 0.5) / 2.0 * 3.0 + np.arange(14)
    np.testing.assert_allclose(chunk, np.tile(expected, (4, 1)), atol=1e-5)


def test_prompt_reaches_the_prefix(tmp_path, make_release, observation):
    contract = PolicyContract(horizon=4, execute=3, prompt='Ab')
    session = PolicySession.load(make_release(tmp_path, contract, prefix_gain=0.01))
    expected = -0.01 * (1 + 3 + 65 + 3 + 98 + 2) / 4
    for _ in range(2):  # the second comes from the cached prefix
        np.testing.assert_allclose(session.infer(observation), expected, atol=1e-6)
    assert tokenize('Ab').tolist() == [1, 68, 101, 2]


def test_images_reach_the_prefix_in_minus_one_to_one_and_are_not_cached(tmp_path, make_release):
    contract = PolicyContract(observation='pixels', cameras=('cam_high',), image_height=8, image_width=8,
                              horizon=4, execute=3, prompt='Ab')
    session = PolicySession.load(make_release(tmp_path, contract, prefix_gain=0.01))
    for level, scaled in ((0, -1.0), (255, 1.0)):
        frame = np.full((8, 8, 3), level, np.uint8)
        chunk = session.infer(Observation(np.zeros(14), {'cam_high': frame}))
        np.testing.assert_allclose(chunk, -0.01 * (172 / 4 + scaled), atol=1e-6)
    with pytest.raises(ContractError, match='lacks camera cam_high'):
        session.infer(Observation(np.zeros(14)))


def test_noise_comes_from_the_generator_or_is_zero(tmp_path, make_release, observation):
    session = PolicySession.load(make_release(tmp_path))
    np.testing.assert_array_equal(session.infer(observation), 0)
    expected = np.random.default_rng(3).standard_normal((4, 14)).astype(np.float32)
    np.testing.assert_array_equal(session.infer(observation, rng=np.random.default_rng(3)), expected)
    given = np.ones((4, 14))
    session.infer(observation, given)
    assert (given == 1).all(), 'the given noise was changed'
    with pytest.raises(PolicyError, match='noise has shape'):
        session.infer(observation, np.zeros((3, 14)))


@pytest.mark.parametrize('cameras', [(), ('cam_high', 'cam_low')])
def test_vectors_reproduce(tmp_path, make_release, cameras):
    contract = PolicyContract(observation='pixels' if cameras else 'state', cameras=cameras, image_height=8,
                              image_width=6, horizon=5, execute=5)
    session = PolicySession.load(make_release(
        tmp_path, contract, gain=0.3, bias=0.1, time_gain=0.2, state_gain=0.4, prefix_gain=0.01))
    assert session.verify_vectors() < 1e-5


def test_one_row_of_tokens_serves_all_vectors(tmp_path, make_release):
    path = make_release(tmp_path, prefix_gain=0.01)
    _rewrite_vectors(path, tokens=tokenize('Transfer cube'))
    assert PolicySession.load(path).verify_vectors() < 1e-5


def test_differing_vectors_are_refused_with_the_place(tmp_path, make_release):
    session = PolicySession.load(make_release(tmp_path, gain=0.3, shift=0.001))
    with pytest.raises(PolicyError, match=r'vector 0 of 2 does not reproduce on cpu: row \d, column \d+ is'):
        session.verify_vectors()


def _rewrite_vectors(path, **changes):
    with np.load(path / 'vectors.npz') as archive:
        vectors = dict(archive) | changes
    np.savez(path / 'vectors.npz', **{name: value for name, value in vectors.items() if value is not None})


@pytest.mark.parametrize('changes, message', [
    ({'atol': np.float64(10.0)}, 'atol must lie in'),
    ({'atol': np.float64(np.nan)}, 'atol must lie in'),
    ({'noise': None}, r"lacks \['noise'\]"),
    ({'state': np.zeros((2, 5), np.float32)}, r'state has shape \(2, 5\)'),
    ({'chunk': np.zeros((0, 4, 14), np.float32)}, 'no test vector'),
    ({'chunk': np.full((2, 4, 14), np.nan, np.float32)}, 'not finite'),
    ({'tokens': np.zeros((3, 2), np.int64)}, 'tokens has shape'),
    ({'tokens': tokenize('Other prompt')}, "not those of the prompt 'Transfer cube'"),
    ({'chunk': np.array([[object()]])}, 'cannot read the test vectors'),
])
def test_unfit_vectors_are_refused(tmp_path, make_release, changes, message):
    path = make_release(tmp_path)
    _rewrite_vectors(path, **changes)
    with pytest.raises(PolicyError, match=message):
        PolicySession.load(path).verify_vectors()


def test_a_chunk_that_is_not_finite_is_refused(tmp_path, make_release, observation):
    session = PolicySession.load(make_release(tmp_path, bias=float('nan')))
    with pytest.raises(PolicyError, match='not finite: row 0, left_waist is nan'):
        session.infer(observation)
    with pytest.raises(PolicyError, match='does not reproduce|not finite'):
        session.verify_vectors()


def test_an_observation_that_is_not_finite_is_refused(tmp_path, make_release, observation):
    joints = observation.joint_positions.copy()
    joints[3] = np.nan
    with pytest.raises(ContractError, match='joints are not finite'):
        PolicySession.load(make_release(tmp_path)).infer(
            Observation(joints, object_pose=observation.object_pose))


@pytest.mark.parametrize('name', ['contract.json', 'norm_stats.json', 'prefix.onnx', 'denoise.onnx'])
@pytest.mark.parametrize('damage', ['missing', 'truncated', 'foreign'])
def test_a_damaged_file_is_named(tmp_path, make_release, name, damage):
    path = make_release(tmp_path)
    file = path / name
    if damage == 'missing':
        file.unlink()
    elif damage == 'truncated':
        file.write_bytes(file.read_bytes()[:len(file.read_bytes()) // 2])
    else:
        file.write_bytes(b'\xff\xfe not what you expect')
    with pytest.raises(PolicyError, match=re.escape(name)):
        PolicySession.load(path)


def test_graphs_that_do_not_fit_the_contract_are_refused(tmp_path, make_release):
    path = make_release(tmp_path)
    contract = json.loads((path / 'contract.json').read_text())
    (path / 'contract.json').write_text(json.dumps(contract | {'horizon': 7}))
    with pytest.raises(PolicyError, match=r'denoise.onnx: x_t has shape \[4, 14\] per sample.*\[7, 14\]'):
        PolicySession.load(path)
    pixels = {'observation': 'pixels', 'cameras': ['cam_high']}
    (path / 'contract.json').write_text(json.dumps(contract | pixels))
    with pytest.raises(PolicyError, match='norm_stats.json.*state_mean'):
        PolicySession.load(path)


def test_large_weights_may_lie_beside_a_graph(tmp_path, make_release, observation):
    path = make_release(tmp_path, bias=0.5)
    model = onnx.load(path / 'denoise.onnx')
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == 'bias')
    onnx.external_data_helper.set_external_data(weight, location='denoise.weights')
    onnx.save(model, path / 'denoise.onnx')
    assert (path / 'denoise.weights').stat().st_size > 0
    session = PolicySession.load(path)
    np.testing.assert_allclose(session.infer(observation), -0.5, atol=1e-6)


@pytest.fixture
def signed(tmp_path, make_release, small_contract):
    """Return a function that signs a policy whose bias lies in a file of its own, and opens it verified."""
    keys = generate_keypair(tmp_path / 'keys')

    def make(bias=0.5, location='denoise.weights', beside=True, pad=0) -> Release:
        staging = make_release(tmp_path / 'staging', small_contract, bias=bias)
        (staging / 'contract.json').unlink()
        model = onnx.load(staging / 'denoise.onnx')
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == 'bias')
        data = np.tile(np.float32(bias), (4, 14)) if pad else numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(data, 'bias'))
        weight.ClearField('raw_data')
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (('location', location), ('offset', str(pad)), ('length', str(data.nbytes))):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
        (staging / 'denoise.onnx').write_bytes(model.SerializeToString())
        if beside:
            (staging / 'denoise.weights').write_bytes(bytes(pad) + data.tobytes())
        published = ReleaseStore(tmp_path / 'store').publish(
            staging, contract=small_contract, metrics={}, parent=None, private_key=keys.private_path,
            created='2026-01-01T00:00:00Z')
        return load_release(published.path, load_trusted_keys(keys.public_path))
    return make


def test_releases_bring_their_identity(tmp_path, signed):
    release = signed()
    session = PolicySession.load(release)
    assert (session.version, session.manifest_sha256) == ('v000001', release.manifest_sha256)
    assert PolicySession.load(str(release.path)).manifest_sha256 == ''


def test_weights_beside_the_graph_of_a_signed_release_are_verified_bytes(signed, observation):
    release = signed(bias=0.5)
    assert PolicySession.load(release).infer(observation).max() == pytest.approx(-0.5)
    weights = release.path / 'denoise.weights'
    weights.write_bytes(np.float32(9.0).tobytes())
    assert PolicySession.load(release.path).infer(observation).max() == pytest.approx(-9.0), 'unverified as told'
    with pytest.raises(PolicyError, match='denoise.weights does not have the digest in the manifest'):
        PolicySession.load(release)


@pytest.mark.parametrize('pad', [0, 1 << 23])
def test_weights_changed_after_loading_have_no_effect(signed, observation, pad):
    """onnxruntime maps large weights, and a map shows what is written to the file later."""
    release = signed(bias=0.5, pad=pad)
    weights = release.path / 'denoise.weights'
    verified, plain = PolicySession.load(release), PolicySession.load(release.path)
    with open(weights, 'r+b') as file:
        file.seek(pad)
        file.write(np.tile(np.float32(9.0), weights.stat().st_size - pad >> 2).tobytes())
    np.testing.assert_allclose(verified.infer(observation), -0.5, atol=1e-6)
    assert plain.infer(observation).shape == (4, 14)


def test_large_weights_of_a_signed_release_work_and_leave_no_copies(tmp_path, signed, observation, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'private'))
    (tmp_path / 'private').mkdir()
    seen = []
    real = providers.open_graph
    monkeypatch.setattr(graphs, 'open_graph', lambda file, *rest, **options: (
        seen.append((file.parent, os.stat(file.parent).st_mode & 0o777)), real(file, *rest, **options))[1])
    session = PolicySession.load(signed(bias=0.5, pad=1 << 24))
    np.testing.assert_allclose(session.infer(observation), -0.5, atol=1e-6)
    (_, (private, mode)) = seen
    assert private.parent == tmp_path / 'private' and mode == 0o700
    assert list((tmp_path / 'private').iterdir()) == []


@pytest.mark.parametrize('location', ['../staging/denoise.weights', '/etc/hostname', 'other.weights', 'x' * 300])
def test_weights_that_were_not_signed_are_refused(signed, location):
    release = signed(location=location)
    with pytest.raises(PolicyError, match=f'its weights lie in {location!r}, which is no file of the signed release'):
        PolicySession.load(release)


def test_graphs_that_find_no_room_for_a_private_copy_are_refused(tmp_path, signed, monkeypatch):
    release = signed()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'missing'))
    with pytest.raises(PolicyError, match='prefix.onnx cannot be copied: .*missing: No such file.*TMPDIR'):
        PolicySession.load(release)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(PolicyError, match='nowhere: no such release directory'):
        PolicySession.load(tmp_path / 'nowhere')


def test_providers(tmp_path, make_release, observation, monkeypatch):
    path = make_release(tmp_path, bias=1.0)
    with pytest.raises(PolicyError, match="unknown provider 'gpu': use auto, tensorrt, cuda, cpu"):
        PolicySession.load(path, 'gpu')
    with pytest.raises(PolicyError, match='threads must be at least 1'):
        PolicySession.load(path, threads=0)
    session = PolicySession.load(path, 'auto')
    np.testing.assert_allclose(session.infer(observation), -1.0, atol=1e-6)
    assert session.provider in ('cpu', 'cuda', 'tensorrt')
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CPUExecutionProvider'])
    for absent in ('cuda', 'tensorrt'):
        with pytest.raises(PolicyError, match=f"provider '{absent}' is not in this .*extra 'gpu'"):
            PolicySession.load(path, absent)
    assert PolicySession.load(path, 'auto').provider == 'cpu'


@pytest.mark.filterwarnings('ignore:Specified provider')
@pytest.mark.skipif('CUDAExecutionProvider' in onnxruntime.get_available_providers(),
                    reason='this onnxruntime has CUDA')
def test_a_listed_provider_that_cannot_start_is_refused_not_replaced(tmp_path, make_release, monkeypatch):
    """onnxruntime falls back to the CPU silently when the driver is missing."""
    monkeypatch.setattr(onnxruntime, 'get_available_providers',
                        lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider'])
    with pytest.raises(PolicyError, match="provider 'cuda' could not start|cannot open the graph"):
        PolicySession.load(make_release(tmp_path), 'cuda')
    assert PolicySession.load(tmp_path, 'auto').provider == 'cpu'


@pytest.mark.parametrize('place', [0, (1 << 20) - 12, (1 << 20) - 5, 1 << 20, (1 << 20) + 1])
def test_names_of_weights_are_found_wherever_they_stand_in_a_graph(place):
    entry = onnx.StringStringEntryProto(key='location', value='w' * 200).SerializeToString()
    assert external_files(bytes(place) + entry + bytes(100)) == ['w' * 200]
