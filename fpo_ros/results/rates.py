"""Success of several evaluations together."""

from __future__ import annotations

from fpo_ros.releases.wilson import wilson_interval


def pooled(evaluations: list[dict], rule: str) -> tuple[float, float, float]:
    """Return success by a rule, and its 95 % Wilson interval, of all episodes of several evaluations.

    :param evaluations: with a string of 0 and 1 for every rule, a scene each.
    :param rule: ``'gym'`` or ``'strict'``.
    """
    bits = ''.join(entry[rule] for entry in evaluations)
    return bits.count('1') / len(bits), *wilson_interval(bits.count('1'), len(bits))
