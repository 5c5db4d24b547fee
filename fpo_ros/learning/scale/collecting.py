"""Where episodes are collected: one interface for this machine and for a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fpo_ros.learning import rollout as rollouts
from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.scale import wire
from fpo_ros.learning.scale.unit import BLOCK, EpisodeOptions, UnitRunner, joined
from fpo_ros.policy.checkpoint import FlowPolicy


@dataclass(frozen=True)
class Local:
    """In this process.

    :param threads: of the physics; by default one per core that this process may use.
    :param unit: episodes of a unit of work, which run side by side.
    """

    threads: int | None = None
    unit: int = 3 * BLOCK


@dataclass(frozen=True)
class Cluster:
    """In workers on a Ray cluster.

    :param address: ``host:port`` of the cluster's head, ``'auto'`` for the one that this machine is part of, or
        ``'local'`` for one that lasts as long as the collection. A connection that this process has already is used.
    :param workers: the most workers; by default as many as the cluster has cores for.
    :param cpus: cores of a worker, each a thread of the physics.
    :param unit: episodes of a unit of work, which run side by side in a worker.
    :param unit_timeout_s: a worker that has not returned a unit by then is lost: it is killed [s].
    :param start_timeout_s: a worker that has not started by then is given up [s].
    :param retries: how often a unit that has lost its worker is begun again.
    """

    address: str
    workers: int | None = None
    cpus: int = 1
    unit: int = 16
    unit_timeout_s: float = 600.0
    start_timeout_s: float = 120.0
    retries: int = 3

    def __post_init__(self) -> None:
        for name in ('workers', 'cpus'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'{name} of a cluster must be at least 1, got {value}')


@dataclass(frozen=True)
class Collected:
    """Episodes, and how they came about.

    :param rollout: one episode per scene, in the order of the scenes.
    :param workers: workers that returned episodes; 0 on this machine.
    :param lost_workers: workers that died or did not answer in time while they had episodes.
    :param recollected_episodes: episodes that were lost with their worker and collected again.
    :param processors: kinds of processor that episodes ran on; with several of them, episodes need not be those of
        this machine bit for bit.
    """

    rollout: Rollout
    workers: int = 0
    lost_workers: int = 0
    recollected_episodes: int = 0
    processors: tuple[str, ...] = ()


class Pool(Protocol):
    """What runs units of work, and stays ready for the next policy."""

    def collect(self, policy: FlowPolicy, scenes: np.ndarray, options: EpisodeOptions | None = None,
                progress: Callable[[int], None] | None = None) -> Collected:
        """Run one episode per scene; see :func:`collect_episodes`."""


def collect_episodes(policy: FlowPolicy, scenes: np.ndarray, where: Local | Cluster | None = None,
                     options: EpisodeOptions | None = None, progress: Callable[[int], None] | None = None) -> Collected:
    """Run one episode per scene, here or on a cluster; the same scenes give the same episodes, bit for bit.

    :param scenes: (N,) scene seeds.
    :param where: this machine if None.
    :param progress: called with the number of episodes done, whenever a unit is.
    :raises ClusterError: when a cluster cannot be reached or no worker is left; see :class:`Cluster`.
    :raises WorkerVersionError: for a worker of other versions.
    :raises NotFiniteError: for actions that are not finite.
    """
    with open_pool(where or Local()) as pool:
        return pool.collect(policy, scenes, options, progress)


def open_pool(where: Local | Cluster) -> AbstractContextManager[Pool]:
    """Return a pool, for more than one collection with the same workers.

    :raises ClusterError: when a cluster cannot be reached, or Ray is not installed.
    """
    if isinstance(where, Local):
        return LocalPool(where)
    from fpo_ros.learning.scale.cluster import ClusterPool  # needs Ray

    return ClusterPool(where)


def units_of(scenes: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the scenes in units of at most ``size``, in their order.

    :raises ValueError: without a scene, or with units of none.
    """
    scenes = np.asarray(scenes)
    if scenes.ndim != 1 or not len(scenes):
        raise ValueError(f'scenes have shape {scenes.shape}: give at least one scene seed, as (N,) integers')
    if size < 1:
        raise ValueError(f'a unit of {size} episodes: use at least 1')
    return [scenes[start:start + size] for start in range(0, len(scenes), size)]


def with_cap(options: EpisodeOptions | None) -> EpisodeOptions:
    """Return options with a cap in numbers: this process's holds everywhere."""
    options = options or EpisodeOptions()
    return replace(options, max_steps=rollouts.cap_of(options.max_steps))


class LocalPool:
    """Runs units one after the other in this process; what one policy needs is kept from one collection to the next."""

    def __init__(self, where: Local) -> None:
        self._where = where
        self._policy: FlowPolicy | None = None
        self._runner: UnitRunner | None = None

    def collect(self, policy: FlowPolicy, scenes: np.ndarray, options: EpisodeOptions | None = None,
                progress: Callable[[int], None] | None = None) -> Collected:
        """Run one episode per scene; see :func:`collect_episodes`."""
        options, done, parts = with_cap(options), 0, []
        units = units_of(scenes, self._where.unit)
        runner = self._runner_of(policy, len(units[0]))
        for unit in units:
            parts.append(runner.run(unit, options))
            done += len(unit)
            if progress:
                progress(done)
        return Collected(joined(parts), processors=(wire.processor(),))

    def _runner_of(self, policy: FlowPolicy, episodes: int) -> UnitRunner:
        """Return what runs units of this policy; that of another one is closed."""
        if self._runner is None or policy is not self._policy or episodes > self._runner.episodes:
            self.close()
            self._policy, self._runner = policy, UnitRunner(policy, episodes, self._where.threads)
        return self._runner

    def close(self) -> None:
        """Stop the physics' threads and release the GL context."""
        if self._runner is not None:
            self._runner.close()
        self._policy = self._runner = None

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
