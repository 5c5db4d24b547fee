"""Policies on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError


@pytest.mark.parametrize('observation', ['state', 'pixels'])
def test_a_saved_policy_acts_as_before(make_policy, tmp_path, observation):
    policy = make_policy(observation)
    policy.save(tmp_path)
    again = FlowPolicy.load(tmp_path)
    assert again.contract == policy.contract and again.model.config == policy.model.config
    for name in ('state_mean', 'state_std', 'action_mean', 'action_std'):
        assert np.array_equal(getattr(again.stats, name), getattr(policy.stats, name))
    rng = np.random.default_rng(0)
    joints, pose = rng.normal(size=(2, 14)), rng.normal(size=(2, 7))
    images = rng.integers(0, 256, (2, 2, 16, 24, 3), np.uint8) if observation == 'pixels' else None
    noise = torch.randn(2, 5, 14)
    chunks = [
        one.to_raw(
            one.act(one.states(joints, None if images is not None else pose), one.prefix(images), noise)
        )
        for one in (policy, again)
    ]
    assert np.array_equal(*chunks)


def test_prefixes_of_many_images_do_not_depend_on_the_batch(make_policy):
    policy = make_policy('pixels')
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 16, 24, 3), np.uint8)
    torch.testing.assert_close(policy.prefix(images, batch=2), policy.prefix(images), atol=1e-5, rtol=1e-4)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _edit(change):
    def damage(path):
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return damage


@pytest.mark.parametrize(
    ('file', 'damage'),
    [
        ('policy.safetensors', _truncate),
        ('policy.safetensors', lambda path: path.write_bytes(b'no weights at all')),
        ('policy.safetensors', lambda path: path.unlink()),
        ('policy.json', _truncate),
        ('policy.json', lambda path: path.write_bytes(b'\xff\xfe\x00')),
        ('policy.json', lambda path: path.write_text('[1, 2]')),
        ('policy.json', lambda path: path.unlink()),
        ('policy.json', _edit(lambda d: d.pop('model'))),
        ('policy.json', _edit(lambda d: d['contract'].update(colour='red'))),
        ('policy.json', _edit(lambda d: d['contract'].update(horizon='5'))),
        ('policy.json', _edit(lambda d: d['model'].update(depth='3'))),
        ('policy.json', _edit(lambda d: d['norm_stats']['state'].pop('mean'))),
        ('policy.json', _edit(lambda d: d['norm_stats']['state'].update(mean=[0.0]))),
        (
            'policy.safetensors',
            lambda path: _edit(lambda d: d['model'].update(depth=2))(path.with_name('policy.json')),
        ),
    ],
)
def test_a_damaged_policy_is_one_error_that_names_the_file(make_policy, tmp_path, file, damage):
    make_policy().save(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(ContractError) as caught:
        FlowPolicy.load(tmp_path)
    assert str(tmp_path / file) in str(caught.value)


def test_weights_that_are_not_finite_are_refused_by_name(make_policy, tmp_path, monkeypatch):
    policy = make_policy()
    with torch.no_grad():
        policy.model.action_out_proj.weight[0, 0] = float('nan')
    with monkeypatch.context() as patch:
        patch.setattr('fpo_ros.policy.checkpoint.check_finite', lambda *_: None)
        policy.save(tmp_path)
    with pytest.raises(ContractError, match='1 of .* values of action_out_proj.weight are not finite') as caught:
        FlowPolicy.load(tmp_path)
    assert str(tmp_path / 'policy.safetensors') in str(caught.value) and 'earlier checkpoint' in str(caught.value)


def test_a_digest_tells_weights_contracts_and_statistics_apart(make_policy, tmp_path):
    policy = make_policy()
    policy.save(tmp_path)
    assert FlowPolicy.load(tmp_path).digest() == policy.digest()
    others = [make_policy(seed=1), make_policy(execute=2), FlowPolicy(policy.model, make_policy(seed=1).stats)]
    with torch.no_grad():
        nudged = make_policy()
        nudged.model.action_out_proj.bias[3] += 1e-6
    digests = {one.digest() for one in (policy, nudged, *others)}
    assert len(digests) == 5


def test_a_directory_without_a_policy_is_refused(tmp_path):
    with pytest.raises(ContractError, match='does not exist'):
        FlowPolicy.load(tmp_path / 'nowhere')
