"""Success of several evaluations together."""

from __future__ import annotations

import numpy as np

from fpo_ros.releases.wilson import wilson_interval

#: Draws of the bootstrap.
_DRAWS = 4000


def bits(evaluations: list[dict], rule: str) -> np.ndarray:
    """Return (evaluations, scenes) successes of several evaluations of the same scenes.

    :param evaluations: with a string of 0 and 1 for every rule, a scene each.
    :param rule: ``'gym'`` or ``'strict'``.
    """
    return np.stack([np.frombuffer(entry[rule].encode(), np.uint8) == ord('1') for entry in evaluations])


def rate(evaluation: dict, rule: str) -> tuple[float, float, float]:
    """Return success by a rule, and its 95 % Wilson interval, of the episodes of one evaluation."""
    won, count = evaluation[rule].count('1'), len(evaluation[rule])
    return won / count, *wilson_interval(won, count)


def mean_over_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of (seeds, scenes) values and its 95 % interval, by a bootstrap over seeds and over scenes.

    Seeds are tried in the same scenes, so values are independent neither along rows nor along columns: each draw takes
    as many seeds and as many scenes as there are, with replacement, and the mean of what lies where they cross (the
    pigeonhole bootstrap, Owen 2007, Ann. Appl. Stat. 1). From few seeds it still says too little of others.
    """
    low, high = np.quantile(_drawn_means(values)[0], (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def difference(more: np.ndarray, less: np.ndarray) -> tuple[float, float, float]:
    """Return by how much the mean of (runs, scenes) values exceeds that of other runs, and its 95 % interval.

    Runs of one seed are no pairs: what a machine rounds otherwise leads them apart as far as another seed does. Scenes
    are the same for all. Each draw takes runs of either side, and scenes for both; see :func:`mean_over_seeds`.
    """
    means = np.subtract(*_drawn_means(more, less))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(more.mean() - less.mean()), float(low), float(high)


def _drawn_means(*sides: np.ndarray) -> list[np.ndarray]:
    """Return the means of each side's (seeds, scenes) values in all draws, of its own seeds and of common scenes."""
    rng, scenes = np.random.default_rng(0), sides[0].shape[1]
    by_scene = rng.multinomial(scenes, np.full(scenes, 1 / scenes), _DRAWS) / scenes
    found = []
    for values in sides:
        by_seed = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), _DRAWS) / len(values)
        found.append(((by_scene @ values.T.astype(float)) * by_seed).sum(1))
    return found
