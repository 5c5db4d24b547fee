"""Policies that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpo_ros.policies import directory_of, names
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ContractError

KINDS = ('state', 'pixels', 'insertion_state')


@pytest.mark.parametrize('name', names())
def test_a_policy_of_the_package_is_accepted_by_name_and_is_small(name):
    policy = FlowPolicy.load(Path(name))
    assert policy.contract.task in ('transfer_cube', 'insertion')
    assert sum(path.stat().st_size for path in directory_of(name).iterdir()) < 8e6


def test_the_package_has_a_start_and_what_fine_tuning_made_of_it():
    assert {f'{made}_{kind}' for made in ('sft', 'fpo') for kind in KINDS} <= set(names())
    for kind in KINDS:
        start, tuned = (FlowPolicy.load(Path(f'{made}_{kind}')) for made in ('sft', 'fpo'))
        assert start.contract == tuned.contract and start.digest() != tuned.digest()


def test_a_directory_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'fpo_state').mkdir()
    assert directory_of('fpo_state') == Path('fpo_state')
    with pytest.raises(ContractError, match='fpo_state/policy.json does not exist'):
        FlowPolicy.load(Path('fpo_state'))


@pytest.mark.parametrize('path', ['nowhere', 'runs/fpo_state', '/fpo_state'])
def test_what_is_no_policy_is_named_with_those_that_are(path):
    with pytest.raises(ContractError, match=r'does not exist.*Those of the package are .*fpo_state, .*sft_state'):
        FlowPolicy.load(Path(path))
