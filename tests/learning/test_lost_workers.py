"""Workers and nodes of a Ray cluster that are lost: their episodes are run again, and counted."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import tiny_task
from equal_episodes import OPTIONS, SCENES, assert_equal
from two_nodes import Watched, await_both_workers

from fpo_ros.learning.finetune import finetune
from fpo_ros.learning.scale import Cluster, ClusterError, Local, collect_episodes

pytestmark = pytest.mark.serial


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


# The last of this folder that needs the cluster: its node does not come back.
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
