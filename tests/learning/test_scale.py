"""Episodes here and on a Ray cluster of two nodes: equal bit for bit, whatever is lost on the way."""

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
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny_task
import torch
from recorded import PIXELS

import fpo_ros
from fpo_ros import cli
from fpo_ros.learning import scale
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.scale import Cluster, ClusterError, EpisodeOptions, Local, collect_episodes, open_pool, wire
from fpo_ros.learning.scale.unit import BLOCK, UnitRunner, start_noise
from fpo_ros.policy.finite import NotFiniteError

SCENES = np.array([7, 3, 900_001, 11, 5, 2, 1_000_000, 13, 17, 19])
OPTIONS = EpisodeOptions(noise_seed=3)

# Read when Ray is imported. Whoever reaches a cluster can run anything in it: this one asks for a token.
os.environ.update(RAY_AUTH_MODE='token', RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED='0')


def assert_equal(got: Rollout, wanted: Rollout) -> None:
    """Compare every array bit for bit."""
    for field in fields(Rollout):
        one, other = np.asarray(getattr(got, field.name)), np.asarray(getattr(wanted, field.name))
        assert one.dtype == other.dtype and np.array_equal(one, other), field.name


def of_scenes(rollout: Rollout, where: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of some episodes, the prefix left out."""
    return {field.name: np.asarray(getattr(rollout, field.name))[where] for field in fields(Rollout)
            if field.name != 'prefix_kv'}


# --- on this machine -------------------------------------------------------------------------------------------------
def test_an_episode_does_not_depend_on_threads_units_or_companions(waist_task):
    policy = tiny_task.policy()
    whole = collect_episodes(policy, SCENES, Local(threads=1), OPTIONS).rollout
    assert whole.success.any() and not whole.success.all(), 'the case needs both'
    for where in (Local(threads=2), Local(threads=1, unit=3), Local(threads=2, unit=1)):
        assert_equal(collect_episodes(policy, SCENES, where, OPTIONS).rollout, whole)
    order = np.array([8, 0, 4])
    some = collect_episodes(policy, np.append(SCENES[order], np.arange(100, 100 + 2 * BLOCK)), Local(), OPTIONS).rollout
    wanted = of_scenes(whole, order)
    for name, value in of_scenes(some, np.arange(3)).items():
        assert np.array_equal(value, wanted[name]), name


def test_what_the_network_says_of_a_row_does_not_depend_on_how_many_there_are():
    policy, noise = tiny_task.policy(), torch.randn(33, 4, 14)
    states, prefix = torch.randn(33, 21), policy.prefix(None).detach()
    blocks = scale.unit.BlockPolicy(policy)
    for count in range(1, 34):
        assert torch.equal(blocks.act(states[:count], prefix, noise[:count]), blocks.act(states, prefix, noise)[:count])
    torch.testing.assert_close(blocks.act(states, prefix, noise), policy.act(states, prefix, noise))


def test_an_episode_from_pictures_does_not_depend_on_its_unit():
    policy = tiny_task.policy(contract=PIXELS)
    options = EpisodeOptions(noise_seed=1, max_steps=6)
    whole = collect_episodes(policy, SCENES[:3], Local(threads=1), options).rollout
    assert whole.prefix_kv.shape[2] == whole.valid.size
    assert_equal(collect_episodes(policy, SCENES[:3], Local(threads=1, unit=2), options).rollout, whole)


def test_noise_is_a_function_of_seed_scene_and_decision():
    shape = (50, 14)
    first = start_noise(0, SCENES, 0, shape)
    assert torch.equal(first[4], start_noise(0, SCENES[4:5], 0, shape)[0])
    drawn = [first[0], first[1], start_noise(1, SCENES, 0, shape)[0], start_noise(0, SCENES, 1, shape)[0]]
    for index, one in enumerate(drawn):
        assert all(abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.15
                   for other in drawn[:index])
    assert abs(float(first.mean())) < 0.05 and abs(float(first.std()) - 1) < 0.05


def test_noise_seed_and_scale_reach_the_flow(waist_task):
    policy = tiny_task.policy()
    chunks = [collect_episodes(policy, SCENES[:2], Local(), options).rollout.chunks for options in (
        EpisodeOptions(noise_seed=0), EpisodeOptions(noise_seed=1), EpisodeOptions(noise_seed=0, noise_scale=0.0),
        EpisodeOptions(noise_seed=1, noise_scale=0.0))]
    assert not torch.equal(chunks[0], chunks[1]) and torch.equal(chunks[2], chunks[3])


def test_torch_keeps_its_threads_and_prefixes_can_be_left_out(waist_task):
    torch.set_num_threads(2)
    try:
        got = collect_episodes(tiny_task.policy(), SCENES[:2], Local(), EpisodeOptions(prefixes=False)).rollout
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert got.prefix_kv.shape[2] == 0 and got.valid.any()


def test_an_evaluation_with_random_noise_does_not_depend_on_the_batch(waist_task):
    policy = tiny_task.policy()
    whole, parts = evaluate(policy, 9), evaluate(policy, 9, batch=2)
    assert np.array_equal(whole.success, parts.success) and whole.control_steps == parts.control_steps


def test_a_policy_and_a_rollout_survive_the_journey(waist_task):
    policy = tiny_task.policy()
    message = wire.policy_message(policy)
    assert set(message) == {'policy.json', 'policy.safetensors'}
    assert all(content.dtype == np.uint8 for content in message.values())
    assert wire.policy_of(message).digest() == policy.digest()
    with UnitRunner(policy, 2) as runner:
        rollout = runner.run(SCENES[:2], OPTIONS)
    assert_equal(wire.rollout_of(wire.rollout_message(rollout)), rollout)


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


# --- on a cluster ----------------------------------------------------------------------------------------------------
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
def test_fine_tuning_on_a_cluster_counts_what_was_lost_and_changes_nothing_else(connected, pool, waist_task, tmp_path,
                                                                                monkeypatch):
    class Kept:
        """The pool, which stays open."""

        def __enter__(self):
            return pool

        def __exit__(self, *_: object) -> None:
            pass

    start, config = tiny_task.policy(), tiny_task.config()
    runs = {}
    for name, opened in (('here', open_pool(Local(threads=1))), ('there', Kept())):
        monkeypatch.setattr('fpo_ros.learning.finetune.open_pool', lambda _, opened=opened: opened)
        if name == 'there':
            connected.fault(2, 'killed')  # training scenes of seed 0 begin at 0
        runs[name] = finetune(start, tmp_path / name, config, 1, cluster=Cluster(connected.address))
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
