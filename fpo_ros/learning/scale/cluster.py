"""Rollouts in Ray actors: units of work are handed out, and handed out again where a worker was lost."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.scale import wire
from fpo_ros.learning.scale.collecting import Cluster, Collected, units_of, with_cap
from fpo_ros.learning.scale.errors import ClusterError, WorkerVersionError
from fpo_ros.learning.scale.unit import EpisodeOptions, joined
from fpo_ros.learning.scale.worker import RolloutWorker
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.finite import NotFiniteError

try:
    import ray
    from ray import exceptions
except ModuleNotFoundError as error:
    if error.name != 'ray':
        raise
    raise ClusterError("rollouts on a cluster need Ray, which is not installed: pip install 'fpo_ros[scale]', or "
                       "pip install 'ray>=2.40'") from error

#: What the head of a cluster has to accept a connection [s].
_CONNECT_TIMEOUT_S = 10.0


@dataclass(eq=False)
class _Worker:
    """An actor and what it is asked for.

    :param call: the answer that is waited for; None while it is idle.
    :param deadline: when it must be there, by the monotonic clock [s].
    :param unit: number of its unit; None while it starts.
    :param about: its description; None while it starts.
    """

    actor: Any
    call: Any
    deadline: float
    unit: int | None = None
    about: dict | None = None

    @property
    def name(self) -> str:
        return 'a worker' if self.about is None else f'worker {self.about["pid"]} on {self.about["host"]}'


@dataclass
class _Job:
    """One collection: its units and what became of them."""

    units: list[np.ndarray]
    arguments: tuple
    waiting: deque[int] = field(default_factory=deque)
    done: dict[int, Rollout] = field(default_factory=dict)
    attempts: list[int] = field(default_factory=list)
    workers: set[tuple[str, int]] = field(default_factory=set)
    processors: set[str] = field(default_factory=set)
    lost_workers: int = 0
    recollected: int = 0

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.units)))
        self.attempts.extend([0] * len(self.units))


class ClusterPool:
    """Workers on a Ray cluster, kept from one collection to the next; a lost one is replaced while there is work.

    :param where: the cluster.
    :raises ClusterError: when it cannot be reached.
    """

    def __init__(self, where: Cluster) -> None:
        self._where = where
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(where.address)
        self._actor = ray.remote(num_cpus=where.cpus, max_restarts=0, max_task_retries=0,
                                 scheduling_strategy='SPREAD')(RolloutWorker)
        self._workers: list[_Worker] = []
        self._last_words = ''

    def collect(self, policy: FlowPolicy, scenes: np.ndarray, options: EpisodeOptions | None = None,
                progress: Callable[[int], None] | None = None) -> Collected:
        """Run one episode per scene; see :func:`fpo_ros.learning.scale.collect_episodes`."""
        units = units_of(scenes, self._where.unit)
        message = ray.put(wire.policy_message(policy))
        job = _Job(units, (policy.digest(), [message], len(units[0]), asdict(with_cap(options))))
        try:
            self._start(min(self._wanted(), len(units)) - len(self._workers))
            while len(job.done) < len(units):
                self._hand_out(job)
                self._wait(job, progress)
        except BaseException:
            self._kill_all()  # what is still running belongs to nobody
            raise
        return Collected(joined([job.done[unit] for unit in range(len(units))]), len(job.workers), job.lost_workers,
                         job.recollected, tuple(sorted(job.processors)))

    def _wanted(self) -> int:
        if self._where.workers is not None:
            return self._where.workers
        cores = [int(node['Resources'].get('CPU', 0)) for node in ray.nodes() if node['Alive']]
        wanted = sum(count // self._where.cpus for count in cores)
        if not wanted:
            raise ClusterError(f'no machine of the cluster at {self._where.address} has {self._where.cpus} free cores '
                               f'for a worker (cores: {cores}): add machines with ray start, or say how many workers '
                               'to wait for')
        return wanted

    def _start(self, count: int) -> None:
        for _ in range(count):
            actor = self._actor.remote(self._where.cpus)
            deadline = time.monotonic() + self._where.start_timeout_s
            self._workers.append(_Worker(actor, actor.describe.remote(), deadline))

    def _hand_out(self, job: _Job) -> None:
        for worker in self._workers:
            if worker.call is None and job.waiting:
                worker.unit = job.waiting.popleft()
                digest, policy, size, options = job.arguments
                worker.deadline = time.monotonic() + self._where.unit_timeout_s
                worker.call = worker.actor.run.remote(digest, policy, size, job.units[worker.unit], options)

    def _wait(self, job: _Job, progress: Callable[[int], None] | None) -> None:
        """Wait for one answer, or for the first deadline, and act on it."""
        asked = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not asked:
            raise ClusterError(
                f'no worker is left on the cluster at {self._where.address} for {len(job.waiting)} of '
                f'{len(job.units)} units of work; the last one: {self._last_words}. See that its machines are up '
                '(ray status), have free cores and memory and this version of fpo_ros')
        first = min(worker.deadline for worker in asked.values())
        ready, _ = ray.wait(list(asked), timeout=max(0.0, first - time.monotonic()))
        for call in ready:
            self._answered(asked.pop(call), job, progress)
        for worker in asked.values():
            if worker.deadline <= time.monotonic():
                limit = self._where.start_timeout_s if worker.about is None else self._where.unit_timeout_s
                self._lost(worker, f'no answer within {limit:g} s', job)

    def _answered(self, worker: _Worker, job: _Job, progress: Callable[[int], None] | None) -> None:
        try:
            answer = ray.get(worker.call)
        except exceptions.RayTaskError as failure:
            if worker.about is None or isinstance(failure.cause, exceptions.RayError):
                self._lost(worker, _first_line(failure), job)
            elif isinstance(failure.cause, NotFiniteError):  # the policy's fault: it would happen anywhere
                raise failure.cause from failure
            else:
                raise ClusterError(f'{worker.name}: {failure.cause or failure}') from failure
        except exceptions.RayError as failure:
            self._lost(worker, _first_line(failure), job)
        else:
            worker.call = None
            if worker.about is None:
                worker.about = _checked(answer)
                return
            job.done[worker.unit] = wire.rollout_of(answer)
            worker.unit = None
            job.workers.add((worker.about['host'], worker.about['pid']))
            job.processors.add(worker.about['processor'])
            if progress:
                progress(sum(len(job.units[unit]) for unit in job.done))

    def _lost(self, worker: _Worker, reason: str, job: _Job) -> None:
        """Do without a worker: its unit goes to another one, and another one is started in its place.

        One that did not even start is not replaced: the next would not either.
        """
        ray.kill(worker.actor)
        self._workers.remove(worker)
        self._last_words = f'{worker.name}: {reason}'
        if worker.unit is None:
            return
        unit = job.units[worker.unit]
        job.lost_workers += 1
        job.recollected += len(unit)
        job.attempts[worker.unit] += 1
        if job.attempts[worker.unit] > self._where.retries:
            raise ClusterError(
                f'the unit of scenes {unit[0]} to {unit[-1]} lost {job.attempts[worker.unit]} workers, one after the '
                f'other; the last one: {self._last_words}. See the memory of the machines, or give a unit fewer '
                'episodes or more time')
        job.waiting.appendleft(worker.unit)
        self._start(1)

    def _kill_all(self) -> None:
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers.clear()

    def close(self) -> None:
        """End the workers, and the connection if it was made here."""
        self._kill_all()
        if self._connected:
            ray.shutdown()

    def __enter__(self) -> ClusterPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connect(address: str) -> None:
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # 'local' starts a cluster, which would report itself
    try:
        _check_answers(address)
        ray.init(address=address, include_dashboard=False if address == 'local' else None,
                 logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError, exceptions.RayError) as error:
        raise ClusterError(f'no cluster at {address}: {_first_line(error)}. Start one with ray start --head, join this '
                           'machine to it with ray start --address=..., and give the address that it prints') from error


def _check_answers(address: str) -> None:
    """Fail at once where nothing listens at ``host:port``: Ray would try for minutes, with pages of warnings.

    :raises OSError: as the system reports it.
    :raises ValueError: for an address of another form.
    """
    if address in ('auto', 'local') or '://' in address:
        return
    host, _, port = address.rpartition(':')
    host = host.strip('[]')
    if not host or not port.isdecimal():
        raise ValueError("an address is host:port, 'auto' or 'local'")
    if host in ('localhost', '127.0.0.1', '::1'):
        host = ray.util.get_node_ip_address()  # as Ray itself takes it
    socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def _checked(about: dict) -> dict:
    """Return the description of a worker of the same versions.

    :raises WorkerVersionError: naming what differs.
    """
    ours, theirs = wire.versions(), about['versions']
    other = [f'{name} {theirs.get(name, "none")} (here {version})' for name, version in ours.items()
             if theirs.get(name) != version]
    if other:
        raise WorkerVersionError(f'worker {about["pid"]} on {about["host"]} has {", ".join(other)}: its episodes would '
                                 'be others. Install the same versions on every machine of the cluster')
    return about


def _first_line(error: Exception) -> str:
    """Return what an error of Ray says before it explains itself."""
    return next((line.strip().rstrip('.') for line in str(error).splitlines() if line.strip()), type(error).__name__)
