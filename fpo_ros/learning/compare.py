"""Two policies on the same scenes with the same start noise: which one succeeds more often."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

#: Rule of success → array of an evaluation.
RULES = {'gym': 'success', 'strict': 'strict'}
#: Quantile of the normal distribution for 95 % intervals.
_Z = 1.959964


@dataclass(frozen=True)
class PairedResult:
    """What paired episodes say of the success of policy B less that of policy A.

    :param episodes: pairs.
    :param both: both succeeded.
    :param only_a: A alone succeeded.
    :param only_b: B alone succeeded.
    :param neither: none did.
    :param difference: success rate of B less that of A.
    :param low: lower end of its 95 % interval.
    :param high: upper end.
    :param p_value: of McNemar's exact test, two-sided: the chance of counts as uneven if both were as good.
    """

    episodes: int
    both: int
    only_a: int
    only_b: int
    neither: int
    difference: float
    low: float
    high: float
    p_value: float

    def in_words(self) -> str:
        """Return the result in one line."""
        return (f'B succeeds in {self.both + self.only_b} of {self.episodes}, A in {self.both + self.only_a}: '
                f'{100 * self.difference:+.1f} points (95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}; '
                f'{self.only_b} scenes B alone, {self.only_a} A alone, McNemar p {self.p_value:.2g})')

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def paired(a: np.ndarray, b: np.ndarray) -> PairedResult:
    """Compare (N,) bool successes of two policies, pair by pair.

    The interval is Bonett and Price's (2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data", J. Educ. Behav. Stat. 37): Wald's with one pair added to each kind in which the
    two differ. The test is McNemar's (1947) in its exact form: of those pairs, as many favour either.

    :raises ValueError: for arrays of different lengths or none.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f'successes of shapes {a.shape} and {b.shape} are no pairs: give two of one length')
    count, only_a, only_b = len(a), int((a & ~b).sum()), int((~a & b).sum())
    plus, minus = (only_b + 1) / (count + 2), (only_a + 1) / (count + 2)
    half = _Z * math.sqrt((plus + minus - (plus - minus) ** 2) / (count + 2))
    uneven = only_a + only_b
    return PairedResult(
        count, int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()), (only_b - only_a) / count,
        max(-1.0, plus - minus - half), min(1.0, plus - minus + half),
        float(binomtest(only_b, uneven).pvalue) if uneven else 1.0)
