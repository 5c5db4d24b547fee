"""Joint targets from outside: what is refused, and what may be clipped."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, JOINT_NAMES
from fpo_ros.sim.model import TaskModel

#: What happens to targets beyond a joint's range: an error, or the nearest target within it, as MuJoCo itself does
#: with gym-aloha's.
OUT_OF_RANGE = ('refuse', 'clip')
#: So far beyond a joint's range a target is taken for its end, as single precision rounds it [rad, grippers 0..1].
ROUNDING = 1e-6


class ActionError(ValueError):
    """Targets that the arms cannot be given; the message says which and what to do."""


def check_option(out_of_range: str) -> str:
    """Return the option.

    :raises ValueError: naming the known ones.
    """
    if out_of_range not in OUT_OF_RANGE:
        raise ValueError(f"out_of_range cannot be '{out_of_range}': use {' or '.join(OUT_OF_RANGE)}")
    return out_of_range


def checked_targets(targets: np.ndarray, model: TaskModel, out_of_range: str = 'refuse',
                    leading: tuple[int | None, ...] = ()) -> np.ndarray:
    """Return (..., 14) float64 joint targets within range.

    :param targets: (..., 14) [rad, grippers 0..1].
    :param out_of_range: one of :data:`OUT_OF_RANGE`.
    :param leading: expected sizes before the last; None for any.
    :raises ActionError: for another shape or type, NaN or infinity, and, unless clipped, values out of range.
    """
    array = np.asarray(targets)
    wanted = (*leading, ACTION_DIM)
    if array.ndim != len(wanted) or any(size not in (None, got) for size, got in zip(wanted, array.shape, strict=True)):
        shape = ', '.join('any' if size is None else str(size) for size in wanted)
        raise ActionError(f'targets have shape {array.shape}, expected ({shape}): 14 joints, {JOINT_NAMES[0]} to '
                          f'{JOINT_NAMES[-1]}')
    if array.dtype.kind not in 'fiu':
        raise ActionError(f'targets have type {array.dtype}, expected real numbers')
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ActionError(f'targets are not finite: {_first(~np.isfinite(array), array)}')
    beyond = (array < model.lower - ROUNDING) | (array > model.upper + ROUNDING)
    if beyond.any() and out_of_range == 'refuse':
        column = np.argwhere(beyond)[0][-1]
        raise ActionError(
            f'targets are out of range: {_first(beyond, array)}, allowed {model.lower[column]:g} to '
            f"{model.upper[column]:g}. Limit them, or say out_of_range='clip'")
    return np.clip(array, model.lower, model.upper)


def _first(bad: np.ndarray, array: np.ndarray) -> str:
    where = tuple(int(index) for index in np.argwhere(bad)[0])
    place = f' at {where[:-1]}' if len(where) > 1 else ''
    more = f' ({int(bad.sum())} such values)' if bad.sum() > 1 else ''
    return f'{JOINT_NAMES[where[-1]]}{place} is {array[where]:g}{more}'
