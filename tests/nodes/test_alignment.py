"""Streams aligned to one instant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.hardware.alignment import Aligner, StreamBuffer
from fpo_ros.nodes.logic.chunk_gate import ChunkGate
from fpo_ros.nodes.logic.joints_of_then import depth_for, with_joints_of_then
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.runtime.timeline import Joining

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


def _aligner(depth: int = 16) -> Aligner:
    """Return an aligner with joints every 10 ms from 0 to 100 ms and a pose of 80 ms."""
    aligner = Aligner({'joints': 0.1}, {'pose': 0.2}, depth)
    for stamp in range(0, 101, 10):
        aligner.push('joints', stamp * MS, f'joints {stamp}', stamp * MS)
    aligner.push('pose', 80 * MS, 'pose 80', 95 * MS)
    return aligner


def test_joints_are_those_of_the_instant_of_the_pose() -> None:
    aligner = _aligner()
    newest, _ = aligner.align(107 * MS)
    assert newest.values['joints'] == 'joints 100'
    seen = with_joints_of_then(aligner, newest, ['joints'])
    assert seen.stamp_ns == 107 * MS and seen.values == {'joints': 'joints 80', 'pose': 'pose 80'}
    assert {name: round(age, 6) for name, age in seen.ages_s.items()} == {'joints': 0.027, 'pose': 0.027}


def test_joints_are_those_of_the_oldest_picture() -> None:
    aligner = Aligner({'left': 0.1, 'high': 0.3, 'low': 0.3})
    for stamp in range(0, 101, 10):
        aligner.push('left', stamp * MS, stamp, stamp * MS)
    aligner.push('high', 64 * MS, 'high', 100 * MS)
    aligner.push('low', 81 * MS, 'low', 100 * MS)
    seen = with_joints_of_then(aligner, aligner.align(100 * MS)[0], ['left'])
    assert seen.values == {'left': 60, 'high': 'high', 'low': 'low'}


def test_joints_are_the_newest_without_a_pose_and_where_it_is_lost() -> None:
    aligner = _aligner()
    aligner.push('joints', 290 * MS, 'joints 290', 290 * MS)
    newest, _ = aligner.align(295 * MS)
    assert with_joints_of_then(aligner, newest, ['joints']) is newest and newest.values == {'joints': 'joints 290'}


def test_joints_are_the_newest_where_none_of_then_are_kept() -> None:
    newest, _ = _aligner(depth=2).align(107 * MS)
    assert with_joints_of_then(_aligner(depth=2), newest, ['joints']) is newest
    assert (depth_for(100.0, (0.1, 0.2)) - 1) * 10 > 200  # joints every 10 ms reach back 200 ms


@given(row=st.integers(0, 19), timer=st.integers(0, 19), joints_late=st.integers(0, 4), pose_late=st.integers(0, 15))
def test_arms_seen_at_a_decision_have_not_come_to_rest(row, timer, joints_late, pose_late) -> None:
    """Whatever the phases of its loops, a graph decides on joints measured within the period of the last row.

    The twin measures joints every 10 ms and the pose every 20 ms; after the period, the arms catch up with the row.

    :param row: when the last row is sent, after the pose is measured [ms].
    :param timer: phase of the observations [ms].
    :param joints_late: how long joint states are under way [ms].
    :param pose_late: how long the pose is under way [ms].
    """
    aligner, gate = Aligner({'joints': 0.1}, {'pose': 0.2}, depth_for(100.0, (0.1, 0.2))), ChunkGate(PolicyContract())
    last_row = 100 + row
    for now in range(300):
        for name, period, late in (('joints', 10, joints_late), ('pose', 20, pose_late)):
            if now >= late and (now - late) % period == 0:
                aligner.push(name, (now - late) * MS, None, now * MS)
        if now == last_row:
            gate.on_status(last_row * MS, following=True, remaining=0)
        if now % 20 != timer or (newest := aligner.align(now * MS)[0]) is None:
            continue
        ages_s = with_joints_of_then(aligner, newest, ['joints']).ages_s
        if gate.question(now * MS, now * MS - round(max(ages_s.values()) * 1e9), Joining.AFTER):
            assert last_row <= round(now - 1e3 * ages_s['joints']) <= last_row + 20
            return
    raise AssertionError('no observation was admitted')
