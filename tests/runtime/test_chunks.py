"""Which chunks are executed, which are refused, and in which order rows come out."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.runtime.chunks import ChunkExecutor
from fpo_ros.runtime.timeline import Joining

S = 1_000_000_000
T0 = 1000 * S
PERIOD = 20_000_000
AFTER, REALTIME, ENSEMBLE = Joining


@pytest.fixture
def chunks(small_contract):
    executor = ChunkExecutor(small_contract)
    executor.reset(T0)
    return executor


def taken(executor, count=1, start=T0):
    """Return the rows of the next control periods, of which the first one begins at ``start`` [ns]."""
    return [executor.next_target(start + period * PERIOD) for period in range(count)]


def rows(start=0.0):
    return (start + np.arange(4 * 14, dtype=np.float32).reshape(4, 14) / 1000)


def test_only_the_executed_rows_come_out_then_it_starves(chunks):
    assert taken(chunks)[0] is None
    assert chunks.accept(rows(), 1, T0 + 10, T0 + 20, policy_version='v1')
    assert (chunks.remaining, chunks.sequence, chunks.policy_version) == (3, 1, 'v1')
    for row in range(3):
        np.testing.assert_array_equal(taken(chunks)[0], rows()[row])
    assert taken(chunks)[0] is None
    assert (chunks.remaining, chunks.accepted, chunks.refused) == (0, 1, 0)


def test_the_executor_keeps_its_own_copy(chunks):
    chunk = rows()
    chunks.accept(chunk, 1, T0, T0)
    chunk[:] = 9
    np.testing.assert_array_equal(taken(chunks)[0], rows()[0])


def _nan(value):
    chunk = rows()
    chunk[2, 7] = value
    return chunk


@pytest.mark.parametrize('chunk, message', [
    (_nan(np.nan), 'not finite: row 2, right_waist is nan'),
    (_nan(np.inf), 'not finite: row 2, right_waist is inf'),
    (rows()[:3], r'shape \(3, 14\), the contract wants \(4, 14\)'),
    (rows()[:, :13], r'shape \(4, 13\)'),
    (rows().reshape(-1), r'shape \(56,\)'),
    (np.empty((0, 14)), r'shape \(0, 14\)'),
    (rows().tolist(), 'not an array of numbers'),
    (None, 'not an array of numbers'),
    (np.full((4, 14), None), 'not an array of numbers'),
])
def test_unusable_chunks_are_refused_with_the_reason(chunks, chunk, message):
    assert not chunks.accept(chunk, 1, T0, T0)
    assert chunks.refused == 1 and chunks.remaining == 0
    assert re.search(message, chunks.last_refusal)


@pytest.mark.parametrize('sequence, observed, now, period, message', [
    (1, T0 + 1 * S, T0 + 2 * S, None, 'observation 1.000 s old, the limit is 0.500 s'),
    (1, T0 + 2 * S, T0 + 1 * S, None, '1.000 s in the future'),
    (1, T0 - 1, T0 + 1, None, 'from before the policy took over'),
    (1, T0, T0, 0.1, 'rows every 0.1 s, the contract wants 0.02 s'),
    (1, T0, T0, float('nan'), 'rows every nan s'),
])
def test_stale_and_unfit_chunks_are_refused(chunks, sequence, observed, now, period, message):
    assert not chunks.accept(rows(), sequence, observed, now, control_period_s=period)
    assert message in chunks.last_refusal


def test_age_at_the_limit_is_accepted(chunks):
    assert chunks.accept(rows(), 1, T0, T0 + S // 2, control_period_s=0.02)


@pytest.mark.parametrize('sequence', [5, 4, 0])
def test_out_of_order_chunks_are_refused_until_the_next_takeover(chunks, sequence):
    assert chunks.accept(rows(), 5, T0, T0)
    chunks.drop()
    assert not chunks.accept(rows(), sequence, T0 + 1, T0 + 1)
    assert 'out of order: chunk 5 was executed' in chunks.last_refusal
    chunks.reset(T0 + 2)
    assert chunks.sequence is None and chunks.policy_version == ''
    assert chunks.accept(rows(), sequence, T0 + 2, T0 + 2)


def test_an_observation_is_answered_once(chunks):
    assert chunks.accept(rows(), 1, T0 + 5, T0 + 5)
    chunks.drop()
    assert not chunks.accept(rows(), 2, T0 + 5, T0 + 6)
    assert 'not newer' in chunks.last_refusal


def test_a_chunk_does_not_replace_rows_that_wait(chunks):
    assert chunks.accept(rows(), 1, T0, T0)
    taken(chunks)[0]
    assert not chunks.accept(rows(1.0), 2, T0 + 1, T0 + 1)
    assert chunks.last_refusal == 'chunk 2 came while 2 rows of chunk 1 wait'
    np.testing.assert_array_equal(taken(chunks)[0], rows()[1])


def test_drop_tells_how_many_rows_were_lost(chunks):
    chunks.accept(rows(), 1, T0, T0)
    assert chunks.drop() == 3
    assert chunks.drop() == 0
    assert taken(chunks)[0] is None


def test_an_age_limit_must_be_positive():
    with pytest.raises(ValueError, match='observation_age_limit_s must be positive'):
        ChunkExecutor(PolicyContract(), 0.0)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 12), st.integers(-2 * S, 2 * S), st.integers(-S, S), st.booleans(),
                          st.integers(0, 4)), max_size=15))
def test_executed_chunks_are_always_ordered_and_fresh(events):
    executor = ChunkExecutor(PolicyContract(horizon=4, execute=3))
    executor.reset(T0)
    executed, refused = [], 0
    for sequence, observed, age, broken, count in events:
        stamp, now = T0 + observed, T0 + observed + age
        if executor.accept(_nan(np.nan) if broken else rows(), sequence, stamp, now):
            assert not broken
            executed.append((sequence, stamp, age))
        else:
            refused += 1
        for _ in range(count):
            taken(executor)
    assert [s for s, _, _ in executed] == sorted({s for s, _, _ in executed})
    assert [t for _, t, _ in executed] == sorted({t for _, t, _ in executed})
    assert all(-0.05 * S <= age <= 0.5 * S and stamp >= T0 for _, stamp, age in executed)
    assert (executor.accepted, executor.refused) == (len(executed), refused)


@pytest.mark.parametrize('into_ms', [0, 6, 19])
def test_real_time_rows_count_from_the_control_period_of_their_observation(chunks, into_ms):
    chunks.accept(rows(), 1, T0, T0 + 1)
    taken(chunks, 2, T0 + PERIOD)
    # Measured after row 0 was taken and before row 1, here after row 1 was: row 2 of the chunk is due next.
    assert chunks.accept(rows(1.0), 2, T0 + PERIOD + into_ms * 1_000_000, T0 + 2 * PERIOD + 1, joining=REALTIME)
    assert chunks.delay == 2 and chunks.remaining == 2
    np.testing.assert_array_equal(taken(chunks, 2), rows(1.0)[2:])
    assert taken(chunks) == [None]


def test_a_real_time_chunk_that_comes_after_its_last_row_is_refused(chunks):
    chunks.accept(rows(), 1, T0, T0 + 1)
    taken(chunks, 2, T0 + 10 * PERIOD)
    assert not chunks.accept(rows(1.0), 2, T0 + 7 * PERIOD, T0 + 11 * PERIOD, joining=REALTIME)
    assert chunks.last_refusal == ('chunk 2 answers an observation 5 control periods old, and has 4 rows: none of '
                                   'them is still to come')
    np.testing.assert_array_equal(taken(chunks)[0], rows()[2], 'the chunk before goes on')


def test_ensembled_chunks_are_averaged_but_not_over_policies(chunks):
    chunks.accept(rows(), 1, T0, T0 + 1, joining=ENSEMBLE)
    taken(chunks, 1, T0 + PERIOD)
    assert chunks.accept(rows(1.0), 2, T0 + PERIOD, T0 + PERIOD + 1, joining=ENSEMBLE)
    weights = np.exp([0, -0.01]) / np.exp([0, -0.01]).sum()
    averaged, = taken(chunks, 1, T0 + 2 * PERIOD)
    np.testing.assert_allclose(averaged, weights @ [rows()[2].ravel(), rows(1.0)[1].ravel()], rtol=1e-6)
    chunks.accept(rows(2.0), 3, T0 + 2 * PERIOD, T0 + 2 * PERIOD + 1, policy_version='v2', joining=ENSEMBLE)
    np.testing.assert_array_equal(taken(chunks)[0], rows(2.0)[1])


def test_an_unknown_way_to_join_is_refused(chunks):
    assert not chunks.accept(rows(), 1, T0, T0, joining=7)
    assert 'unknown way, 7' in chunks.last_refusal


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([REALTIME, ENSEMBLE]), st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), max_size=12),
       st.integers(0, 19_999_999))
def test_no_row_is_executed_out_of_its_period_or_older_than_its_chunk(joining, events, phase):
    """Every row holds the number of the period it is for; observations lie anywhere in their period."""
    executor, period, sequence = ChunkExecutor(PolicyContract(horizon=4, execute=3)), 0, 0
    executor.reset(T0)
    for periods, delay in events:
        for _ in range(periods):
            row = executor.next_target(T0 + period * PERIOD)
            assert row is None or -1e-4 <= row[0] - period < 1 + 1e-4
            period += 1
        sequence += 1
        now = T0 + (period - 1) * PERIOD
        observed = now - delay * PERIOD + phase - PERIOD // 2
        number = (observed - T0) / PERIOD
        chunk = np.repeat((number + np.arange(4))[:, None], 14, 1).astype(np.float32)
        executor.accept(chunk, sequence, observed, now + PERIOD // 2, joining=joining)
        assert executor.remaining <= 5
    for _ in range(6):
        last = executor.next_target(T0 + period * PERIOD)
        period += 1
    assert last is None
