"""Streams aligned to one instant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.hardware.alignment import Aligner, StreamBuffer

MS = 1_000_000


def test_each_stream_gives_its_newest_sample_not_later_than_the_instant() -> None:
    aligner = Aligner({'left': 0.1, 'cam': 0.3})
    for stamp in (0, 10, 20, 30):
        aligner.push('left', stamp * MS, f'left {stamp}')
    aligner.push('cam', 5 * MS, 'frame')
    aligned, reason = aligner.align(25 * MS)
    assert reason == '' and dict(aligned.values) == {'left': 'left 20', 'cam': 'frame'}
    assert round(aligned.ages_s['cam'], 6) == 0.02


def test_missing_and_old_streams_are_named() -> None:
    aligner = Aligner({'left': 0.1}, {'pose': 0.2})
    assert aligner.align(0) == (None, 'nothing received from left')
    aligner.push('left', 0, 'x')
    assert aligner.align(200 * MS) == (None, 'left is 200 ms old, the limit is 100 ms')


def test_optional_stream_is_left_out_when_old() -> None:
    aligner = Aligner({'left': 1.0}, {'pose': 0.2})
    aligner.push('left', 0, 'x')
    aligner.push('pose', 0, 'p')
    assert 'pose' in aligner.align(200 * MS)[0].values
    assert 'pose' not in aligner.align(201 * MS)[0].values


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(0, 1000), st.integers(1, 8))
def test_buffer_never_returns_the_future_and_counts_what_it_drops(stamps, instant, depth) -> None:
    buffer = StreamBuffer(depth)
    kept = [stamp for stamp in stamps if buffer.push(stamp, stamp)]
    assert kept == sorted(set(kept)) and buffer.out_of_order == len(stamps) - len(kept)
    found = buffer.at(instant)
    expected = [stamp for stamp in kept[-depth:] if stamp <= instant]
    assert (found.value if found else None) == (expected[-1] if expected else None)
