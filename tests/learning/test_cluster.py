"""Episodes on a Ray cluster of two nodes: those of this machine bit for bit, whatever workers and nodes are lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
import torch
from equal_episodes import OPTIONS, SCENES, assert_equal
from two_nodes import Watched, await_both_workers

import fpo_ros
from fpo_ros.learning import scale
from fpo_ros.learning.evaluate import evaluate
from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.scale import Cluster, ClusterError, Local, collect_episodes, open_pool
from fpo_ros.policy.finite import NotFiniteError

# Much of it is the start of processes, on a machine that may be busy.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


# The first that needs the cluster: the workers of the others keep both cores.
def test_the_command_line_evaluates_on_a_cluster_as_on_this_machine(nodes, tmp_path):
    policy = tiny_task.policy()
    policy.save(tmp_path)
    done = subprocess.run(
        [sys.executable, '-m', 'fpo_ros.cli', 'eval', '--policy', tmp_path, '--episodes', '3', '--max-steps', '40',
         '--json', '--cluster', nodes.address, '--workers', '1'],
        timeout=90, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result, here = json.loads(done.stdout.splitlines()[-1]), evaluate(policy, 3, max_steps=40).to_dict()
    del result['wall_s'], here['wall_s']
    assert result == here and result['control_steps'] == 120


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


def test_workers_take_a_new_policy(pool, waist_task):
    first, second = tiny_task.policy(0), tiny_task.policy(1)
    got = [pool.collect(policy, SCENES[:4], OPTIONS).rollout for policy in (first, second, first)]
    assert_equal(got[0], got[2])
    assert_equal(got[1], collect_episodes(second, SCENES[:4], Local(), OPTIONS).rollout)
    assert not torch.equal(got[0].chunks, got[1].chunks)


def test_an_iteration_of_fine_tuning_collects_the_same_episodes_on_a_cluster_as_on_this_machine(pool, waist_task):
    config, learned = tiny_task.config(episodes=8), []
    with open_pool(Local(threads=2, unit=8)) as local:
        for watched in (Watched(local), Watched(pool)):
            learner = FPO(tiny_task.policy(), config, seed=5)
            for _ in range(2):
                learner.run_iteration(watched)
            learned.append((watched.rollouts, learner.policy.digest()))
    (here, weights), (there, weights_there) = learned
    for wanted, got in zip(here, there, strict=True):
        assert_equal(got, wanted)
    assert weights == weights_there
    rewarded = here[0].rewarded
    assert rewarded.any() and not rewarded.all(), 'the case needs both'
    assert not torch.equal(here[0].states[:, 0], here[1].states[:, 0]), 'iterations have scenes of their own'


def test_a_policy_that_is_damaged_fails_as_on_this_machine(pool, waist_task):
    damaged = tiny_task.policy()
    damaged.model.action_out_proj.weight.data.fill_(3e38)  # finite, so that it can be saved
    with pytest.raises(NotFiniteError, match='the policy is damaged'):
        collect_episodes(damaged, SCENES[:2], Local(), OPTIONS)
    with pytest.raises(NotFiniteError, match='the policy is damaged'):
        pool.collect(damaged, SCENES[:2], OPTIONS)


def test_a_worker_of_another_version_is_refused(pool, monkeypatch):
    monkeypatch.setattr(fpo_ros, '__version__', '9.9')
    with pytest.raises(scale.WorkerVersionError, match=r'fpo_ros 0\.\S+ \(here 9\.9\).*Install the same versions'):
        pool.collect(tiny_task.policy(), SCENES[:2], OPTIONS)


def test_too_large_workers_are_refused_and_late_ones_given_up(connected):
    with open_pool(Cluster(connected.address, cpus=64)) as large, pytest.raises(ClusterError, match='64 free cores'):
        large.collect(tiny_task.policy(), SCENES, OPTIONS)
    late = Cluster(connected.address, workers=1, start_timeout_s=0.01)
    with open_pool(late) as few, pytest.raises(ClusterError, match=r'no worker is left .* 1 of 1 .*no answer within'):
        few.collect(tiny_task.policy(), SCENES, OPTIONS)


@pytest.mark.parametrize('kind', ['killed', 'stopped'])
def test_the_episodes_of_a_lost_worker_are_run_again(connected, pool, waist_task, monkeypatch, kind):
    policy = tiny_task.policy()
    if kind == 'stopped':  # it is lost once it has been silent for so long; others must have begun
        await_both_workers(pool)
        monkeypatch.setattr(pool, '_where', replace(pool._where, unit_timeout_s=8.0))
    connected.fault(SCENES[4], kind)
    got = pool.collect(policy, SCENES, OPTIONS)
    assert (got.lost_workers, got.recollected_episodes) == (1, 2)
    assert_equal(got.rollout, collect_episodes(policy, SCENES, Local(), OPTIONS).rollout)


def test_fine_tuning_on_a_cluster_is_that_on_this_machine_but_for_what_it_counts_as_lost(connected, pool, waist_task,
                                                                                          tmp_path, monkeypatch):
    start, config = tiny_task.policy(), tiny_task.config()
    runs = {'here': finetune(start, tmp_path / 'here', config, 2, threads=1)}
    monkeypatch.setattr('fpo_ros.learning.finetune.open_pool', lambda _: Watched(pool))
    connected.fault(2, 'killed')  # training scenes of seed 0 begin at 0
    runs['there'] = finetune(start, tmp_path / 'there', config, 2, cluster=Cluster(connected.address))
    assert runs['here'][0].digest() == runs['there'][0].digest()
    lost = [(runs[name][1][0]['lost_workers'], runs[name][1][0]['recollected_episodes']) for name in ('here', 'there')]
    assert lost == [(0, 0), (1, 2)]


def test_a_unit_that_loses_every_worker_is_given_up_by_name(connected, pool, waist_task, monkeypatch):
    monkeypatch.setattr(pool, '_where', replace(pool._where, retries=0))
    connected.fault(SCENES[4], 'killed')
    with pytest.raises(ClusterError, match=f'scenes {SCENES[4]} to {SCENES[5]} lost 1 workers.*memory'):
        pool.collect(tiny_task.policy(), SCENES, OPTIONS)


# The last that needs the cluster: its node does not come back.
@pytest.mark.once
def test_the_episodes_of_a_lost_node_are_run_again_by_the_others(connected, pool, waist_task):
    await_both_workers(pool)
    policy = tiny_task.policy()
    node = connected.other_node_id
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
