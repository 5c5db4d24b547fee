"""Joints and actions in the units of pi0's base weights, and actions that count from the joints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.learning import sft
from fpo_ros.learning.scale import EpisodeOptions, Local, collect_episodes
from fpo_ros.policy.aloha import action_from_pi, action_to_pi, state_to_pi
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import START_JOINTS, ContractError, Observation, PolicyContract
from fpo_ros.policy.transforms import known_actions, model_inputs, targets_of
from fpo_ros.runtime.export import export
from fpo_ros.runtime.session import PolicySession

KINDS = [('cell', True), ('pi', False), ('pi', True)]
joints = arrays(np.float32, 14, elements=st.floats(0, 1, width=32))


def with_grippers(value: float) -> np.ndarray:
    row = np.arange(14, dtype=np.float32)
    row[[6, 13]] = value
    return row


@pytest.mark.parametrize(('opening', 'angle'), [
    (0, -1.07987), (0.25, -0.51308), (0.5, -0.14006), (0.75, 0.22333), (1, 0.94565)])
def test_a_gripper_is_seen_as_the_angle_of_pi(opening, angle):
    seen = state_to_pi(with_grippers(opening))
    np.testing.assert_allclose(seen[[6, 13]], angle, atol=1e-5)
    assert seen[:6].tolist() == [0, -1, -2, 3, 4, 5] and seen[7:13].tolist() == [7, -8, -9, 10, 11, 12]


@pytest.mark.parametrize(('commanded', 'opening'), [(-1.1689, 0), (0, 0.55338), (0.5, 0.79009), (0.9434, 1)])
def test_a_commanded_gripper_means_an_opening(commanded, opening):
    np.testing.assert_allclose(action_from_pi(with_grippers(commanded))[[6, 13]], opening, atol=1e-5)


@pytest.mark.parametrize(('opening', 'commanded'), [(0, -1.1689), (0.5, -0.11275), (1, 0.9434)])
def test_a_recorded_gripper_becomes_a_command(opening, commanded):
    np.testing.assert_allclose(action_to_pi(with_grippers(opening))[[6, 13]], commanded, atol=1e-5)


@pytest.mark.parametrize(('units', 'relative'), KINDS)
@given(targets=arrays(np.float32, (3, 14), elements=st.floats(-3, 3, width=32)), measured=joints)
def test_actions_come_back_as_the_targets_they_were(units, relative, targets, measured):
    contract = PolicyContract(units=units, relative=relative)
    known = known_actions(targets, measured, contract)
    np.testing.assert_allclose(targets_of(known, measured, contract), targets, atol=1e-5)


def test_relative_actions_count_arms_from_the_joints_and_leave_grippers():
    measured, targets = with_grippers(0.25), np.tile(with_grippers(0.75) + 0.5, (2, 1))
    plain = known_actions(targets, measured, PolicyContract(relative=True))
    expected = np.full(14, 0.5)
    expected[[6, 13]] = 1.25
    np.testing.assert_allclose(plain, [expected] * 2, atol=1e-6)
    mirrored = known_actions(targets, measured, PolicyContract(relative=True, units='pi'))
    np.testing.assert_allclose(mirrored[0, :6], [0.5, -0.5, -0.5, 0.5, 0.5, 0.5], atol=1e-6)


def test_relative_actions_without_joints_are_refused():
    with pytest.raises(ContractError, match='count from the joints'):
        targets_of(np.zeros((2, 14)), None, PolicyContract(relative=True))


@pytest.mark.parametrize(('entry', 'value', 'match'), [
    ('units', 'degrees', "unknown units 'degrees'"), ('relative', 1, 'relative cannot be 1'),
    ('relative', 'no', "relative cannot be 'no'"), ('units', 3, 'units cannot be 3'), ('horizon', True, 'horizon')])
def test_contracts_refuse_other_units(entry, value, match):
    with pytest.raises(ContractError, match=match):
        PolicyContract.from_dict(PolicyContract().to_dict() | {entry: value})


def test_a_deployed_policy_sees_joints_in_its_units():
    contract = PolicyContract(units='pi')
    policy = tiny_task.policy()
    pose = np.array([0.1, 0.5, 0.05, 1, 0, 0, 0])
    seen = model_inputs(Observation(START_JOINTS, object_pose=pose), contract, policy.stats)['state'][0]
    expected = np.concatenate([state_to_pi(START_JOINTS), pose])
    np.testing.assert_allclose(seen, policy.stats.normalise_state(expected), atol=1e-5)


@pytest.mark.parametrize(('units', 'relative'), KINDS)
def test_training_and_rollouts_agree_on_units(waist_task, units, relative):
    """Trained on targets that stay at the start, the arms stay there, whatever units the network has."""
    contract = replace(tiny_task.CONTRACT, units=units, relative=relative)
    pairs = tiny_task.pairs()
    pairs.states[:, :14] = START_JOINTS + np.random.default_rng(0).normal(0, 0.01, (len(pairs.states), 14))
    pairs.chunks[:] = START_JOINTS
    trained = sft.train(pairs, contract, tiny_task.TINY, sft.SFTConfig(60, 16, warmup=1), 0)
    chunks = trained.known_chunks(pairs.chunks, pairs.joints)
    np.testing.assert_allclose(trained.to_raw(chunks, pairs.joints), pairs.chunks, atol=1e-5)
    rollout = collect_episodes(trained, np.arange(2), Local(threads=1), EpisodeOptions()).rollout
    where = torch.as_tensor(rollout.valid)
    commanded = trained.to_raw(rollout.chunks[where], np.tile(START_JOINTS, (int(where.sum()), 1)))
    assert np.abs(commanded - START_JOINTS).max() < 0.2


@pytest.mark.parametrize(('units', 'relative'), KINDS)
def test_an_exported_policy_commands_the_cell(tmp_path, units, relative):
    policy = tiny_task.policy(contract=replace(tiny_task.CONTRACT, units=units, relative=relative))
    assert export(policy, tmp_path, guided=False) < 1e-4
    session = PolicySession.load(tmp_path)
    moved = START_JOINTS + np.where(np.arange(14) == 0, 0.3, 0.0)
    pose = np.array([0.1, 0.5, 0.05, 1, 0, 0, 0])
    chunk = session.infer(Observation(moved, object_pose=pose))
    states = policy.states(moved[None], pose[None])
    expected = policy.to_raw(policy.act(states, policy.prefix(None), torch.zeros(1, 4, 14)), moved[None])[0]
    np.testing.assert_allclose(chunk, expected, atol=1e-4)


def test_policies_keep_their_units_on_disk(tmp_path):
    policy = tiny_task.policy(contract=replace(tiny_task.CONTRACT, units='pi', relative=True))
    policy.save(tmp_path)
    again = FlowPolicy.load(tmp_path)
    assert again.contract == policy.contract and again.digest() == policy.digest()
