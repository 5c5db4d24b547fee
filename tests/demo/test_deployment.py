"""Releases and the running graph of the demo: repeatable after a kill, and honest about every episode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kept_exports import keeping

from fpo_ros.demo import deployment
from fpo_ros.demo.config import demo_config
from fpo_ros.demo.deployment import DeploymentError, graph, release
from fpo_ros.demo.display import Display
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.releases.keys import load_trusted_keys
from fpo_ros.releases.store import ReleaseStore
from fpo_ros.releases.wilson import wilson_interval
from fpo_ros.runtime import export


class Killed(BaseException):
    """Stands for kill -9."""


def evaluated(successes: int, episodes: int = 40) -> dict:
    low, high = wilson_interval(successes, episodes)
    return {'successes': successes, 'episodes': episodes, 'wilson_low': low, 'wilson_high': high}


@pytest.fixture(scope='module', autouse=True)
def kept_exports(tmp_path_factory):
    """Export every policy once, without the guided step: exports have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, 'write', keeping(tmp_path_factory.mktemp('exports')))
        yield


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A demo directory with both policies."""
    policy = FlowPolicy(Pi0(preset('pi0_tiny'), PolicyContract()),
                        NormStats(np.zeros(21), np.ones(21), START_JOINTS, np.full(14, 0.1)))
    for place in (tmp_path / 'sft', tmp_path / 'fpo' / 'best'):
        place.mkdir(parents=True)
        policy.save(place)
    return tmp_path


def published(work: Path, sft: int = 10, fpo: int = 30, max_drop: float = 0.0) -> dict:
    config = replace(demo_config('state', False), gate_max_drop=max_drop)
    return release(config, work, Display(), evaluated(sft), evaluated(fpo))


def killed_at_second_use(call: Callable, done: bool) -> Callable:
    """Return a function whose second use ends the process, before it did its work or after."""
    uses = []

    def wrapped(*arguments: object, **named: object) -> object:
        uses.append(arguments)
        if len(uses) < 2 or done:
            result = call(*arguments, **named)
        if len(uses) == 2:
            raise Killed
        return result

    return wrapped


def half_a_pair(keys: Path) -> None:
    keys.mkdir()
    (keys / 'release.key').write_text('half a key')
    raise Killed


KILLS = {
    'between the keys': (deployment, 'generate_keypair', half_a_pair),
    'before the second publication': (
        deployment, 'publish_policy', killed_at_second_use(deployment.publish_policy, False)),
    'after the second publication': (
        deployment, 'publish_policy', killed_at_second_use(deployment.publish_policy, True)),
    'before the second promotion': (ReleaseStore, 'promote', killed_at_second_use(ReleaseStore.promote, False)),
    'after the second promotion': (ReleaseStore, 'promote', killed_at_second_use(ReleaseStore.promote, True)),
}


@pytest.mark.parametrize('where', KILLS)
def test_the_release_stage_can_be_repeated_after_a_kill(work, monkeypatch, where):
    monkeypatch.setattr(*KILLS[where])
    with pytest.raises(Killed):
        published(work)
    monkeypatch.undo()
    versions = published(work)
    assert (versions['sft_version'], versions['fpo_version'], versions['refusal']) == ('v000001', 'v000002', '')
    store, trusted = ReleaseStore(work / 'releases'), load_trusted_keys(work / 'keys')
    assert store.versions() == store.history() == ['v000001', 'v000002'] and len(trusted) == 1
    for version in store.versions():
        store.load(version, trusted)
    assert {entry.name for entry in work.iterdir()} == {'sft', 'fpo', 'keys', 'releases'}


def test_a_refused_release_is_told_with_its_reason(work, capsys):
    versions = published(work, sft=30, fpo=10)
    assert versions['fpo_version'] is None and '50.0 points below' in versions['refusal']
    assert 'v000001 goes on serving' in capsys.readouterr().out
    assert ReleaseStore(work / 'releases').promoted() == 'v000001'


def test_the_gate_of_a_quick_demo_refuses_nothing_and_says_so(work, capsys):
    versions = published(work, sft=40, fpo=0, max_drop=demo_config('state', True).gate_max_drop)
    assert versions['fpo_version'] == 'v000002' and versions['refusal'] == ''
    assert 'gate of this quick demo lets every release pass' in capsys.readouterr().out


class Client:
    """Stands for the client of a graph in which every episode ends as told."""

    def __init__(self, **outcome: object) -> None:
        self.version, self.outcome, self.seeds = 'v000001', outcome, []
        self.node = SimpleNamespace(create_subscription=lambda kind, topic, call, qos: self._publish(call))

    def _publish(self, call) -> None:
        for tick in range(3):
            stamp = SimpleNamespace(sec=0, nanosec=tick * 20_000_000)
            call(SimpleNamespace(ticks=tick, header=SimpleNamespace(stamp=stamp), missed_ticks=0))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_for_version(self, version: str) -> None:
        assert version == self.version

    def announce(self, version: str) -> None:
        self.version = version

    def policy_status(self) -> SimpleNamespace:
        return SimpleNamespace(swaps=int(self.version == 'v000002'), inference_time_p50=0.01, inference_time_p99=0.02)

    def run_episode(self, seed: int, task: str, max_steps: int) -> SimpleNamespace:
        self.seeds.append(seed)
        values = {'success': True, 'reason': 'success', 'message': '', 'max_stage': 4, 'steps': 200,
                  'policy_version': self.version, 'episode_id': f'ep_{len(self.seeds):06d}'}
        return SimpleNamespace(**values | self.outcome)


@pytest.fixture
def run_graph(monkeypatch, tmp_path):
    """Return a function that runs the stage of the graph with a stand-in for the graph itself."""
    up = pytest.importorskip('fpo_ros.nodes.up', reason='needs ROS 2')
    client_module = pytest.importorskip('fpo_ros.nodes.client', reason='needs ROS 2')
    ended: list[bool] = []

    @contextlib.contextmanager
    def running(options, *, domain, sink):
        EpisodeStore.create_or_open(options.record_dir)
        try:
            yield
        finally:
            ended.append(True)

    def stage(client: Client, second: str | None = 'v000002') -> dict:
        monkeypatch.setattr(up, 'running_graph', running)
        monkeypatch.setattr(client_module, 'EpisodeClient', lambda domain: client)
        try:
            return graph(demo_config('state', True), tmp_path, Display(),
                         {'sft_version': 'v000001', 'fpo_version': second})
        finally:
            assert ended == [True], 'the nodes were ended'

    return stage


@pytest.mark.ros
def test_the_graph_runs_the_same_scenes_before_and_after_the_swap(run_graph):
    client = Client()
    found = run_graph(client)
    assert (found['episodes'], found['successes_sft'], found['successes_fpo'], found['swaps']) == (4, 2, 2, 1)
    assert client.seeds[:2] == client.seeds[2:]
    assert found['command_rate_hz'] == pytest.approx(50.0) and found['ticks'] == 2


@pytest.mark.ros
def test_a_refused_release_leaves_one_policy_and_no_swap(run_graph):
    found = run_graph(Client(), None)
    assert (found['episodes'], found['swaps']) == (2, 0)


@pytest.mark.ros
@pytest.mark.parametrize(('outcome', 'words'), [
    ({'episode_id': '', 'message': 'episode not stored: disk full'}, 'was not recorded: episode not stored: disk full'),
    ({'reason': 'stream', 'message': 'no reward'}, r'ended early \(stream\): no reward'),
    ({'policy_version': 'v000009'}, 'ran with v000009 instead of v000001'),
])
def test_an_episode_that_was_not_run_as_asked_ends_the_demo(run_graph, outcome, words):
    with pytest.raises(DeploymentError, match=words):
        run_graph(Client(**outcome))


@pytest.mark.ros
def test_episodes_of_an_interrupted_graph_are_not_counted_twice(run_graph, tmp_path, capsys):
    (tmp_path / 'episodes' / 'ep_000001').mkdir(parents=True)
    run_graph(Client())
    assert 'recorded anew' in capsys.readouterr().out
    assert EpisodeStore.open(tmp_path / 'episodes').ids() == []
