"""Each number of a cloud of points, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fpo_ros.analysis import numbers
from fpo_ros.analysis.numbers import TooFewPoints

#: Corners of a rectangle 2 wide and 4 high.
CORNERS = np.array([[0.0, 0.0], [2, 0], [0, 4], [2, 4]])
#: Two chunks of two steps of two actions, and what follows them.
CHUNKS = np.array([[[0.0, 0], [3, 4]], [[3, 4], [3, 4]], [[9, 12], [0, 0]]])


def test_spread_of_a_rectangle():
    assert numbers.mean_std(CORNERS) == pytest.approx((1 + 2) / 2)
    assert numbers.within_cluster_variance(CORNERS) == pytest.approx(1 + 4)
    assert numbers.dispersion(CORNERS) == pytest.approx(np.sqrt(5))


def test_a_hull_is_as_large_as_its_corners_whatever_lies_inside():
    assert numbers.hull_area(CORNERS) == pytest.approx(8)
    assert numbers.hull_area(np.concatenate([CORNERS, [[1.0, 1.0], [0.5, 3.0]]])) == pytest.approx(8)
    assert numbers.hull_area(CORNERS[:3]) == pytest.approx(4)


@pytest.mark.parametrize(('plane', 'words'), [
    (CORNERS[:2], 'at least 3 points, there are 2'), (np.array([[0.0, 0], [1, 1], [2, 2], [5, 5]]), 'on one line')])
def test_points_on_a_line_have_no_hull(plane, words):
    with pytest.raises(TooFewPoints, match=words):
        numbers.hull_area(plane)


def test_dispersion_of_a_phase_leaves_out_how_far_phases_lie_apart():
    # Decision 0 spreads by 1 about 0, decision 1 by 3 about 100; decision 2 is one point alone.
    points, decision = np.array([[-1.0], [1], [97], [103], [1e6]]), np.array([0, 0, 1, 1, 2])
    assert numbers.dispersion_of_phase(points, decision) == pytest.approx(np.sqrt((1 + 1 + 9 + 9) / 4))
    with pytest.raises(TooFewPoints, match='same decision number'):
        numbers.dispersion_of_phase(points, np.arange(5))


def test_variance_of_each_dimension_is_averaged_over_the_steps():
    # Action 0: step 0 is 0 and 2 (variance 1), step 1 is 0 and 6 (9); action 1 never moves.
    chunks = np.array([[[0.0, 5], [0, 7]], [[2, 5], [6, 7]]])
    assert numbers.variance_per_dimension(chunks) == pytest.approx([(1 + 9) / 2, 0])


def test_silhouettes_by_hand():
    points = np.array([[0.0], [1], [10], [12]])
    found = numbers.silhouettes(points, np.array([False, False, True, True]))
    # Own distance 1, to the others (10 + 12) / 2; ...; own distance 2, to the others (12 + 11) / 2.
    assert found == pytest.approx([(11 - 1) / 11, (10 - 1) / 10, (9.5 - 2) / 9.5, (11.5 - 2) / 11.5])


@pytest.mark.parametrize('label', [[True] * 4, [False] * 4, [True, False, False, False]])
def test_one_point_is_no_cluster(label):
    with pytest.raises(TooFewPoints, match='2 failed and 2 successful points, there are'):
        numbers.silhouettes(CORNERS, np.array(label))


def test_mahalanobis_distance_counts_in_deviations_of_success():
    # Covariance I / 2, which shrinking to a multiple of I leaves as it is.
    success = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert numbers.mahalanobis(np.array([[3.0, 0], [0, 0], [3, 4]]), success) == pytest.approx(
        np.sqrt(2) * np.array([3, 0, 5]))


def test_shrinking_keeps_distances_finite_with_fewer_points_than_dimensions():
    rng = np.random.default_rng(0)
    success = rng.normal(size=(5, 40))
    far, near = numbers.mahalanobis(np.array([np.full(40, 10.0), success.mean(0)]), success)
    assert np.isfinite(far) and far > 10 and near == pytest.approx(0, abs=1e-6)


def test_success_is_measured_by_other_episodes():
    # Episode 7 is -1 and 1 (centre 0, deviation 1), episode 9 is 3 and 5 (centre 4, deviation 1).
    success, episode = np.array([[-1.0], [1], [3], [5]]), np.array([7, 7, 9, 9])
    assert numbers.mahalanobis_of_success(success, episode) == pytest.approx([5, 3, 3, 5])


@given(st.integers(3, 12), st.integers(2, 7), st.integers(0, 1000))
def test_a_successful_point_does_not_count_for_its_own_distance(episodes, folds, seed):
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes), 3)
    success = rng.normal(size=(len(episode), 2))
    before = numbers.mahalanobis_of_success(success, episode, folds)
    success[0] += 100
    after = numbers.mahalanobis_of_success(success, episode, folds)
    own_fold = episode % min(folds, episodes) == 0
    assert after[1:][own_fold[1:]] == pytest.approx(before[1:][own_fold[1:]])
    assert after[0] > before[0]
    assert not np.allclose(after[~own_fold], before[~own_fold])


@pytest.mark.parametrize(('success', 'episode', 'words'), [
    (np.zeros((0, 1)), [], 'there are 0'), (np.array([[0.0], [1]]), [4, 4], 'at least 2 successful episodes'),
    (np.array([[0.0], [1]]), [0, 1], 'at least 2 points of other successful episodes'),
    (np.array([[3.0], [3], [3], [3]]), [0, 0, 1, 1], 'all equal')])
def test_success_too_rare_to_be_measured(success, episode, words):
    with pytest.raises(TooFewPoints, match=words):
        numbers.mahalanobis_of_success(success, np.array(episode, int))


@pytest.mark.parametrize(('points', 'success', 'words'), [
    (np.zeros((0, 2)), CORNERS, 'at least 1 point, there are 0'), (CORNERS, CORNERS[:1], 'there is 1'),
    (CORNERS, np.ones((3, 2)), 'all equal')])
def test_without_success_there_is_no_distance_to_it(points, success, words):
    with pytest.raises(TooFewPoints, match=words):
        numbers.mahalanobis(points, success)


def test_differences_by_hand():
    episode, decision = np.array([0, 0, 0]), np.array([0, 1, 2])
    assert numbers.within_chunk(CHUNKS) == pytest.approx((5 + 0 + 15) / 3)
    # (3, 4) to (3, 4), and (3, 4) to (9, 12).
    assert numbers.at_the_seam(CHUNKS, episode, decision) == pytest.approx((0 + 10) / 2)
    # (3, 4, 0, 0), and (6, 8, -3, -4).
    assert numbers.between_chunks(CHUNKS, episode, decision) == pytest.approx((5 + np.sqrt(125)) / 2)


def test_nothing_is_compared_across_episodes_or_left_out_decisions():
    for episode, decision in (([0, 0, 1], [0, 1, 2]), ([0, 0, 0], [0, 1, 5])):
        assert numbers.at_the_seam(CHUNKS, np.array(episode), np.array(decision)) == 0
        assert numbers.between_chunks(CHUNKS, np.array(episode), np.array(decision)) == pytest.approx(5)
    for number in (numbers.at_the_seam, numbers.between_chunks):
        with pytest.raises(TooFewPoints, match='one after the other'):
            number(CHUNKS, np.array([0, 1, 2]), np.zeros(3, int))


def test_one_step_differs_from_nothing():
    with pytest.raises(TooFewPoints, match='at least 2 steps'):
        numbers.within_chunk(np.zeros((3, 1, 2)))
    with pytest.raises(TooFewPoints, match='at least 1 point'):
        numbers.within_chunk(np.zeros((0, 2, 2)))


@pytest.mark.parametrize('number', [numbers.mean_std, numbers.dispersion, numbers.within_cluster_variance,
                                    numbers.variance_per_dimension])
def test_one_point_does_not_spread(number):
    with pytest.raises(TooFewPoints, match='at least 2 points, there is 1'):
        number(np.zeros((1, 3, 2)))


@given(arrays.arrays(float, (6, 3, 2), elements=st.floats(-100, 100, width=32)), st.floats(-50, 50), st.floats(0.1, 10))
def test_spread_ignores_where_points_lie_and_grows_with_their_scale(chunks, shift, scale):
    flat = chunks.reshape(6, -1)
    variance = numbers.within_cluster_variance(flat)
    assert numbers.dispersion(flat) ** 2 == pytest.approx(variance, abs=1e-6)
    assert 3 * numbers.variance_per_dimension(chunks).sum() == pytest.approx(variance, abs=1e-6)
    assert numbers.within_cluster_variance(scale * flat + shift) == pytest.approx(scale ** 2 * variance, abs=1e-5)
    assert numbers.mean_std(scale * flat + shift) == pytest.approx(scale * numbers.mean_std(flat), abs=1e-5)
    assert numbers.dispersion_of_phase(flat, np.repeat([0, 1, 2], 2)) <= numbers.dispersion(flat) + 1e-6
