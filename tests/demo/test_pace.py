"""Pace of the command stream over all control periods."""

from __future__ import annotations

import pytest

from fpo_ros.demo.pace import ControlPeriods

MS = 1_000_000


def fed(rows: list[tuple[int, float, int]]) -> dict:
    """Return the figures of (ticks, stamp [ms], missed ticks)."""
    periods = ControlPeriods(0.02)
    for ticks, stamp_ms, missed in rows:
        periods.add(ticks, round(stamp_ms * MS), missed)
    return periods.summary()


def test_a_disturbance_long_ago_counts():
    """The controller's own figures forget it after 500 periods."""
    rows, stamp = [], 0.0
    for tick in range(2001):
        rows.append((tick, stamp, 0))
        stamp += 25.0 if tick < 40 else 20.0
    found = fed(rows)
    assert found['command_jitter_p99_ms'] == pytest.approx(5.0)
    assert found['command_jitter_max_ms'] == pytest.approx(5.0)
    assert found['ticks'] == 2000 and found['command_rate_hz'] == pytest.approx(2000 / 40.2)


def test_99_of_100_periods_are_within_p99():
    stamps = [20.0 * tick for tick in range(101)]
    stamps[50] += 3.0  # two periods, one 3 ms long, one 3 ms short
    found = fed([(tick, stamp, 0) for tick, stamp in enumerate(stamps)])
    assert found['command_jitter_p99_ms'] == pytest.approx(3.0)
    stamps = [20.0 * tick + (3.0 if tick > 50 else 0.0) for tick in range(101)]
    found = fed([(tick, stamp, 0) for tick, stamp in enumerate(stamps)])
    assert found['command_jitter_p99_ms'] == pytest.approx(0.0) and found['command_jitter_max_ms'] == pytest.approx(3.0)


def test_a_lost_status_is_no_jitter_and_does_not_change_the_rate():
    found = fed([(tick, 20.0 * tick, 0) for tick in range(100) if tick % 7])
    assert found['command_jitter_max_ms'] == pytest.approx(0.0)
    assert found['command_rate_hz'] == pytest.approx(50.0) and found['ticks'] == 98


def test_missed_ticks_are_those_of_the_episodes():
    found = fed([(tick, 20.0 * tick, 40 + (tick > 15) + (tick > 17)) for tick in range(10, 20)])
    assert found['missed_ticks'] == 2 and found['ticks'] == 9


def test_a_clock_that_is_set_back_is_no_period():
    found = fed([(0, 1000, 0), (1, 1020, 0), (2, 500, 0), (3, 520, 0), (4, 1060, 0)])
    assert found['command_jitter_p99_ms'] == pytest.approx(520.0)


@pytest.mark.parametrize('rows', [[], [(0, 0, 0)], [(0, 0, 0), (2, 40, 0)]])
def test_without_two_periods_in_a_row_there_are_no_figures(rows):
    with pytest.raises(ValueError, match='control periods'):
        fed(rows)
