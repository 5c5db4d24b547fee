"""Episodes on a Ray cluster of two nodes: those of this machine bit for bit, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny_task
import torch
from equal_episodes import OPTIONS, SCENES, assert_equal

import fpo_ros
from fpo_ros import cli
from fpo_ros.learning import scale
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.scale import Cluster, ClusterError, Local, collect_episodes, open_pool
from fpo_ros.policy.finite import NotFiniteError

# Read when Ray is imported. Whoever reaches a cluster can run anything in it: this one asks for a token.
os.environ.update(RAY_AUTH_MODE='token', RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED='0')


@pytest.mark.parametrize(('scenes', 'where', 'words'), [
    (SCENES[:0], Local(), 'at least one scene'),
    (SCENES[None], Local(), 'at least one scene'),
    (SCENES, Local(unit=0), 'at least 1'),
])
def test_impossible_collections_are_refused(scenes, where, words):
    with pytest.raises(ValueError, match=words):
        collect_episodes(tiny_task.policy(), scenes, where)


def test_a_cluster_of_nothing_is_refused():
    with pytest.raises(ValueError, match='workers of a cluster must be at least 1'):
        Cluster('auto', workers=0)


def test_without_ray_one_line_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'ray', None)
    monkeypatch.delitem(sys.modules, 'fpo_ros.learning.scale.cluster', raising=False)
    tiny_task.policy().save(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(['eval', '--policy', str(tmp_path), '--cluster', 'localhost:6379'])
    error = capsys.readouterr().err.strip()
    assert end.value.code == 1 and 'fpo_ros[scale]' in error and len(error.splitlines()) == 1


def test_workers_without_a_cluster_are_refused(tmp_path, capsys):
    tiny_task.policy().save(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(['eval', '--policy', str(tmp_path), '--workers', '2'])
    assert end.value.code == 1 and '--workers needs --cluster' in capsys.readouterr().err


@pytest.mark.parametrize('address', ['localhost:1', 'nowhere', ':6379'])
def test_a_cluster_that_is_not_there_is_named_at_once(address):
    pytest.importorskip('ray')
    with pytest.raises(ClusterError, match=f'no cluster at {address}: .*ray start --head'):
        open_pool(Cluster(address))


@dataclass
class TwoNodes:
    """A cluster of two nodes with a core each, and the folder of faults."""

    address: str
    other_node: object
    remove_other_node: Callable[[], None]
    faults: Path

    def fault(self, name: object, kind: str) -> None:
        (self.faults / str(name)).write_text(kind)


@pytest.fixture(scope='module')
def nodes(tmp_path_factory) -> Iterator[TwoNodes]:
    ray = pytest.importorskip('ray')
    from ray.cluster_utils import Cluster as Nodes

    # Ray's sockets lie below: a path of a socket has at most 107 bytes.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix='fpo-', dir='/tmp') as short:
        patch.setenv('RAY_TMPDIR', short)
        # A node that is gone is missed after two seconds, not after half a minute.
        beat = {'health_check_initial_delay_ms': 1000, 'health_check_period_ms': 500, 'health_check_timeout_ms': 2000,
                'health_check_failure_threshold': 4}
        small = {'object_store_memory': 80 * 2**20, 'num_cpus': 1}
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        cluster = Nodes(initialize_head=True, head_node_args={'include_dashboard': False, '_system_config': beat,
                                                              **small})
        try:
            other = cluster.add_node(**small)
            yield TwoNodes(cluster.address, other, lambda: cluster.remove_node(other, allow_graceful=False),
                           tmp_path_factory.mktemp('faults'))
        finally:
            ray.shutdown()
            cluster.shutdown()
            left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
            _, alive = psutil.wait_procs(left, timeout=20)
            assert not alive, f'processes are left: {alive}'


@pytest.fixture(scope='module')
def connected(nodes) -> TwoNodes:
    """The cluster, whose workers reward the waist and have faults."""
    import ray

    here = str(Path(__file__).parent)
    ray.init(address=nodes.address, logging_level='warning', log_to_driver=False, runtime_env={
        'worker_process_setup_hook': 'worker_faults.install',
        'env_vars': {'PYTHONPATH': here, 'FPO_ROS_TEST_FAULTS': str(nodes.faults)}})
    return nodes


@pytest.fixture(scope='module')
def pool(connected) -> Iterator[scale.Pool]:
    """Up to two workers with units of two scenes."""
    with open_pool(Cluster(connected.address, unit=2, unit_timeout_s=8.0, start_timeout_s=60.0)) as opened:
        yield opened


def await_both_workers(pool: scale.Pool) -> None:
    """Give the pool work until both workers do some: one may start after the other has done all there is."""
    give_up = time.monotonic() + 60
    while pool.collect(tiny_task.policy(), SCENES, OPTIONS).workers < 2:
        assert time.monotonic() < give_up


@pytest.mark.serial
def test_the_command_line_evaluates_on_a_cluster_as_on_this_machine(nodes, tmp_path):
    policy = tiny_task.policy()
    policy.save(tmp_path)
    done = subprocess.run(
        [sys.executable, '-m', 'fpo_ros.cli', 'eval', '--policy', tmp_path, '--episodes', '3', '--json',
         '--cluster', nodes.address, '--workers', '1'], timeout=90, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, here = json.loads(done.stdout.splitlines()[-1]), evaluate(policy, 3).to_dict()
    del result['wall_s'], here['wall_s']
    assert result == here and result['control_steps'] == 900


@pytest.mark.serial
def test_one_worker_or_two_return_what_this_machine_does(pool, waist_task):
    policy, seen = tiny_task.policy(), []
    alone = pool.collect(policy, SCENES[:2], OPTIONS)
    assert alone.workers == 1
    assert_equal(alone.rollout, collect_episodes(policy, SCENES[:2], Local(threads=1), OPTIONS).rollout)
    await_both_workers(pool)
    together = pool.collect(policy, SCENES, OPTIONS, seen.append)
    here = collect_episodes(policy, SCENES, Local(threads=2), OPTIONS)
    assert_equal(together.rollout, here.rollout)
    assert together.processors == here.processors and together.lost_workers == 0 and together.workers == 2
    assert here.rollout.success.any() and not here.rollout.success.all(), 'the case needs both'
    assert seen == [2, 4, 6, 8, 10]


@pytest.mark.serial
def test_workers_take_a_new_policy(pool, waist_task):
    first, second = tiny_task.policy(0), tiny_task.policy(1)
    got = [pool.collect(policy, SCENES[:4], OPTIONS).rollout for policy in (first, second, first)]
    assert_equal(got[0], got[2])
    assert_equal(got[1], collect_episodes(second, SCENES[:4], Local(), OPTIONS).rollout)
    assert not torch.equal(got[0].chunks, got[1].chunks)


@pytest.mark.serial
def test_a_policy_that_is_damaged_fails_as_on_this_machine(pool, waist_task):
    damaged = tiny_task.policy()
    damaged.model.action_out_proj.weight.data.fill_(3e38)  # finite, so that it can be saved
    with pytest.raises(NotFiniteError, match='the policy is damaged'):
        collect_episodes(damaged, SCENES[:2], Local(), OPTIONS)
    with pytest.raises(NotFiniteError, match='the policy is damaged'):
        pool.collect(damaged, SCENES[:2], OPTIONS)


@pytest.mark.serial
@pytest.mark.parametrize('kind', ['killed', 'stopped'])
def test_the_episodes_of_a_lost_worker_are_run_again(connected, pool, waist_task, kind):
    policy = tiny_task.policy()
    connected.fault(SCENES[4], kind)
    got = pool.collect(policy, SCENES, OPTIONS)
    assert (got.lost_workers, got.recollected_episodes) == (1, 2)
    assert_equal(got.rollout, collect_episodes(policy, SCENES, Local(), OPTIONS).rollout)


@pytest.mark.serial
def test_fine_tuning_on_a_cluster_is_that_on_this_machine_but_for_what_it_counts_as_lost(connected, pool, waist_task,
                                                                                          tmp_path, monkeypatch):
    class Kept:
        """The pool, which stays open."""

        def __enter__(self):
            return pool

        def __exit__(self, *_: object) -> None:
            pass

    start, config = tiny_task.policy(), tiny_task.config()
    runs = {'here': finetune(start, tmp_path / 'here', config, 2, threads=1)}
    monkeypatch.setattr('fpo_ros.learning.finetune.open_pool', lambda _: Kept())
    connected.fault(2, 'killed')  # training scenes of seed 0 begin at 0
    runs['there'] = finetune(start, tmp_path / 'there', config, 2, cluster=Cluster(connected.address))
    assert runs['here'][0].digest() == runs['there'][0].digest()
    lost = [(runs[name][1][0]['lost_workers'], runs[name][1][0]['recollected_episodes']) for name in ('here', 'there')]
    assert lost == [(0, 0), (1, 2)]


@pytest.mark.serial
def test_a_unit_that_loses_every_worker_is_given_up_by_name(connected, pool, waist_task, monkeypatch):
    monkeypatch.setattr(pool, '_where', replace(pool._where, retries=0))
    connected.fault(SCENES[4], 'killed')
    with pytest.raises(ClusterError, match=f'scenes {SCENES[4]} to {SCENES[5]} lost 1 workers.*memory'):
        pool.collect(tiny_task.policy(), SCENES, OPTIONS)


@pytest.mark.serial
def test_a_worker_of_another_version_is_refused(pool, monkeypatch):
    monkeypatch.setattr(fpo_ros, '__version__', '9.9')
    with pytest.raises(scale.WorkerVersionError, match=r'fpo_ros 0\.\S+ \(here 9\.9\).*Install the same versions'):
        pool.collect(tiny_task.policy(), SCENES, OPTIONS)


@pytest.mark.serial
def test_too_large_workers_are_refused_and_late_ones_given_up(connected):
    with open_pool(Cluster(connected.address, cpus=64)) as large, pytest.raises(ClusterError, match='64 free cores'):
        large.collect(tiny_task.policy(), SCENES, OPTIONS)
    late = Cluster(connected.address, workers=1, start_timeout_s=0.01)
    with open_pool(late) as few, pytest.raises(ClusterError, match=r'no worker is left .* 1 of 1 .*no answer within'):
        few.collect(tiny_task.policy(), SCENES, OPTIONS)


@pytest.mark.serial
def test_the_episodes_of_a_lost_node_are_run_again_by_the_others(connected, pool, waist_task):
    await_both_workers(pool)
    policy = tiny_task.policy()
    node = connected.other_node.node_id
    connected.fault(node, 'node lost')
    struck = connected.faults / f'{node}.struck'
    ended = threading.Event()

    def remove() -> None:
        while not struck.exists() and not ended.wait(0.05):
            pass
        connected.remove_other_node()

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        scenes = np.arange(200, 240)
        got = pool.collect(policy, scenes, OPTIONS)
    finally:
        ended.set()
        remover.join(30)
    assert not remover.is_alive() and struck.exists()
    assert (got.lost_workers, got.recollected_episodes, got.workers) == (1, 2, 1)
    assert_equal(got.rollout, collect_episodes(policy, scenes, Local(), OPTIONS).rollout)
