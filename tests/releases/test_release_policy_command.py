"""``fpo-ros releases publish``: from a trained policy and its evaluation to a release that a robot runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from kept_exports import keeping
from policy.conftest import TINY, tiny_policy
from release_data import evaluation
from test_release_commands import call

from fpo_ros.policy.contract import Observation
from fpo_ros.releases import PromotionRefused, ReleaseError, ReleaseStore, load_trusted_keys
from fpo_ros.runtime import export
from fpo_ros.runtime.admission import PromotedOnly
from fpo_ros.runtime.swap import PolicySlot

WAIT_S = 60


@pytest.fixture(scope='module', autouse=True)
def kept_exports(tmp_path_factory):
    """Export every policy once, without the guided step: exports have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, 'write', keeping(tmp_path_factory.mktemp('exports')))
        yield


@pytest.fixture(scope='module')
def policy_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp('policy')
    tiny_policy().save(directory)
    return directory


@pytest.fixture
def evaluated(tmp_path):
    """The file into which "fpo-ros eval --json" was redirected."""
    path = tmp_path / 'eval.json'
    path.write_text(json.dumps({'task': 'transfer_cube', **evaluation(120)['evaluation'], 'wall_s': 3.0}) + '\n')
    return path


@pytest.fixture
def publish(tmp_path, policy_dir, evaluated, keys):
    """Return a function that calls the command."""
    def publishing(*arguments: object, key=keys.private_path, code: int = 0, evaluation=evaluated) -> str:
        return call('publish', tmp_path / 'store', '--policy', policy_dir, '--evaluation', evaluation, '--key', key,
                    *arguments, code=code)
    return publishing


def test_a_trained_policy_becomes_a_release_that_a_slot_serves(tmp_path, publish, keys):
    made = json.loads(publish('--json'))
    assert (made['version'], made['parent'], made['key_id']) == ('v000001', None, keys.key_id)
    assert 0 <= made['onnx_max_abs_difference'] <= 1e-4
    text = call('promote', tmp_path / 'store', 'v000001', '--trusted', keys.public_path)
    assert 'v000001 serves' in text
    release = ReleaseStore(tmp_path / 'store').load('v000001', load_trusted_keys(keys.public_path))
    assert release.metrics['evaluation']['wall_s'] == 3.0 and release.manifest_sha256 == made['manifest_sha256']
    slot = PolicySlot(release.contract, load_trusted_keys(keys.public_path), admit=PromotedOnly(tmp_path / 'store'))
    slot.offer(release.path, made['manifest_sha256'], 'v000001')
    assert slot.wait(WAIT_S) and slot.at_chunk_edge(), slot.last_refusal
    assert slot.infer(Observation(np.zeros(14), object_pose=np.zeros(7))).shape == (5, 14)
    assert slot.close(WAIT_S)


def test_a_release_carries_the_actor_over_the_start_noise(tmp_path, evaluated, keys):
    policy = tiny_policy(sizes=replace(TINY, latent_actor='gaussian'))
    with torch.no_grad():
        policy.model.latent_actor.net[-1].bias.fill_(0.5)
    (tmp_path / 'steered').mkdir()
    policy.save(tmp_path / 'steered')
    call('publish', tmp_path / 'store', '--policy', tmp_path / 'steered', '--evaluation', evaluated, '--key',
         keys.private_path)
    trusted = load_trusted_keys(keys.public_path)
    release = ReleaseStore(tmp_path / 'store').load('v000001', trusted)
    assert 'latent.onnx' in release.manifest.files
    slot = PolicySlot(release.contract, trusted, admit=None)
    slot.offer(release.path)
    assert slot.wait(WAIT_S) and slot.at_chunk_edge(), slot.last_refusal
    noise = torch.randn(1, 5, 14, generator=torch.Generator().manual_seed(0))
    chunk = slot.infer(Observation(np.zeros(14), object_pose=np.zeros(7)), noise[0].numpy())
    states = policy.states(np.zeros((1, 14)), np.zeros((1, 7)))
    np.testing.assert_allclose(chunk, policy.to_raw(policy.act(states, policy.prefix(None), noise))[0], atol=1e-4)
    assert slot.close(WAIT_S)


def test_the_parent_is_what_serves_unless_named(tmp_path, publish, keys):
    assert 'v000001: published, signed by ' in publish()
    assert json.loads(publish('--json'))['parent'] is None
    call('promote', tmp_path / 'store', 'v000001', '--trusted', keys.public_path)
    assert json.loads(publish('--json'))['parent'] == 'v000001'
    assert json.loads(publish('--parent', 'v000002', '--json'))['parent'] == 'v000002'
    with pytest.raises(ReleaseError, match="parent 'v2' is not a version"):
        publish('--parent', 'v2')


def test_the_printed_command_promotes(tmp_path, publish):
    command = publish().splitlines()[-1].removeprefix('it serves after: fpo-ros releases ').split()
    assert 'v000001 serves' in call(*command)


@pytest.mark.parametrize(('content', 'reason'), [
    ('', 'is not the JSON object that "fpo-ros eval --json" prints'),
    ('[' * 100_000, 'is not the JSON object'),
    ('[]', 'carries no evaluation'),
    ('{"successes": 3}', 'carries no evaluation'),
    (json.dumps(evaluation(50)['evaluation'] | {'successes': 150}), 'states the interval'),
    (json.dumps(evaluation(50)['evaluation'] | {'task': 'other'}), 'the evaluation is of task other, .* does transfer'),
    (json.dumps(evaluation(50)['evaluation'] | {'policy_sha256': '0' * 64}), 'the evaluation is of another policy'),
])
def test_what_is_no_evaluation_of_this_policy_is_not_published(tmp_path, publish, evaluated, content, reason):
    evaluated.write_text(content)
    with pytest.raises(ReleaseError, match=reason):
        publish()
    with pytest.raises(ReleaseError, match='nowhere.json: No such file'):
        publish(evaluation=tmp_path / 'nowhere.json')
    assert not (tmp_path / 'store').exists()


def test_a_key_or_a_policy_that_cannot_be_used_is_named(tmp_path, publish, policy_dir, evaluated, keys):
    with pytest.raises(ReleaseError, match='nothing.key: No such file'):
        publish(key=tmp_path / 'nothing.key')
    with pytest.raises(ReleaseError, match='is not a PEM private key'):
        keys.public_path.chmod(0o600)
        publish(key=keys.public_path)
    result = subprocess.run(
        [sys.executable, '-m', 'fpo_ros.cli', 'releases', 'publish', str(tmp_path / 'store'), '--policy',
         str(tmp_path / 'nowhere'), '--evaluation', str(evaluated), '--key', str(keys.private_path)],
        capture_output=True, text=True, timeout=100, check=False,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))})
    assert result.returncode == 1 and result.stderr.count('\n') == 1
    assert 'nowhere/policy.json does not exist' in result.stderr
    assert not (tmp_path / 'store').exists()


def test_without_torch_the_command_says_where_to_publish(publish, monkeypatch):
    monkeypatch.setitem(sys.modules, 'fpo_ros.runtime.export', None)
    with pytest.raises(ReleaseError, match='needs torch and onnx.*on the machine that trains'):
        publish()


def test_the_way_out_after_a_key_has_leaked(tmp_path, publish, keys):
    """What SECURITY.md says, step by step."""
    store, robot = ReleaseStore(tmp_path / 'store'), tmp_path / 'robot'
    robot.mkdir(0o755)
    shutil.copy(keys.public_path, robot / 'old.pub')
    publish()
    call('promote', store.path, 'v000001', '--trusted', robot)
    slot_serves(store, robot, 'v000001')

    (robot / 'old.pub').unlink()
    pair = json.loads(call('keygen', tmp_path / 'new', '--name', 'second', '--json'))
    shutil.copy(pair['public'], robot / 'second.pub')
    assert 'DOES NOT VERIFY' in call('list', store.path, '--trusted', robot, code=1)
    assert 'not by a trusted key' in slot_serves(store, robot, 'v000001')
    assert json.loads(publish('--json', key=pair['private']))['version'] == 'v000002'
    with pytest.raises(ReleaseError, match='v000001 serves, and nothing can be compared with it: .* the signature is '
                                           'not by a trusted key .* promote with --replace-unverified'):
        call('promote', store.path, 'v000002', '--trusted', robot)
    assert store.promoted() == 'v000001'
    with pytest.raises(PromotionRefused, match='the gate wants 300'):
        call('promote', store.path, 'v000002', '--trusted', robot, '--replace-unverified', '--min-episodes', 300)
    text = call('promote', store.path, 'v000002', '--trusted', robot, '--replace-unverified')
    assert 'compared with nothing: ' in text and 'not by a trusted key' in text and 'v000002 serves' in text
    assert slot_serves(store, robot, 'v000002') == ''


def slot_serves(store, robot, version) -> str:
    """Configure a robot anew and announce a release to it; returns why it refuses."""
    release = ReleaseStore(store.path).path / version
    trusted = load_trusted_keys(robot)
    slot = PolicySlot(tiny_policy().contract, trusted, admit=PromotedOnly(store.path, robot))
    slot.offer(release, version=version)
    assert slot.wait(WAIT_S)
    assert slot.at_chunk_edge() == (slot.last_refusal == '')
    assert slot.close(WAIT_S)
    return slot.last_refusal


@pytest.mark.parametrize('loss', ['missing', 'damaged'])
def test_a_serving_release_that_is_lost_can_be_replaced_when_asked_for(tmp_path, publish, keys, loss):
    store = ReleaseStore(tmp_path / 'store')
    publish(), publish()
    trusted = ('--trusted', keys.public_path)
    call('promote', store.path, 'v000001', *trusted)
    shutil.rmtree(store.path / 'v000001') if loss == 'missing' else (
        store.path / 'v000001' / 'denoise.onnx').write_bytes(b'x')
    with pytest.raises(ReleaseError, match='promote with --replace-unverified'):
        call('promote', store.path, 'v000002', *trusted)
    said = json.loads(call('promote', store.path, 'v000002', *trusted, '--replace-unverified', '--json'))
    assert said['promoted'] == 'v000002'
    assert said['not_compared'] and ('no release v000001' if loss == 'missing' else 'denoise') in said['not_compared']
    assert json.loads(call('promote', store.path, 'v000002', *trusted, '--json'))['not_compared'] is None
    assert store.history() == ['v000001', 'v000002']


def test_a_serving_release_that_verifies_is_compared_all_the_same(tmp_path, publish, evaluated, keys):
    store = ReleaseStore(tmp_path / 'store')
    publish()
    evaluated.write_text(json.dumps(evaluation(60)['evaluation']))
    publish()
    call('promote', store.path, 'v000001', '--trusted', keys.public_path)
    with pytest.raises(PromotionRefused, match='30.0 points below'):
        call('promote', store.path, 'v000002', '--trusted', keys.public_path, '--replace-unverified')
