"""What a policy of pictures sees with: another policy's prefix, a grounded one, or what the demonstrations teach."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch

from fpo_ros.learning import prefixes
from fpo_ros.learning.grounding import GroundingConfig, LabelledFrames
from fpo_ros.learning.prefixes import NEW, UNTRAINED, network_for, prefix_of
from fpo_ros.learning.sft import SFTConfig
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0

CONTRACT = replace(tiny_task.CONTRACT, observation='pixels', cameras=('cam_high',), image_height=16, image_width=16)


class Silent:
    """Progress that keeps the lines."""

    def __init__(self):
        self.lines = []

    @contextmanager
    def bar(self, text, total):
        yield self

    def update(self, *_):
        pass

    def line(self, text):
        self.lines.append(text)


def policy_of(contract=CONTRACT, seed=7):
    torch.manual_seed(seed)
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), np.zeros(14), np.ones(14))
    return FlowPolicy(Pi0(tiny_task.TINY, contract), stats)


def test_a_prefix_is_taken_over_and_the_expert_is_new():
    other = policy_of()
    network = prefix_of(other, CONTRACT)
    images = torch.rand(2, 1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network.prefix(other.tokens, images), other.model.prefix(other.tokens, images))
    assert all(not torch.equal(ours, theirs) for ours, theirs in zip(
        network.expert_parameters(), other.model.expert_parameters(), strict=True) if theirs.ndim > 1)


@pytest.mark.parametrize(('entry', 'value'), [
    ('cameras', ('cam_left_wrist',)), ('image_width', 24), ('task', 'insertion')])
def test_a_prefix_that_sees_something_else_is_refused_by_name(entry, value):
    with pytest.raises(ContractError, match=f'whose {entry} is .* does not serve one whose {entry} is'):
        prefix_of(policy_of(), replace(CONTRACT, **{entry: value}, prompt='' if entry == 'task' else CONTRACT.prompt))


def test_a_prefix_is_found_by_the_directory_of_its_policy(tmp_path):
    policy_of().save(tmp_path)
    network = network_for(CONTRACT, tiny_task.TINY, str(tmp_path), Silent())
    assert torch.equal(network.embed_tokens.weight, policy_of().model.embed_tokens.weight)


def test_the_prefix_of_the_package_is_the_default_where_it_fits(monkeypatch, tmp_path):
    policy_of().save(tmp_path)
    monkeypatch.setattr(prefixes, 'SHIPPED', str(tmp_path))
    monkeypatch.setattr(prefixes, 'names', lambda: [str(tmp_path)])
    monkeypatch.setattr(prefixes, 'new_prefix', lambda *_: 'a new one')
    said = Silent()
    assert isinstance(network_for(CONTRACT, tiny_task.TINY, None, said), Pi0)
    assert network_for(replace(CONTRACT, image_width=24), tiny_task.TINY, None, said) == 'a new one'
    assert 'stays as it is' in said.lines[0] and 'image_width is 16' in said.lines[1]


def test_a_prefix_of_other_sizes_is_not_taken_for_the_variant_that_was_asked_for(monkeypatch, tmp_path):
    policy_of().save(tmp_path)
    monkeypatch.setattr(prefixes, 'SHIPPED', str(tmp_path))
    monkeypatch.setattr(prefixes, 'names', lambda: [str(tmp_path)])
    monkeypatch.setattr(prefixes, 'new_prefix', lambda *_: 'a new one')
    said, larger = Silent(), replace(tiny_task.TINY, depth=tiny_task.TINY.depth + 1)
    assert network_for(CONTRACT, larger, None, said) == 'a new one' and 'of other sizes' in said.lines[0]
    with pytest.raises(ContractError, match='of other sizes than the one to be trained: .*--variant'):
        network_for(CONTRACT, larger, str(tmp_path), said)


def test_a_new_prefix_learns_where_objects_are(monkeypatch):
    frames = LabelledFrames(np.zeros((20, 1, 1, 16, 16, 3), np.uint8), np.zeros((20, 1, 3), np.float32))
    monkeypatch.setattr(prefixes, 'GroundingConfig', lambda: GroundingConfig(training=SFTConfig(2, 4)))
    monkeypatch.setattr(prefixes, 'labelled_frames', lambda *_, **__: frames)
    said = Silent()
    assert isinstance(network_for(CONTRACT, tiny_task.TINY, NEW, said), Pi0)
    assert 'objects are told to' in said.lines[0]


def test_untrained_leaves_all_to_the_demonstrations():
    assert network_for(CONTRACT, tiny_task.TINY, UNTRAINED, Silent()) is None


def test_a_policy_without_cameras_has_no_prefix_to_choose():
    assert network_for(tiny_task.CONTRACT, tiny_task.TINY, None, Silent()) is None
    with pytest.raises(ContractError, match='--prefix new: a policy that looks at no camera'):
        network_for(tiny_task.CONTRACT, tiny_task.TINY, NEW, Silent())
