"""Streams aligned to one instant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.hardware.alignment import Aligner, StreamBuffer

MS = 1_000_000
S = 1000 * MS


def test_each_stream_gives_its_newest_sample_not_later_than_the_instant() -> None:
    aligner = Aligner({'left': 0.1, 'cam': 0.3})
    for stamp in (0, 10, 20, 30):
        aligner.push('left', stamp * MS, f'left {stamp}', stamp * MS)
    aligner.push('cam', 5 * MS, 'frame', 30 * MS)
    aligned, reason = aligner.align(25 * MS)
    assert reason == '' and dict(aligned.values) == {'left': 'left 20', 'cam': 'frame'}
    assert round(aligned.ages_s['cam'], 6) == 0.02


def test_missing_and_old_streams_are_named() -> None:
    aligner = Aligner({'left': 0.1}, {'pose': 0.2})
    assert aligner.align(0) == (None, 'left: nothing received')
    aligner.push('left', 0, 'x', 0)
    assert aligner.align(200 * MS) == (None, 'left is 200 ms old, the limit is 100 ms')


def test_optional_stream_is_left_out_when_old() -> None:
    aligner = Aligner({'left': 1.0}, {'pose': 0.2})
    aligner.push('left', 0, 'x', 0)
    aligner.push('pose', 0, 'p', 0)
    assert 'pose' in aligner.align(200 * MS)[0].values
    assert 'pose' not in aligner.align(201 * MS)[0].values


def test_samples_ahead_of_the_clock_are_dropped_counted_and_named() -> None:
    aligner = Aligner({'cam': 0.3})
    assert aligner.push('cam', 1 * S + 50 * MS, 'a little', 1 * S)
    stream = aligner.streams['cam']
    assert not aligner.push('cam', 4 * S, 'far', 1 * S + 100 * MS)
    assert stream.ahead == 1 and stream.refusal.startswith('stamp lies 2900 ms ahead of the clock')
    assert aligner.align(1 * S + 100 * MS)[0].values['cam'] == 'a little'

    late = Aligner({'cam': 0.3})
    late.push('cam', 4 * S, 'far', 1 * S)
    _, reason = late.align(1 * S)
    assert reason.startswith('cam: none of 1 samples usable: stamp lies 3000 ms ahead of the clock')


def test_a_clock_set_back_starts_the_stream_anew() -> None:
    aligner = Aligner({'left': 0.1})
    for k in range(5):
        aligner.push('left', 100 * S + k * 10 * MS, 'before', 100 * S + k * 10 * MS)
    now = 40 * S
    _, reason = aligner.align(now)
    assert reason == 'left: all samples kept lie ahead of the instant, by 60000 ms and more'
    assert aligner.push('left', now, 'after', now)
    assert aligner.align(now + MS)[0].values['left'] == 'after'
    stream = aligner.streams['left']
    assert (stream.restarts, stream.out_of_order) == (1, 0)


def test_a_late_sample_does_not_start_the_stream_anew() -> None:
    buffer = StreamBuffer()
    buffer.push(100 * S, 'new', 100 * S)
    assert not buffer.push(98 * S, 'two seconds late', 100 * S + MS)
    assert (buffer.restarts, buffer.out_of_order) == (0, 1) and '2000 ms before' in buffer.refusal
    assert buffer.at(101 * S).value == 'new'


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(0, 1000), st.integers(1, 8))
def test_buffer_never_returns_the_future_and_counts_what_it_drops(stamps, instant, depth) -> None:
    buffer = StreamBuffer(depth)
    kept = [stamp for stamp in stamps if buffer.push(stamp, stamp, 1000)]
    assert kept == sorted(set(kept)) and buffer.out_of_order == len(stamps) - len(kept)
    found = buffer.at(instant)
    expected = [stamp for stamp in kept[-depth:] if stamp <= instant]
    assert (found.value if found else None) == (expected[-1] if expected else None)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(-200, 3000)), min_size=1, max_size=60))
def test_whatever_the_clock_does_a_fresh_sample_is_accepted_within_a_second(events) -> None:
    """After any history, samples stamped by the clock are kept again at the latest one second later."""
    buffer = StreamBuffer()
    for now, offset in events:
        buffer.push((now + offset) * MS, None, now * MS)
    now = events[-1][0] * MS
    kept = [buffer.push(stamp, None, stamp) for stamp in range(now, now + 1200 * MS, 10 * MS)]
    assert all(kept[-10:])
