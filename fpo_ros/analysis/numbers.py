"""Numbers of a cloud of points, each a formula of its own; what cannot be told from too few points is an error.

``points`` are (N, D) float arrays, one row per decision: the normalised chunk of the decision, flattened.
"""

from __future__ import annotations

import numpy as np


class TooFewPoints(ValueError):
    """A number that these points do not have; the message says why."""


def _need(points: np.ndarray, count: int) -> None:
    if len(points) < count:
        raise TooFewPoints(f'needs at least {count} {"point" if count == 1 else "points"}, there '
                           f'{"is" if len(points) == 1 else "are"} {len(points)}')


def mean_std(points: np.ndarray) -> float:
    """Return the standard deviation along each dimension (divisor N), averaged over the dimensions.

    :raises TooFewPoints: for fewer than 2.
    """
    _need(points, 2)
    return float(points.std(0).mean())


def within_cluster_variance(points: np.ndarray) -> float:
    """Return the mean squared Euclidean distance of the points to their centroid.

    :raises TooFewPoints: for fewer than 2.
    """
    _need(points, 2)
    return float(((points - points.mean(0)) ** 2).sum(1).mean())


def dispersion(points: np.ndarray) -> float:
    """Return the root of the mean squared distance to the centroid.

    :raises TooFewPoints: for fewer than 2.
    """
    return float(np.sqrt(within_cluster_variance(points)))


def dispersion_of_phase(points: np.ndarray, decision: np.ndarray) -> float:
    """Return the root of the mean squared distance to the centroid of the points with the same decision number.

    A task has phases, which decision numbers stand for; this leaves out how far these lie apart. Numbers that one
    point alone has are passed over.

    :param decision: (N,) number of each point's decision within its episode.
    :raises TooFewPoints: where no two points have one number.
    """
    squares = [((own - own.mean(0)) ** 2).sum(1) for own in (points[decision == number] for number in
                                                             np.unique(decision)) if len(own) > 1]
    if not squares:
        raise TooFewPoints('needs two points with the same decision number')
    return float(np.sqrt(np.concatenate(squares).mean()))


def hull_area(plane: np.ndarray) -> float:
    """Return the area of the convex hull of (N, 2) points.

    :raises TooFewPoints: for fewer than 3, or points on one line.
    """
    from scipy.spatial import ConvexHull, QhullError

    _need(plane, 3)
    try:
        return float(ConvexHull(plane).volume)  # the volume in two dimensions
    except QhullError as error:
        raise TooFewPoints(f'{len(plane)} points on one line have no area') from error


def variance_per_dimension(chunks: np.ndarray) -> np.ndarray:
    """Return the (A,) variance of each action dimension over (N, H, A) chunks (divisor N), averaged over the H steps.

    :raises TooFewPoints: for fewer than 2 chunks.
    """
    _need(chunks, 2)
    return chunks.var(0).mean(0)


def silhouettes(points: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the (N,) silhouettes ``(b - a) / max(a, b)`` of points with two labels (Rousseeuw 1987).

    ``a`` is the mean distance to the other points of the own label, ``b`` that to the points of the other one.

    :param label: (N,) bool.
    :raises TooFewPoints: for fewer than 2 of a label.
    """
    from sklearn.metrics import silhouette_samples

    ones = int(label.sum())
    if min(ones, len(label) - ones) < 2:
        raise TooFewPoints(f'needs at least 2 failed and 2 successful points, there are {len(label) - ones} and {ones}')
    return silhouette_samples(points, label)


def mahalanobis(points: np.ndarray, success: np.ndarray) -> np.ndarray:
    """Return the (N,) Mahalanobis distances of points to the centroid of (M, D) successful ones.

    The covariance is that of the successful points, shrunk by Ledoit and Wolf's rule (2004, J. Multivar. Anal. 88):
    there are hardly more points than dimensions.

    :raises TooFewPoints: without a point, or for fewer than 2 successful ones, or equal ones.
    """
    from sklearn.covariance import LedoitWolf

    _need(points, 1)
    if len(success) < 2:
        raise TooFewPoints(f'needs at least 2 successful points, there {"is" if len(success) == 1 else "are"} '
                           f'{len(success)}')
    if not np.ptp(success, axis=0).any():
        raise TooFewPoints('the successful points are all equal, which gives no scale for distances')
    return np.sqrt(LedoitWolf().fit(success).mahalanobis(points))


def mahalanobis_of_success(success: np.ndarray, episode: np.ndarray, folds: int = 5) -> np.ndarray:
    """Return the (M,) Mahalanobis distances of successful points to the centroid of those of other episodes.

    With centroid and covariance of its own episode a point would always be nearer than one of another group: the
    episodes are dealt out to folds, and each fold is measured by the others.

    :param episode: (M,) whose decision each point is.
    :raises TooFewPoints: for fewer than 2 episodes, and as :func:`mahalanobis` does.
    """
    episodes = np.unique(episode)
    if len(episodes) < 2:
        raise TooFewPoints(f'needs points of at least 2 successful episodes, there {"is" if len(episodes) else "are"} '
                           f'{len(episodes)}')
    fold = np.searchsorted(episodes, episode) % min(folds, len(episodes))
    if len(success) - np.bincount(fold).max() < 2:
        raise TooFewPoints(f'needs at least 2 points of other successful episodes, there are {len(success)} points of '
                           f'{len(episodes)} episodes')
    distances = np.empty(len(success))
    for number in np.unique(fold):
        distances[fold == number] = mahalanobis(success[fold == number], success[fold != number])
    return distances


def within_chunk(chunks: np.ndarray) -> float:
    """Return the mean Euclidean norm of the difference of consecutive steps in (N, H, A) chunks.

    :raises TooFewPoints: without a chunk, or for chunks of one step.
    """
    _need(chunks, 1)
    if chunks.shape[1] < 2:
        raise TooFewPoints('needs chunks of at least 2 steps, these have 1')
    return float(np.linalg.norm(np.diff(chunks, axis=1), axis=2).mean())


def _following(episode: np.ndarray, decision: np.ndarray) -> np.ndarray:
    """Return where a decision is followed by the next one of its episode; both are (N,), in the order of time.

    :raises TooFewPoints: where none is.
    """
    where = np.flatnonzero((np.diff(episode) == 0) & (np.diff(decision) == 1))
    if not len(where):
        raise TooFewPoints('needs two decisions of one episode, one after the other')
    return where


def at_the_seam(chunks: np.ndarray, episode: np.ndarray, decision: np.ndarray) -> float:
    """Return the mean norm of the difference of the last step of a decision and the first of the next one.

    :param chunks: (N, H, A), by episode and within one by decision.
    :param episode: (N,) whose decision it is.
    :param decision: (N,) its number within the episode.
    :raises TooFewPoints: where no decision has a next one.
    """
    first = _following(episode, decision)
    return float(np.linalg.norm(chunks[first + 1, 0] - chunks[first, -1], axis=1).mean())


def between_chunks(chunks: np.ndarray, episode: np.ndarray, decision: np.ndarray) -> float:
    """Return the mean norm of the difference of a whole chunk and the next one of its episode, flattened.

    Parameters and errors are those of :func:`at_the_seam`.
    """
    first = _following(episode, decision)
    return float(np.linalg.norm((chunks[first + 1] - chunks[first]).reshape(len(first), -1), axis=1).mean())
