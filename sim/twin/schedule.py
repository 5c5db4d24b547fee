"""A file of faults: what breaks how long after the start."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fpo_ros.hardware.documents import read_yaml
from fpo_ros.sim.twin.faults import Fault, FaultError, FaultState, unknown

#: Key of an entry → type of its value; only ``at`` and ``fault`` must be there.
_KEYS = {'at': float, 'fault': str} | {field.name: float if field.name in ('value', 'duration') else str
                                       for field in fields(Fault) if field.name != 'name'}


class ScheduleError(ValueError):
    """A schedule that cannot be used; the message names the file, the entry and the key."""


@dataclass(frozen=True)
class Scheduled:
    """A fault and when it begins, counted from the start of the twin [s]."""

    at: float
    fault: Fault


class FaultSchedule:
    """Faults in the order in which they begin.

    :param entries: in any order.
    """

    def __init__(self, entries: list[Scheduled]) -> None:
        self._left = deque(sorted(entries, key=lambda one: one.at))

    def __len__(self) -> int:
        return len(self._left)

    def due(self, since_start_s: float) -> list[Fault]:
        """Return the faults that begin by now, each once."""
        found = []
        while self._left and self._left[0].at <= since_start_s:
            found.append(self._left.popleft().fault)
        return found


def load_schedule(path: str | Path, state: FaultState) -> FaultSchedule:
    """Read a YAML file such as::

        faults:
          - {at: 5.0, fault: overload, target: follower_left, motor: gripper}
          - {at: 8.0, fault: camera_stall, target: cam_high, duration: 2.0}

    :param state: of the cell, which knows its arms and cameras.
    :raises ScheduleError: naming the key that is wrong and what it may be.
    """
    document = read_yaml(path, ScheduleError)
    if not isinstance(document, dict) or set(document) != {'faults'} or not isinstance(document['faults'], list):
        raise ScheduleError(f"{path} must hold one key, 'faults', with a list of entries")
    return FaultSchedule([_entry(entry, f'{path}: faults[{index}]', state)
                          for index, entry in enumerate(document['faults'])])


def _entry(entry: Any, where: str, state: FaultState) -> Scheduled:
    if not isinstance(entry, dict):
        raise ScheduleError(f'{where} must hold keys and values, got {entry!r}')
    for key, value in entry.items():
        if key not in _KEYS:
            raise ScheduleError(f'{where}.{key}: {unknown("key", str(key), _KEYS)}')
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if (_KEYS[key] is float) != number or not (number or isinstance(value, str)):
            kind = 'number' if _KEYS[key] is float else 'text'
            raise ScheduleError(f'{where}.{key}: must be a {kind}, got {value!r}')
    for key in ('at', 'fault'):
        if key not in entry:
            raise ScheduleError(f'{where}.{key}: is missing')
    at = float(entry['at'])
    if not (math.isfinite(at) and at >= 0):
        raise ScheduleError(f'{where}.at: must be 0 or more seconds, got {at:g}')
    values = {key: _KEYS[key](value) for key, value in entry.items() if key not in ('at', 'fault')}
    fault = Fault(entry['fault'], **values)
    try:
        state.check(fault)
    except FaultError as error:
        raise ScheduleError(f'{where}.{error.key}: {error.why}') from error
    return Scheduled(at, fault)
