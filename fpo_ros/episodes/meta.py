"""What is known about an episode beside its arrays."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.policy.contract import CONTROL_RATE_HZ, OBSERVATION_KINDS

SOURCES = ('expert', 'policy', 'teleop')
#: Levels of lists and objects in ``extra``; each JSON library gives up at some depth.
EXTRA_DEPTH = 32


@dataclass(frozen=True)
class EpisodeMeta:
    """Description of one episode.

    :param task: name of the task, for example ``'transfer_cube'``.
    :param prompt: language instruction.
    :param observation: ``'state'`` or ``'pixels'``.
    :param source: who acted: ``'expert'``, ``'policy'`` or ``'teleop'``.
    :param created: ISO 8601 time of the first step.
    :param seed: seed of the scene, None where there is none.
    :param success: whether the task was done, None if nobody said.
    :param steps: rows of every per-step array; set by the store.
    :param policy_version: release that acted, empty if none did.
    :param control_rate_hz: steps per second.
    :param extra: further JSON values, by name.
    """

    task: str
    prompt: str
    observation: str
    source: str
    created: str
    seed: int | None = None
    success: bool | None = None
    steps: int = 0
    policy_version: str = ''
    control_rate_hz: float = CONTROL_RATE_HZ
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ('seed', 'success', 'steps', 'control_rate_hz'):
            value = getattr(self, name)
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())
        for name in ('task', 'prompt', 'observation', 'source', 'created', 'policy_version'):
            if not isinstance(getattr(self, name), str):
                raise EpisodeStoreError(f'episode meta {name} must be text, got {getattr(self, name)!r}')
        if not self.task:
            raise EpisodeStoreError('episode meta task is empty: name the task')
        for name, known in (('observation', OBSERVATION_KINDS), ('source', SOURCES)):
            if getattr(self, name) not in known:
                raise EpisodeStoreError(f'episode meta {name} is {getattr(self, name)!r}: '
                                        f'use one of {", ".join(known)}')
        _check_created(self.created)
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise EpisodeStoreError(f'episode meta seed must be an integer or None, got {self.seed!r}')
        if self.success is not None and not isinstance(self.success, bool):
            raise EpisodeStoreError(f'episode meta success must be True, False or None, got {self.success!r}')
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise EpisodeStoreError(f'episode meta steps must be a count, got {self.steps!r}')
        rate = self.control_rate_hz
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise EpisodeStoreError(f'episode meta control_rate_hz must be positive, got {rate!r}')
        object.__setattr__(self, 'control_rate_hz', float(rate))
        if not isinstance(self.extra, dict):
            raise EpisodeStoreError(f'episode meta extra must be a dict, got {type(self.extra).__name__}')
        try:
            json.dumps(self.extra, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise EpisodeStoreError(f'episode meta extra holds what JSON cannot: {error}') from error
        if _deeper(self.extra, EXTRA_DEPTH):
            raise EpisodeStoreError(f'episode meta extra is nested deeper than {EXTRA_DEPTH} levels')

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; :meth:`from_dict` reads them back."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> EpisodeMeta:
        """Return a copy with some entries changed.

        :raises EpisodeStoreError: on an unknown or invalid entry.
        """
        return EpisodeMeta.from_dict(self.to_dict() | changes)

    @classmethod
    def from_dict(cls, data: dict[str, Any] | EpisodeMeta) -> EpisodeMeta:
        """Read what :meth:`to_dict` wrote; entries with a default may be left out.

        :raises EpisodeStoreError: on a missing, unknown or invalid entry.
        """
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            raise EpisodeStoreError(f'episode meta must be a dict, got {type(data).__name__}')
        known = {entry.name for entry in dataclasses.fields(cls)}
        required = {entry.name for entry in dataclasses.fields(cls)
                    if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING}
        if set(data) - known or required - set(data):
            raise EpisodeStoreError(f'episode meta entries missing: {sorted(required - set(data))}, '
                                    f"unknown (put them under 'extra'): {sorted(set(data) - known)}")
        return cls(**data)


def _deeper(value: Any, levels: int) -> bool:
    """Say whether JSON values are nested deeper than so many levels."""
    if not isinstance(value, (dict, list, tuple)):
        return False
    return not levels or any(_deeper(entry, levels - 1)
                             for entry in (value.values() if isinstance(value, dict) else value))


def _check_created(created: str) -> None:
    try:
        datetime.fromisoformat(created.removesuffix('Z'))
    except ValueError as error:
        raise EpisodeStoreError(f'episode meta created must be an ISO 8601 time, got {created!r}') from error
