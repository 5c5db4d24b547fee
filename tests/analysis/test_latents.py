"""What policies drew, as points: which ones, in which embedding, in which groups."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.analysis.drawn import DrawnChunks, LatentsError, check_comparable, roll_out, sample
from fpo_ros.analysis.latents import analyse, embed
from fpo_ros.learning.scale import collect_episodes
from fpo_ros.learning.scale.unit import BLOCK
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import JOINT_NAMES
from fpo_ros.policy.normalisation import NormStats


def drawn(name: str = 'policy', episodes: int = 8, decisions: int = 5, seed: int = 0, successes: int = 4,
          shift: float = 0.0) -> DrawnChunks:
    """Return normal chunks of three steps; the first episodes succeed."""
    rng = np.random.default_rng(seed)
    episode, decision = np.divmod(np.arange(episodes * decisions), decisions)
    chunks, success = rng.normal(shift, 1, (len(episode), 3, 14)), np.arange(episodes) < successes
    return DrawnChunks(name, chunks, episode, decision, success)


def test_only_valid_decisions_and_executed_steps_are_points(waist_task):
    valid = np.array([[True, True, True, False], [True, False, False, False]])
    chunks = torch.arange(2 * 4 * 4 * 14, dtype=torch.float32).reshape(2, 4, 4, 14)
    rollout = collect_episodes(tiny_task.policy(), np.arange(2)).rollout
    rollout = replace(rollout, valid=valid, chunks=chunks, success=np.array([True, True]),
                      rewarded=np.array([False, True]))
    found = DrawnChunks.of('p', rollout, 3)
    assert found.chunks.shape == (4, 3, 14)
    assert np.array_equal(found.chunks, chunks.numpy()[[0, 0, 0, 1], [0, 1, 2, 0], :3])
    assert found.episode.tolist() == [0, 0, 0, 1] and found.decision.tolist() == [0, 1, 2, 0]
    assert found.succeeded.tolist() == [False, False, False, True], 'success by the rule that ends episodes'


def test_what_pads_an_action_is_no_part_of_a_point(waist_task):
    padded = tiny_task.policy(contract=replace(tiny_task.CONTRACT, action_width=32))
    found = roll_out('p', padded, 6, 0, 'gym')
    assert found.chunks.shape[1:] == (3, 14)
    groups = analyse([found], 20).outcomes['groups']
    assert all(set(group['variance_per_dimension'] or JOINT_NAMES) == set(JOINT_NAMES) for group in groups.values())
    assert any(group['variance_per_dimension'] for group in groups.values())
    check_comparable({'padded': padded, 'plain': tiny_task.policy()})


def test_episodes_are_those_of_an_evaluation(waist_task):
    from fpo_ros.learning.evaluate import evaluate

    policy, seen, count = tiny_task.policy(), [], BLOCK + 2
    found = roll_out('p', policy, count, 3, 'gym', progress=seen.append)
    assert found.success.tolist() == evaluate(policy, count, 3).success.tolist()
    assert 0 < found.success.sum() < count, 'the case needs both'
    assert seen == [BLOCK, count]
    again = roll_out('p', policy, count, 3, 'gym')
    assert np.array_equal(again.chunks, found.chunks)
    assert not np.array_equal(roll_out('p', policy, count, 4, 'gym').chunks[:count], found.chunks[:count])


@given(st.integers(1, 20), st.integers(1, 15), st.integers(0, 1000), st.data())
def test_a_sample_is_spread_evenly_over_decisions(episodes, decisions, seed, data):
    everything = drawn(episodes=episodes, decisions=decisions)
    count = data.draw(st.integers(1, episodes * decisions))
    some = sample(everything, count, np.random.default_rng(seed))
    assert len(some.chunks) == count
    assert len(set(zip(some.episode, some.decision, strict=True))) == count, 'no decision twice'
    share = np.bincount(some.decision, minlength=decisions)
    assert np.abs(share - count / decisions).max() < 1 + 1e-9
    where = some.episode * decisions + some.decision
    assert (np.diff(where) > 0).all() and np.array_equal(some.chunks, everything.chunks[where])


def test_pca_of_points_on_a_plane():
    # Variances 9 and 1 along two of the axes, none elsewhere.
    points = np.zeros((4, 6))
    points[:, 2], points[:, 4] = [3, -3, 3, -3], [1, 1, -1, -1]
    found = embed(points, 0)
    assert found.explained == pytest.approx([0.9, 0.1])
    assert np.abs(found.pca) == pytest.approx(np.abs(points[:, [2, 4]]))
    assert found.perplexity == pytest.approx(1) and np.isfinite(found.tsne).all()


@pytest.mark.parametrize(('points', 'words'), [(np.eye(3), '3 points cannot be embedded: use at least 4'),
                                               (np.ones((9, 5)), 'all 9 chunks are equal')])
def test_what_cannot_be_embedded_is_said(points, words):
    with pytest.raises(LatentsError, match=words):
        embed(points, 0)


def test_all_policies_share_one_embedding():
    # Were each embedded alone, both would lie about the origin.
    found = analyse([drawn('a'), drawn('b', seed=1, shift=20)], 30)
    for plane in (found.embedding.pca, found.embedding.tsne):
        a, b = plane[found.policy == 0], plane[found.policy == 1]
        gap = np.linalg.norm(a.mean(0) - b.mean(0))
        assert gap > 3 * max(np.linalg.norm(part - part.mean(0), axis=1).max() for part in (a, b)) / 2
    assert found.embedding.explained[0] > 0.9


def test_policies_that_draw_the_same_spread_the_same_in_the_whole_space():
    found = analyse([drawn('a'), drawn('b')], 40)
    a, b = found.stages
    assert a['mean_std'] == b['mean_std'] and a['dispersion'] == b['dispersion']
    narrow = replace(drawn('c'), chunks=0.5 * drawn('c').chunks)
    a, c = analyse([drawn('a'), narrow], 40).stages
    for key in ('mean_std', 'dispersion', 'dispersion_of_phase'):
        assert c[key] == pytest.approx(a[key] / 2)


def test_every_policy_gives_as_many_points():
    found = analyse([drawn('a', episodes=8), drawn('b', episodes=4)], 30)
    assert [stage['points'] for stage in found.stages] == [20, 20]
    assert [stage['decisions'] for stage in found.stages] == [40, 20]
    assert [stage['points'] for stage in analyse([drawn('a'), drawn('b')], 7).stages] == [7, 7]


def test_an_analysis_can_be_repeated():
    policies = [drawn('a'), drawn('b', seed=1)]
    first, again, other = (analyse(policies, 12, seed) for seed in (0, 0, 1))
    assert first.to_dict() == again.to_dict()
    assert not np.array_equal(first.chunks, other.chunks)


def test_failures_and_successes_are_those_of_the_last_policy():
    policies = [drawn('a', successes=8), drawn('b', successes=1, seed=1), drawn('c', successes=3, seed=2)]
    found = analyse(policies, 40)
    groups = found.outcomes['groups']
    assert {name: (group['policy'], group['points'], group['episodes']) for name, group in groups.items()} == {
        'early': ('a', 40, 8), 'failed': ('c', 25, 5), 'successful': ('c', 15, 3)}
    assert np.array_equal(np.sort(found.chunks[found.groups['failed']], axis=None), np.sort(
        policies[2].chunks[15:], axis=None))
    assert set(groups['failed']['variance_per_dimension']) == set(JOINT_NAMES)
    for group in groups.values():
        assert group['mean_norm'] == pytest.approx(np.sqrt(42), rel=0.1)  # 42 normal numbers
    weights = groups['failed']['points'], groups['successful']['points']
    assert found.outcomes['silhouette'] == pytest.approx(np.average(
        [groups['failed']['silhouette'], groups['successful']['silhouette']], weights=weights))
    assert groups['early']['silhouette'] is None and 'last policy' in groups['early']['missing']['silhouette']


def test_outcomes_that_lie_apart_have_a_high_silhouette_and_distance():
    apart = drawn()
    apart = replace(apart, chunks=apart.chunks + 30.0 * apart.succeeded[:, None, None])
    found = analyse([apart], 40).outcomes
    assert found['silhouette'] > 0.9
    failed, successful = (found['groups'][name]['mahalanobis_to_success'] for name in ('failed', 'successful'))
    assert failed > 5 * successful


def test_differences_are_those_of_all_decisions_not_of_the_points():
    one = analyse([drawn()], 6).outcomes['groups']
    everything = analyse([drawn()], 40).outcomes['groups']
    for name in ('failed', 'successful'):
        for key in ('difference_within_chunk', 'difference_at_the_seam', 'difference_between_chunks'):
            assert one[name][key] == everything[name][key] is not None


def test_one_policy_alone_has_no_early_group():
    found = analyse([drawn()], 40)
    assert list(found.outcomes['groups']) == ['failed', 'successful'] and len(found.stages) == 1


@pytest.mark.parametrize(('successes', 'empty', 'full'), [(0, 'successful', 'failed'), (8, 'failed', 'successful')])
def test_a_group_without_points_says_so_in_words(successes, empty, full):
    found = analyse([drawn(successes=8), drawn('late', successes=successes)], 40).to_dict()
    text = json.dumps(found, allow_nan=False)
    group, other = found['outcomes']['groups'][empty], found['outcomes']['groups'][full]
    numbers = [name for name, value in group.items() if value is None]
    assert len(numbers) == 8 and set(numbers) == set(group['missing'])
    assert all('needs' in reason or 'no point' in reason for reason in group['missing'].values()), text
    assert found['outcomes']['silhouette'] is None
    assert '2 failed and 2 successful' in found['outcomes']['missing']['silhouette']
    assert other['within_cluster_variance'] > 0 and other['silhouette'] is None
    assert (other['mahalanobis_to_success'] is None) == (successes == 0)


@pytest.mark.parametrize('episodes', [1, 2])
def test_too_few_decisions_are_refused(episodes):
    few = drawn(episodes=episodes, decisions=1)
    with pytest.raises(LatentsError, match='1 of 1 decisions of policy|2 points cannot be embedded'):
        analyse([few], 600)
    with pytest.raises(LatentsError, match='1 of 1 decisions of few cannot be analysed'):
        analyse([drawn('many'), drawn('few', 1, 1)], 600)


@pytest.mark.parametrize(('change', 'words'), [
    ({'task': 'insertion'}, 'task of a is transfer_cube, that of b insertion'),
    ({'execute': 2}, 'execute of a is 3, that of b 2'),
    ({'control_rate_hz': 25.0}, 'control_rate_hz of a is 50.0, that of b 25.0')])
def test_policies_of_two_contracts_are_not_compared(change, words):
    other = tiny_task.policy(contract=replace(tiny_task.CONTRACT, **change))
    with pytest.raises(LatentsError, match=words):
        check_comparable({'a': tiny_task.policy(), 'b': other})


def test_policies_that_normalise_differently_are_not_compared():
    one = tiny_task.policy()
    stats = NormStats(one.stats.state_mean, one.stats.state_std, one.stats.action_mean, 2 * one.stats.action_std)
    with pytest.raises(LatentsError, match='a and b normalise actions differently'):
        check_comparable({'a': one, 'b': FlowPolicy(one.model, stats)})
    check_comparable({'a': one, 'b': tiny_task.policy(1)})
    check_comparable({'a': one})
