"""The chunks that policies draw, as points of one space: how they spread by policy, and by how episodes ended.

The analysis follows arXiv 2510.09976 (figures of the latent space). A point x is the normalised chunk of one decision,
as it was drawn from the flow: the rows that are executed, flattened. One embedding is fitted on the points of all
policies together: the planes of two embeddings have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fpo_ros.analysis import numbers
from fpo_ros.analysis.drawn import DrawnChunks, LatentsError, sample
from fpo_ros.analysis.numbers import TooFewPoints
from fpo_ros.policy.contract import JOINT_NAMES

#: Perplexity of t-SNE where there are points enough: the size of the neighbourhood that is kept.
PERPLEXITY = 30.0
#: Fewest points that an embedding is fitted to.
FEWEST = 4
#: Names of the groups of points by how episodes ended; the first are those of the first policy.
EARLY, FAILED, SUCCESSFUL = 'early', 'failed', 'successful'


@dataclass(frozen=True)
class Embedding:
    """Two planes fitted on N points.

    :param pca: (N, 2) projections on the first two principal components.
    :param explained: (2,) shares of the variance that lie along them.
    :param tsne: (N, 2) places by t-SNE.
    :param perplexity: that t-SNE was given.
    """

    pca: np.ndarray
    explained: np.ndarray
    tsne: np.ndarray
    perplexity: float


@dataclass(frozen=True)
class Analysis:
    """P drawn points of all policies, in their order, and what was found in them.

    :param names: of the policies.
    :param chunks: (P, execute, 14) the points.
    :param policy: (P,) number of the policy of each.
    :param groups: name of a group → (P,) bool, by how episodes ended.
    :param stages: what was found for each policy.
    :param outcomes: what was found for each group, by name under ``groups``, and for failed and successful together.
    """

    names: tuple[str, ...]
    chunks: np.ndarray
    policy: np.ndarray
    embedding: Embedding
    groups: dict[str, np.ndarray]
    stages: list[dict[str, Any]]
    outcomes: dict[str, Any]

    @property
    def norms(self) -> np.ndarray:
        """(P,) Euclidean norms of the points."""
        return np.linalg.norm(self.chunks.reshape(len(self.chunks), -1), axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types; a number that there is not is None, and ``missing`` beside it says why."""
        embedding, (_, steps, actions) = self.embedding, self.chunks.shape
        return {
            'steps_per_point': steps, 'dimensions': steps * actions,
            'points': len(self.chunks), 'points_per_policy': len(self.chunks) // len(self.names),
            'embedding': {'pca_explained_variance': embedding.explained.tolist(),
                          'tsne_perplexity': embedding.perplexity},
            'stages': self.stages, 'outcomes': self.outcomes,
        }


def embed(points: np.ndarray, seed: int) -> Embedding:
    """Fit PCA and t-SNE (van der Maaten and Hinton 2008, started at the PCA) to (N, D) points.

    :raises LatentsError: for fewer than FEWEST points, or points that are all equal.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(points) < FEWEST:
        raise LatentsError(f'{len(points)} points cannot be embedded: use at least {FEWEST}, by more --episodes or '
                           '--points')
    if not np.ptp(points, axis=0).any():
        raise LatentsError(f'all {len(points)} chunks are equal: there is nothing to embed')
    pca = PCA(2, svd_solver='full')
    plane = pca.fit_transform(points)
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init='pca', learning_rate='auto', random_state=seed)
    return Embedding(plane, pca.explained_variance_ratio_, tsne.fit_transform(points).astype(np.float64), perplexity)


def analyse(policies: list[DrawnChunks], points: int, seed: int = 0) -> Analysis:
    """Compare what policies drew; the first is the early one, failures and successes are those of the last one.

    Every policy gives the same number of points, since the area of a hull grows with that number: ``points``, or as
    many decisions as the policy with the fewest has.

    :param policies: with names and shapes that fit (:func:`check_comparable`).
    :param seed: of the choice of points and of t-SNE.
    :raises LatentsError: for fewer than 2 points of a policy.
    """
    fewest = min(policies, key=lambda drawn: len(drawn.chunks))
    count = min(points, len(fewest.chunks))
    if count < 2:
        raise LatentsError(f'{count} of {len(fewest.chunks)} decisions of {fewest.name} cannot be analysed: use at '
                           'least 2, by more --episodes or --points')
    generator = np.random.default_rng(seed)
    chosen = [sample(drawn, count, generator) for drawn in policies]
    chunks = np.concatenate([drawn.chunks for drawn in chosen])
    flat = chunks.reshape(len(chunks), -1)
    embedding, policy = embed(flat, seed), np.repeat(np.arange(len(chosen)), count)
    last, succeeded = policy == len(chosen) - 1, np.concatenate([drawn.succeeded for drawn in chosen])
    groups, end = {FAILED: last & ~succeeded, SUCCESSFUL: last & succeeded}, policies[-1]
    decisions = {FAILED: end.part(~end.succeeded), SUCCESSFUL: end.part(end.succeeded)}
    if len(policies) > 1:
        groups, decisions = {EARLY: policy == 0, **groups}, {EARLY: policies[0], **decisions}
    stages = [_stage(drawn, points, flat[policy == number], embedding.tsne[policy == number])
              for number, (drawn, points) in enumerate(zip(policies, chosen, strict=True))]
    return Analysis(tuple(drawn.name for drawn in policies), chunks, policy, embedding, groups, stages,
                    _outcomes(chunks, np.concatenate([drawn.episode for drawn in chosen]), groups, decisions))


class _Found:
    """Numbers by name; one that there is not is None, and ``missing`` says why."""

    def __init__(self, **values: Any) -> None:
        self._values, self._missing = values, {}

    def add(self, name: str, number: Callable[..., Any], *arguments: Any) -> None:
        """Put what a function returns, or None and why it has no answer."""
        try:
            self._values[name] = number(*arguments)
        except TooFewPoints as reason:
            self._values[name] = None
            self._missing[name] = str(reason)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**self._values, 'missing': self._missing}


def _stage(drawn: DrawnChunks, chosen: DrawnChunks, points: np.ndarray, plane: np.ndarray) -> dict[str, Any]:
    """Return how the points of one policy spread, in the whole space and in the plane of t-SNE.

    :param drawn: all its decisions.
    :param chosen: those that are points.
    :param points: (N, D) these flattened.
    :param plane: (N, 2) their places by t-SNE.
    """
    found = _Found(policy=drawn.name, episodes=len(drawn.success), successes=int(drawn.success.sum()),
                   decisions=len(drawn.chunks), points=len(points))
    for suffix, space in (('', points), ('_tsne', plane)):
        found.add(f'mean_std{suffix}', numbers.mean_std, space)
        found.add(f'dispersion{suffix}', numbers.dispersion, space)
    found.add('dispersion_of_phase', numbers.dispersion_of_phase, points, chosen.decision)
    found.add('hull_area_tsne', numbers.hull_area, plane)
    return found.to_dict()


def _outcomes(chunks: np.ndarray, episode: np.ndarray, groups: dict[str, np.ndarray],
              decisions: dict[str, DrawnChunks]) -> dict[str, Any]:
    """Return the silhouette of failed and successful points together, and what was found for each group.

    :param chunks: (P, execute, 14) the points.
    :param episode: (P,) the episode of each, among those of its policy.
    :param groups: name → (P,) bool.
    :param decisions: name → all decisions of the group, for what needs a decision and the next one.
    """
    flat, successful = chunks.reshape(len(chunks), -1), groups[SUCCESSFUL]
    judged = groups[FAILED] | successful

    def silhouette(group: np.ndarray) -> float:
        if (group & ~judged).any():
            raise TooFewPoints('compares failed and successful points of the last policy, no others')
        return _mean(numbers.silhouettes(flat[judged], successful[judged])[group[judged]])

    def distance(group: np.ndarray) -> float:
        if group is successful:
            return _mean(numbers.mahalanobis_of_success(flat[group], episode[group]))
        return _mean(numbers.mahalanobis(flat[group], flat[successful]))

    together, each = _Found(), {}
    together.add('silhouette', silhouette, judged)
    for name, group in groups.items():
        drawn, points = decisions[name], flat[group]
        found = _Found(policy=drawn.name, episodes=len(np.unique(drawn.episode)), decisions=len(drawn.chunks),
                       points=len(points))
        found.add('mean_norm', _mean, np.linalg.norm(points, axis=1))
        found.add('silhouette', silhouette, group)
        found.add('mahalanobis_to_success', distance, group)
        found.add('within_cluster_variance', numbers.within_cluster_variance, points)
        found.add('difference_within_chunk', numbers.within_chunk, drawn.chunks)
        found.add('difference_at_the_seam', numbers.at_the_seam, drawn.chunks, drawn.episode, drawn.decision)
        found.add('difference_between_chunks', numbers.between_chunks, drawn.chunks, drawn.episode, drawn.decision)
        found.add('variance_per_dimension', _by_joint, chunks[group])
        each[name] = found.to_dict()
    return {**together.to_dict(), 'groups': each}


def _mean(values: np.ndarray) -> float:
    if not len(values):
        raise TooFewPoints('there is no point')
    return float(values.mean())


def _by_joint(chunks: np.ndarray) -> dict[str, float]:
    return dict(zip(JOINT_NAMES, numbers.variance_per_dimension(chunks).tolist(), strict=True))
