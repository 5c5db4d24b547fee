"""``fpo-ros bench graph``: its statistics by hand, the cameras beside a bare subscriber, and what it prints."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fpo_ros import cli  # noqa: E402
from fpo_ros.bench import graph, graph_cameras  # noqa: E402
from fpo_ros.bench import policy as policy_bench  # noqa: E402
from fpo_ros.bench.graph_figures import (  # noqa: E402
    KEYS,
    STAGES,
    Chunk,
    Tick,
    answers,
    hold_after_joints,
    hold_after_rows,
    latencies,
    percentile,
    verdicts,
)
from fpo_ros.bench.plot import plot_stages  # noqa: E402
from fpo_ros.runtime.controller_config import ArmState  # noqa: E402

pytestmark = pytest.mark.ros
MS = 1_000_000
CHUNK = Chunk(sequence=7, observed_ns=100 * MS, stamp_ns=108 * MS, arrived_ns=109 * MS, inference_ns=5 * MS)
TICK = Tick(50, 120 * MS, 0, ArmState.POLICY, 19, 7, (0.0,), 122 * MS)
STAGED = {'ingest': 1, 'gate': 2, 'inference': 5, 'transport': 1, 'tick': 11, 'command': 2}


def test_percentiles_are_values_that_were_seen():
    assert [percentile([4.0, 1.0, 3.0, 2.0], percent) for percent in (0, 50, 75, 76, 99)] == [1, 2, 3, 4, 4]


def test_stages_of_a_chunk_add_up_to_all_of_its_way():
    later = replace(TICK, stamp_ns=140 * MS, sent_ns=141 * MS)
    found, = answers([CHUNK], {100 * MS: 101 * MS}, [replace(TICK, sequence=6), TICK, later])
    assert found == pytest.approx(STAGED) and sum(found.values()) == pytest.approx(22)


@pytest.mark.parametrize(('observations', 'ticks'), [
    ({}, [TICK]), ({100 * MS: 101 * MS}, []), ({100 * MS: 101 * MS}, [replace(TICK, sent_ns=None)])])
def test_a_chunk_that_was_not_seen_all_the_way_is_left_out(observations, ticks):
    assert answers([CHUNK], observations, ticks) == []


def test_overhead_is_what_is_neither_inference_nor_bare_transport():
    rows = [STAGED, STAGED | {'inference': 30.0}, STAGED | {'tick': 15.0}]
    assert latencies(rows, 1.5) == pytest.approx({
        'observation_to_command_p50_ms': 26, 'observation_to_command_p99_ms': 47, 'overhead_p50_ms': 15.5})
    with pytest.raises(ValueError, match='no chunk was seen'):
        latencies([], 1.5)


def ticks_of(*rows: tuple[int, float], state: ArmState = ArmState.POLICY) -> list[Tick]:
    return [Tick(number, 20 * MS * number, 0, state, remaining, 1, (command,))
            for number, (remaining, command) in enumerate(rows)]


def test_arms_that_stop_at_once_hold_a_period_after_the_last_row():
    assert hold_after_rows(ticks_of((2, 0.1), (1, 0.2), (0, 0.3), (0, 0.3), (0, 0.3))) == 20


def test_arms_that_brake_hold_when_their_command_stays():
    assert hold_after_rows(ticks_of((1, 0.2), (0, 0.3), (0, 0.38), (0, 0.4), (0, 0.4), (0, 0.4))) == 40


def test_without_an_end_of_the_rows_nothing_was_held():
    assert hold_after_rows(ticks_of((0, 0.1), (0, 0.1))) is None
    assert hold_after_rows(ticks_of((1, 0.1), (0, 0.2))) is None


def test_holding_without_joint_states_counts_from_when_they_are_too_old():
    seen = ticks_of((5, 0.1), (4, 0.2)) + [Tick(15, 300 * MS, 0, ArmState.HOLD, 0, 1, (0.2,))]
    assert hold_after_joints(seen, 30 * MS, 0.25) == pytest.approx(20)
    assert hold_after_joints(seen, 310 * MS, 0.25) is None


GOOD = dict.fromkeys(KEYS, 0.0) | {
    'command_rate_hz': 50.0, 'bare_rate_hz': 50.05, 'command_jitter_p99_ms': 1.4, 'bare_jitter_p99_ms': 0.5,
    'missed_ticks': 3, 'bare_missed_ticks': 2, 'overhead_p50_ms': 10.0, 'camera_drop_fraction': 0.001,
    'ingest_cpu_fraction': 0.3, 'bare_subscriber_cpu_fraction': 0.2, 'hold_reaction_ms': 40.4, 'seconds': 60.0}


@pytest.mark.parametrize(('change', 'missed'), [
    ({}, ()), ({'command_rate_hz': 49.9}, ('command rate',)), ({'command_jitter_p99_ms': 1.6}, ('error of a period',)),
    ({'missed_ticks': 4}, ('missed control periods',)), ({'missed_ticks': 4, 'seconds': 120.0}, ()),
    ({'overhead_p50_ms': 10.1}, ('observation to command',)), ({'camera_drop_fraction': 0.0011}, ('camera frames',)),
    ({'ingest_cpu_fraction': 0.31}, ('CPU of camera_ingest',)), ({'hold_reaction_ms': 40.6}, ('hold after',))])
def test_every_figure_is_judged_by_its_bound(change, missed):
    found = [one.what for one in verdicts(GOOD | change) if not one.kept]
    assert len(found) == len(missed) and all(what.startswith(name) for what, name in zip(found, missed, strict=True))


def test_the_command_line_prints_the_keys_and_a_verdict_for_each_bound(monkeypatch, capsys, tmp_path):
    run = graph.Measured(GOOD, [STAGED] * 3, 5.0, 2.0, 0.0, True)
    monkeypatch.setattr(graph, 'measure', lambda *given: run)
    monkeypatch.setattr(policy_bench, 'released', lambda policy, root, copies: [type('Release', (), {'path': root})])
    with pytest.raises(SystemExit) as end:
        cli.main(['bench', 'graph', '--json', '--plot', str(tmp_path / 'stages.svg')])
    out, err = capsys.readouterr()
    assert end.value.code == 0 and tuple(json.loads(out)) == KEYS
    assert err.count('    kept ') == 7 and 'MISSED' not in err and all(f'  {stage} ' in err for stage in STAGES)
    assert '</svg>' in (tmp_path / 'stages.svg').read_text()


def test_stages_are_drawn(tmp_path):
    plot_stages([STAGED, STAGED | {'tick': 3.0}], tmp_path / 'new' / 'stages.png')
    assert (tmp_path / 'new' / 'stages.png').stat().st_size > 1000


@pytest.mark.serial
def test_cameras_are_counted_and_weighed(tmp_path):
    seen: list[float] = []
    found = graph_cameras.measure(1.0, '/bench_test', int(os.environ['ROS_DOMAIN_ID']), tmp_path, seen.append)
    assert 0 <= found['camera_drop_fraction'] < 1 and 0 <= found['bare_drop_fraction'] < 1
    assert found['ingest_cpu_fraction'] > 0 and found['bare_subscriber_cpu_fraction'] > 0 and seen
