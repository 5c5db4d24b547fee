"""Observations are shifted until the chunks that answer them arrive shortly before a control period."""

from __future__ import annotations

import random

import pytest

from fpo_ros.nodes.logic.phase import PhaseLock

MS = 1_000_000
PERIOD = 20 * MS


def waits_of(lock: PhaseLock, offset_ns: int, latency, count: int = 400) -> list[float]:
    """Run both loops and return how long each chunk waited for its control period [ms].

    The change of a period takes effect one observation later, as that of an rclpy timer does.
    """
    now, due, waits = offset_ns, offset_ns + PERIOD, []
    for number in range(count):
        lock.control_period(now // PERIOD * PERIOD)
        change = lock.change(now)
        if number % 10 == 0:
            arrived = now + latency()
            lock.answered(now, arrived)
            waits.append((-arrived % PERIOD) / MS)
        now, due = due, due + PERIOD + change
    return waits


@pytest.mark.parametrize('offset_ms', [0, 3, 7, 11, 15, 19])
@pytest.mark.parametrize('latency_ms', [1, 8, 18, 35])
def test_chunks_come_to_wait_no_longer_than_the_margin(offset_ms, latency_ms) -> None:
    waits = waits_of(PhaseLock(PERIOD), offset_ms * MS, lambda: latency_ms * MS)
    assert waits[-1] == pytest.approx(2.0, abs=0.2)


def test_most_of_the_chunks_that_vary_are_in_time() -> None:
    rng = random.Random(0)
    waits = waits_of(PhaseLock(PERIOD), 5 * MS, lambda: rng.randint(6 * MS, 10 * MS), 4000)[100:]
    assert sum(wait < 7 for wait in waits) > 0.9 * len(waits)


def test_a_change_of_a_period_is_small_and_takes_the_nearer_way() -> None:
    lock = PhaseLock(PERIOD)
    lock.control_period(1000 * MS)
    lock.answered(1001 * MS, 1009 * MS)  # so observations belong 10 ms before a control period
    assert lock.change(1006 * MS) == MS // 2
    assert lock.change(1014 * MS) == -MS // 2
    assert lock.change(1010 * MS) == 0
    assert lock.change(1009 * MS) == MS // 4


def test_without_knowing_both_nothing_changes() -> None:
    lock = PhaseLock(PERIOD)
    assert lock.change(5 * MS) == 0
    lock.control_period(0)
    assert lock.change(5 * MS) == 0
    lock.answered(5 * MS, 4 * MS)  # a clock that was set back
    assert lock.change(5 * MS) == 0
    lock.answered(5 * MS, 9 * MS)
    assert lock.change(6 * MS) != 0
    assert lock.change(1100 * MS) == 0, 'the controller has been silent for long'
