"""The study of late chunks: when a method observes, what it executes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fpo_ros import cli
from fpo_ros.bench.chunks import METHODS, TRAINED, Cell, broken_promises, cell_of, measure, methods_of, run
from fpo_ros.bench.chunks import _Episodes as Episodes
from fpo_ros.learning.latent import with_latent_actor
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0


@pytest.fixture
def policy():
    contract = PolicyContract(horizon=10, execute=10, flow_steps=2)
    stats = NormStats(np.zeros(21), np.ones(21), START_JOINTS, np.full(14, 0.1))
    return FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats)


@pytest.mark.parametrize(('method', 'delay', 'executed'), [
    ('synchronous', 15, 20), ('ensemble', 0, 1), ('ensemble', 3, 3), ('ensemble', 20, 0), ('newest', 0, 10),
    ('realtime', 6, 10), ('realtime', 10, 10), ('realtime', 11, 0)])
def test_a_method_observes_as_often_as_its_chunks_allow(method, delay, executed):
    assert cell_of(method, delay, 20, 20) == Cell(method, delay, executed)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('delay', [0, 2, 5])
def test_every_method_plays_whole_episodes_at_every_delay(policy, monkeypatch, method, delay):
    monkeypatch.setattr('fpo_ros.bench.chunks.MAX_STEPS', 40)
    found = run(policy, cell_of(method, delay, 10, 10), 3, batch=2, threads=1)
    assert found['episodes'] == 3 and found['bridged'] and 0 <= found['success_rate'] <= 1
    assert found['jerk_rms'] > 0 and np.isfinite(found['seam_jerk_rms'])


def test_synchronous_execution_without_delay_succeeds_as_an_evaluation_does(monkeypatch):
    trained = FlowPolicy.load('fpo_state')
    found = run(trained, cell_of('synchronous', 0, 20, 20), 10, threads=1)
    assert found['successes'] >= 8, 'the shipped policy succeeds in 99 %'


def test_chunks_that_are_too_short_are_said_to_be(policy):
    found = run(policy, cell_of('realtime', 6, 10, 10), 3)
    assert found == {'method': 'realtime', 'delay_ms': 120, 'executed': 0, 'episodes': 3, 'bridged': False}


@pytest.mark.parametrize(('delays', 'methods', 'match'), [
    ([-1], METHODS, 'a delay of -1 ms'), ([0], ['fast'], "unknown method 'fast': use synchronous")])
def test_unknown_cells_are_refused(policy, delays, methods, match):
    with pytest.raises(ValueError, match=match):
        measure(policy, 1, delays, methods)


def test_a_flow_that_was_trained_to_go_on_is_compared_too(policy, monkeypatch):
    monkeypatch.setattr('fpo_ros.bench.chunks.MAX_STEPS', 40)
    trained = FlowPolicy(Pi0(preset('pi0_tiny'), replace(policy.contract, max_delay=4)), policy.stats)
    rows = measure(trained, 2, [40, 100], threads=1)
    assert [row['bridged'] for row in rows if row['method'] == TRAINED] == [True, False], 'it learned 80 ms'
    assert methods_of(policy) == METHODS
    with pytest.raises(ValueError, match='was not trained to go on'):
        run(policy, cell_of(TRAINED, 2, 10, 10), 1)


def test_an_actor_over_start_noise_is_refused(policy):
    with pytest.raises(ValueError, match='which guidance does not know'):
        run(with_latent_actor(policy), cell_of('realtime', 0, 10, 10), 1)


def test_the_command_line_prints_a_row_for_each(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('fpo_ros.bench.chunks.MAX_STEPS', 30)
    policy.save(tmp_path)
    words = ['bench', 'chunks', '--policy', str(tmp_path), '--episodes', '2', '--methods',
             'synchronous,realtime', '--json']
    with pytest.raises(SystemExit) as end:
        cli.main([*words, '--delays', '0,120'])
    out = capsys.readouterr().out
    assert end.value.code == 0
    rows = json.loads(out.splitlines()[-1])['chunks']
    assert [(row['method'], row['delay_ms'], row['bridged']) for row in rows] == [
        ('synchronous', 0, True), ('realtime', 0, True), ('synchronous', 120, True), ('realtime', 120, False)]
    with pytest.raises(SystemExit) as end:
        cli.main([*words, '--delays', 'soon'])
    assert end.value.code == 1 and 'use milliseconds' in capsys.readouterr().err


def row(delay_ms, rate, method='realtime', bridged=True):
    return {'method': method, 'delay_ms': delay_ms, 'bridged': bridged} | ({'success_rate': rate} if bridged else {})


def test_real_time_chunking_may_lose_five_points_up_to_120_ms():
    kept = [row(0, 0.9), row(60, 0.85), row(120, 0.86), row(200, 0.1), row(120, 0.1, 'newest')]
    assert broken_promises(kept) == []
    lost, = broken_promises([*kept, row(100, 0.845)])
    assert lost == ('realtime at 100 ms: 84.5% succeeded, without delay 90.0%; promised are at most 5 points less')
    assert 'do not bridge' in broken_promises([row(0, 0.9), row(120, 0, bridged=False)])[0]
    assert len(broken_promises([*kept, row(0, 0.9, TRAINED), row(60, 0.2, TRAINED)])) == 1
    for partial in (kept[1:], kept[:1], kept[4:], [row(0, 0.9), row(200, 0.9)]):
        with pytest.raises(ValueError, match='let --methods hold realtime, and --delays 0 and one up to 120'):
            broken_promises(partial)


def test_an_ensemble_has_one_chunk_computed_at_a_time(policy, monkeypatch):
    monkeypatch.setattr('fpo_ros.bench.chunks.MAX_STEPS', 70)
    observed, real = [], Episodes._chunk
    monkeypatch.setattr(Episodes, '_chunk', lambda self, now: (observed.append(now), real(self, now))[1])
    run(policy, cell_of('ensemble', 4, 10, 10), 1, threads=1)
    assert len(observed) > 2 and set(np.diff(observed)) == {4}
