"""Episodes for several processes that train together: each collects a share, and all get all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from safetensors.numpy import load, save

from fpo_ros.learning.parallel import Group, ParallelError
from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.scale import wire
from fpo_ros.learning.scale.collecting import Collected, Pool
from fpo_ros.learning.scale.unit import EpisodeOptions, joined
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.finite import NotFiniteError


class SharedPool:
    """A pool of every process as one: the episodes are those that one process would collect.

    :param pool: runs this process's share; None where process 0 collects alone and this is another one.
    :param group: the processes.
    :param alone: process 0 collects all episodes, on a cluster, and the others get them from it.
    """

    def __init__(self, pool: Pool | None, group: Group, alone: bool = False) -> None:
        self._pool, self._group, self._alone = pool, group, alone

    def collect(self, policy: FlowPolicy, scenes: np.ndarray, options: EpisodeOptions | None = None,
                progress: Callable[[int], None] | None = None) -> Collected:
        """Run one episode per scene; see :func:`fpo_ros.learning.scale.collect_episodes`.

        :param progress: is told of this process's share.
        :raises NotFiniteError: in every process, when it is in one.
        :raises ParallelError: where another process failed.
        """
        group = self._group
        if group.size == 1:
            return self._pool.collect(policy, scenes, options, progress)
        mine = (scenes if group.rank == 0 else scenes[:0]) if self._alone else group.share(scenes)
        own, failure = None, None
        try:
            if len(mine):
                own = self._pool.collect(policy, mine, options, progress)
        except Exception as error:  # the others must hear of it before it ends this process
            failure = error
        answers = group.gather(json.dumps(_answer(own, failure)).encode())
        if failure is not None:
            raise failure
        found = [json.loads(answer) for answer in answers]
        for rank, answer in enumerate(found):
            if answer['failure'] is not None:
                kind = NotFiniteError if answer['not_finite'] else ParallelError
                raise kind(f'process {rank} of {group.size}: {answer["failure"]}')
        messages = group.gather(b'' if own is None else _packed(own.rollout))
        rollout = joined([_unpacked(message) for message in messages if message])
        processors = {name for answer in found for name in answer['processors']}
        return replace(own or Collected(rollout), rollout=rollout, processors=tuple(sorted(processors)))


def _answer(own: Collected | None, failure: Exception | None) -> dict:
    """Return what the other processes must know of this one's share before any of it travels."""
    return {'failure': None if failure is None else ' '.join(str(failure).split()) or type(failure).__name__,
            'not_finite': isinstance(failure, NotFiniteError), 'processors': [] if own is None else own.processors}


def _packed(rollout: Rollout) -> bytes:
    """Return a rollout as the bytes of a safetensors file."""
    return save({f'{group}/{name}': np.ascontiguousarray(value)
                 for group, values in wire.rollout_message(rollout).items() for name, value in values.items()})


def _unpacked(message: bytes) -> Rollout:
    """Return what :func:`_packed` was given."""
    arrays: dict[str, dict[str, np.ndarray]] = {'tensors': {}, 'arrays': {}}
    for key, value in load(message).items():
        group, name = key.split('/')
        arrays[group][name] = value
    return wire.rollout_of(arrays)
