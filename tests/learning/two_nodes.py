"""A Ray cluster of two nodes on this machine, whose workers can be told to fail; and what watches its episodes."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import tiny_task
from equal_episodes import OPTIONS, SCENES

from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.scale import Collected, Pool

# Read when Ray is imported. Whoever reaches a cluster can run anything in it: this one asks for a token.
os.environ.update(RAY_AUTH_MODE='token', RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED='0')
#: A node that is gone, which refuses connections, is missed after two seconds, not after half a minute; one that a busy
#: machine keeps from answering is given as long as Ray gives it.
_BEAT = {'health_check_initial_delay_ms': 1000, 'health_check_period_ms': 500, 'health_check_timeout_ms': 10000,
         'health_check_failure_threshold': 4}
_SMALL = {'object_store_memory': 80 * 2**20, 'num_cpus': 1}


class TwoNodes:
    """A cluster of two nodes with a core each, and the folder of faults.

    :param cluster: Ray's, with its head alone; the other node is added.
    :param faults: folder in which faults are laid; see ``worker_faults``.
    """

    def __init__(self, cluster: object, faults: Path) -> None:
        self._cluster, self._other, self.faults = cluster, cluster.add_node(**_SMALL), faults
        self.address: str = cluster.address

    @property
    def other_node_id(self) -> str:
        """Of the node that is not the head."""
        return self._other.node_id

    def remove_other_node(self) -> None:
        """Kill the node that is not the head, for good."""
        self._cluster.remove_node(self._other, allow_graceful=False)

    def fault(self, name: object, kind: str) -> None:
        """Let a fault of a kind strike the unit or the node of a name."""
        (self.faults / str(name)).write_text(kind)


@contextmanager
def started(faults: Path) -> Iterator[TwoNodes]:
    """Run a cluster for as long as the block lasts; no process of it may be left then."""
    import ray
    from ray.cluster_utils import Cluster

    # Ray's sockets lie below: a path of a socket has at most 107 bytes.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix='fpo-', dir='/tmp') as short:
        patch.setenv('RAY_TMPDIR', short)
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        cluster = Cluster(initialize_head=True, head_node_args={'include_dashboard': False, '_system_config': _BEAT,
                                                                **_SMALL})
        try:
            yield TwoNodes(cluster, faults)
        finally:
            ray.shutdown()
            cluster.shutdown()
            left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
            _, alive = psutil.wait_procs(left, timeout=20)
            assert not alive, f'processes are left: {alive}'


def await_both_workers(pool: Pool) -> None:
    """Give the pool work until both workers do some: one may start after the other has done all there is."""
    import ray

    give_up = time.monotonic() + 150
    while pool.collect(tiny_task.policy(), SCENES, OPTIONS).workers < 2:
        nodes = [(node['Alive'], node['DeathReason'], node['DeathReasonMessage']) for node in ray.nodes()]
        assert all(alive for alive, *_ in nodes), f'a node of the cluster was lost: {nodes}'
        assert time.monotonic() < give_up, f'a second worker did not start within 150 s: {pool._workers}'


class Watched:
    """A pool that keeps the episodes that it collected; the one it hands on to stays open.

    :param pool: runs the episodes.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.rollouts: list[Rollout] = []

    def collect(self, *arguments: object) -> Collected:
        """Run one episode per scene; see :func:`fpo_ros.learning.scale.collect_episodes`."""
        collected = self._pool.collect(*arguments)
        self.rollouts.append(collected.rollout)
        return collected

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        pass
