"""Collections that cannot be, and clusters that cannot be reached."""

from __future__ import annotations

import sys

import pytest
import tiny_task
from equal_episodes import SCENES

from fpo_ros import cli
from fpo_ros.learning.scale import Cluster, ClusterError, Local, collect_episodes, open_pool


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
def test_a_cluster_that_is_not_there_is_named_at_once(address, monkeypatch):
    # A connection that other tests hold would be used instead.
    monkeypatch.setattr(pytest.importorskip('ray'), 'is_initialized', lambda: False)
    with pytest.raises(ClusterError, match=f'no cluster at {address}: .*ray start --head'):
        open_pool(Cluster(address))
