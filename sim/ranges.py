"""Ranges that values are drawn from: a lowest and a highest value each, checked where they come from outside."""

from __future__ import annotations

import math
from dataclasses import field, fields
from numbers import Real
from typing import Any

Range = tuple[float, float]


def range_field(same: float, least: float = -math.inf, most: float = math.inf, above: bool = False) -> Any:
    """Return a dataclass field of a range whose default ``same`` changes nothing.

    :param least: lowest value allowed, or, with ``above``, the one that all must exceed.
    :param most: highest value allowed.
    """
    return field(default=(same, same), metadata={'least': least, 'most': most, 'above': above})


def check_ranges(ranges: object, error: type[ValueError], kind: str = '') -> None:
    """Turn the fields of a frozen dataclass that :func:`range_field` made into pairs of floats.

    :param error: what is raised for a range that cannot be.
    :param kind: word that stands before the names of the fields in its message.
    """
    for one in fields(ranges):
        if 'least' in one.metadata:
            value = checked_range(f'{kind} {one.name}'.lstrip(), getattr(ranges, one.name), error, **one.metadata)
            object.__setattr__(ranges, one.name, value)


def checked_range(name: str, value: Any, error: type[ValueError], least: float, most: float, above: bool) -> Range:
    """Return a range as two floats; ``error`` for anything else, not finite, upside down or out of bounds."""
    bounds = _in_words(least, most, above)
    pair = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(one, Real) and not isinstance(one, bool) for one in pair):
        raise error(f'{name} must be two numbers [lowest, highest], got {value!r}; allowed: {bounds}')
    try:
        low, high = map(float, pair)
    except OverflowError:  # whole numbers have no end
        low = high = math.inf
    if not (math.isfinite(low) and math.isfinite(high)):
        raise error(f'{name} is not finite: {value!r}; allowed: {bounds}')
    if low > high:
        raise error(f'{name} is upside down: {low:g} to {high:g}; write the lowest value first (allowed: {bounds})')
    if low < least or high > most or (above and low <= least):
        raise error(f'{name} is out of bounds: {low:g} to {high:g}, allowed {bounds}')
    return low, high


def _in_words(least: float, most: float, above: bool) -> str:
    if above:
        return f'above {least:g}' if math.isinf(most) else f'above {least:g} up to {most:g}'
    if math.isinf(least):
        return 'any finite numbers'
    return f'from {least:g}' if math.isinf(most) else f'{least:g} to {most:g}'
