"""Which chunks are executed, which are refused, and in which order rows come out."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.runtime.chunks import ChunkExecutor

S = 1_000_000_000
T0 = 1000 * S


@pytest.fixture
def chunks(small_contract):
    executor = ChunkExecutor(small_contract)
    executor.reset(T0)
    return executor


def rows(start=0.0):
    return (start + np.arange(4 * 14, dtype=np.float32).reshape(4, 14) / 1000)


def test_only_the_executed_rows_come_out_then_it_starves(chunks):
    assert chunks.next_target() is None
    assert chunks.accept(rows(), 1, T0 + 10, T0 + 20, policy_version='v1')
    assert (chunks.remaining, chunks.sequence, chunks.policy_version) == (3, 1, 'v1')
    for row in range(3):
        np.testing.assert_array_equal(chunks.next_target(), rows()[row])
    assert chunks.next_target() is None
    assert (chunks.remaining, chunks.accepted, chunks.refused) == (0, 1, 0)


def test_the_executor_keeps_its_own_copy(chunks):
    chunk = rows()
    chunks.accept(chunk, 1, T0, T0)
    chunk[:] = 9
    np.testing.assert_array_equal(chunks.next_target(), rows()[0])


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
    chunks.next_target()
    assert not chunks.accept(rows(1.0), 2, T0 + 1, T0 + 1)
    assert chunks.last_refusal == 'chunk 2 came while 2 rows of chunk 1 wait'
    np.testing.assert_array_equal(chunks.next_target(), rows()[1])


def test_drop_tells_how_many_rows_were_lost(chunks):
    chunks.accept(rows(), 1, T0, T0)
    assert chunks.drop() == 3
    assert chunks.drop() == 0
    assert chunks.next_target() is None


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
    for sequence, observed, age, broken, taken in events:
        stamp, now = T0 + observed, T0 + observed + age
        if executor.accept(_nan(np.nan) if broken else rows(), sequence, stamp, now):
            assert not broken
            executed.append((sequence, stamp, age))
        else:
            refused += 1
        for _ in range(taken):
            executor.next_target()
    assert [s for s, _, _ in executed] == sorted({s for s, _, _ in executed})
    assert [t for _, t, _ in executed] == sorted({t for _, t, _ in executed})
    assert all(-0.05 * S <= age <= 0.5 * S and stamp >= T0 for _, stamp, age in executed)
    assert (executor.accepted, executor.refused) == (len(executed), refused)
