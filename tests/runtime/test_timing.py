"""Statistics of the control loop, against hand-computed periods."""

from __future__ import annotations

import numpy as np
import pytest

from fpo_ros.runtime.timing import PeriodStatistics

MS = 1_000_000


def run(instants_ms, **options):
    statistics = PeriodStatistics(0.02, **options)
    for instant in instants_ms:
        statistics.tick(round(instant * MS))
    return statistics.summary()


def test_even_ticks_have_no_jitter():
    summary = run(range(0, 2000, 20))
    assert (summary.ticks, summary.missed, summary.clock_jumps) == (100, 0, 0)
    assert summary.rate_hz == pytest.approx(50)
    assert summary.jitter_max_s == pytest.approx(0, abs=1e-12)


def test_a_period_counts_as_missed_only_when_more_than_half_a_period_late():
    assert run([0, 30]).missed == 0
    assert run([0, 30.001]).missed == 1
    assert run([0, 20, 90, 110]).missed == 1


def test_percentiles_of_known_deviations():
    # periods 20 + 1..100 hundredths of a ms late
    summary = run(np.cumsum([0, *(20 + k / 100 for k in range(1, 101))]))
    assert summary.jitter_p50_s == pytest.approx(0.5e-3)
    assert summary.jitter_p99_s == pytest.approx(0.99e-3)
    assert summary.jitter_max_s == pytest.approx(1e-3)
    assert summary.rate_hz == pytest.approx(1 / 0.020505)


def test_early_ticks_are_jitter_too():
    assert run([0, 15, 40]).jitter_max_s == pytest.approx(5e-3)


def test_only_the_window_counts_for_rate_and_jitter():
    summary = run([0, 500, 520, 540, 560], window=3)
    assert summary.rate_hz == pytest.approx(50)
    assert summary.missed == 1


def test_a_clock_that_jumps_back_is_counted_and_spoils_no_period():
    statistics = PeriodStatistics(0.02)
    assert statistics.tick(100 * MS) is None
    assert statistics.tick(40 * MS) == -60 * MS
    assert statistics.tick(60 * MS) == 20 * MS
    summary = statistics.summary()
    assert summary.clock_jumps == 1
    assert summary.rate_hz == pytest.approx(50)


def test_before_the_second_tick_there_are_no_figures():
    assert run([]).rate_hz == 0
    assert run([5]).jitter_p99_s == 0


@pytest.mark.parametrize('nominal, window', [(0, 10), (-1, 10), (float('nan'), 10), (0.02, 0)])
def test_unusable_settings_are_refused(nominal, window):
    with pytest.raises(ValueError, match='must be positive'):
        PeriodStatistics(nominal, window)
