"""Chunks in control periods: which row is due, what is left, and what comes too late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.runtime.timeline import DelayEstimate, Joining, Timeline

AFTER, REALTIME, ENSEMBLE = Joining


def chunk(first: float, rows: int = 4) -> np.ndarray:
    return np.repeat(np.arange(first, first + rows)[:, None], 14, 1)


def firsts(timeline: Timeline, periods: range) -> list:
    found = [timeline.target(now) for now in periods]
    return [None if row is None else float(row[0]) for row in found]


def test_rows_count_from_the_period_that_is_named():
    timeline = Timeline()
    assert timeline.offer(chunk(0), 10, 12, REALTIME) == 2
    assert timeline.remaining(12) == 2 and timeline.leftover(13)[:, 0].tolist() == [3]
    assert firsts(timeline, range(12, 15)) == [2, 3, None]


def test_postponed_rows_are_due_a_period_later():
    timeline = Timeline()
    timeline.offer(chunk(0), 10, 10, AFTER)
    timeline.postpone()
    assert firsts(timeline, range(10, 13)) == [None, 0, 1] and timeline.remaining(13) == 2


def test_a_newer_realtime_chunk_replaces_the_older_one():
    timeline = Timeline()
    timeline.offer(chunk(0), 0, 0, REALTIME)
    timeline.offer(chunk(100), 2, 3, REALTIME)
    assert firsts(timeline, range(3, 7)) == [101, 102, 103, None]


def test_a_chunk_that_comes_after_its_last_row_is_dropped_and_the_old_one_goes_on():
    timeline = Timeline()
    timeline.offer(chunk(0), 10, 10, REALTIME)
    assert timeline.offer(chunk(100), 5, 10, REALTIME) == 0
    assert firsts(timeline, range(10, 11)) == [0]


def test_ensembles_weigh_older_predictions_more():
    timeline = Timeline()
    timeline.offer(chunk(0), 0, 0, ENSEMBLE)
    timeline.offer(chunk(11), 1, 1, ENSEMBLE)
    weights = np.exp([0, -0.01])
    assert firsts(timeline, range(1, 2))[0] == pytest.approx((weights @ [1, 11]) / weights.sum())
    assert firsts(timeline, range(4, 6)) == [14, None], 'a chunk whose rows are over counts no more'


def test_many_worlds_share_a_timeline():
    timeline = Timeline()
    timeline.offer(np.stack([chunk(0), chunk(100)]), 0, 1, REALTIME)
    assert timeline.target(1)[:, 0].tolist() == [1, 101] and timeline.leftover(2).shape == (2, 2, 14)


def test_nothing_is_left_after_clearing():
    timeline = Timeline()
    timeline.offer(chunk(0), 0, 0, REALTIME)
    timeline.clear()
    assert timeline.target(0) is None and timeline.leftover(0) is None and timeline.remaining(0) == 0


@given(joining=st.sampled_from(Joining), events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=12))
def test_a_target_is_always_a_row_meant_for_its_period_or_none(joining, events):
    """Every row has the number of the period it is meant for; none is older than the rows of its chunk."""
    timeline, now, newest = Timeline(), 0, None
    for wait, delay in events:
        now += wait
        first = now if joining is AFTER else now - delay
        if timeline.offer(chunk(first, 6), first, now, joining):
            newest = first
        target = timeline.target(now)
        if newest is None or now >= newest + 6:
            assert target is None or joining is ENSEMBLE
        if target is not None:
            assert target[0] == pytest.approx(now), 'rows are executed in the period they are meant for'
        assert (target is not None) == (timeline.remaining(now) > 0)
    assert timeline.target(now + 6) is None


def test_the_delay_planned_for_is_the_longest_of_the_newest():
    delay = DelayEstimate(first=3, window=2)
    assert delay.periods == 3
    for periods, expected in ((3, 3), (1, 3), (1, 1), (5, 5)):
        delay.measured(periods)
        assert delay.periods == expected
