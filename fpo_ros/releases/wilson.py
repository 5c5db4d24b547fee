"""Confidence interval of a success rate."""

from __future__ import annotations

import math


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate.

    Formula: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927): centre (p + z²/2n) / (1 + z²/n), half width z/(1 + z²/n) * sqrt(p(1-p)/n + z²/4n²).

    :param successes: 0..n.
    :param n: trials, at least 1.
    :param z: quantile of the normal distribution; the default gives 95 %.
    :returns: (low, high) within 0..1.
    :raises ValueError: for impossible counts.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f'no interval for {successes} successes in {n} trials')
    rate, square = successes / n, z * z
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high
