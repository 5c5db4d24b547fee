"""Small parts of the nodes' logic: chunk gate, stream health, steady loop, recorded steps, progress file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from fpo_ros.nodes.logic.chunk_gate import TRANSIT_NS, ChunkGate, Question
from fpo_ros.nodes.logic.episode_steps import StepAssembler
from fpo_ros.nodes.logic.health import ERROR, OK, WARN, StreamMonitor
from fpo_ros.nodes.logic.loop import SteadyLoop
from fpo_ros.nodes.logic.pictures import check_pictures
from fpo_ros.nodes.logic.trainer_process import newest_progress
from fpo_ros.nodes.logic.waiting import RECENT, Waiting
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.runtime.timeline import Joining

MS = 1_000_000


CONTRACT = PolicyContract(horizon=20, execute=16)
AFTER, REALTIME = Joining.AFTER, Joining.REALTIME


def admits(gate: ChunkGate, stamp_ns: int, joining: Joining = AFTER) -> bool:
    return gate.question(stamp_ns, stamp_ns, joining) is not None


def numbered(rows: int) -> np.ndarray:
    return np.repeat(np.arange(rows, dtype=np.float32)[:, None], 14, 1)


def test_gate_admits_one_observation_newer_than_the_last_row() -> None:
    gate = ChunkGate(CONTRACT)
    assert not admits(gate, 10 * MS)
    gate.on_status(100 * MS, following=True, remaining=1)
    assert not admits(gate, 200 * MS)
    gate.on_status(120 * MS, following=True, remaining=0)
    gate.on_status(140 * MS, following=True, remaining=0)
    assert not admits(gate, 119 * MS)
    assert gate.question(120 * MS, 120 * MS, REALTIME) == Question(AFTER), 'nothing is left to go on from'
    assert gate.question(130 * MS, 119 * MS, AFTER) is None, 'a part of it is older than the last row'
    gate.sent(150 * MS, 120 * MS)
    assert not admits(gate, 160 * MS)
    gate.on_status(160 * MS, following=True, remaining=0)  # cannot have seen the chunk yet
    assert not admits(gate, 170 * MS)
    gate.on_status(150 * MS + TRANSIT_NS, following=True, remaining=0)  # so the chunk was lost or refused
    assert admits(gate, 200 * MS)


def test_gate_opens_again_after_the_clock_was_set_back() -> None:
    gate = ChunkGate(CONTRACT)
    gate.sent(10_000 * MS, 9_990 * MS)
    gate.on_status(5_000 * MS, following=True, remaining=0)
    assert admits(gate, 5_000 * MS)


def test_gate_is_shut_outside_policy() -> None:
    gate = ChunkGate(CONTRACT)
    gate.on_status(100 * MS, following=True, remaining=0)
    gate.on_status(120 * MS, following=False, remaining=0)
    assert not admits(gate, 200 * MS)


def test_in_real_time_the_next_chunk_is_asked_for_half_way_and_goes_on_from_the_rows_left() -> None:
    gate = ChunkGate(CONTRACT)
    gate.sent(1000 * MS, 990 * MS, 1, numbered(20), AFTER)  # 16 rows of it are executed
    gate.on_status(1020 * MS, True, remaining=15, sequence=1, delay=2)  # row 0 is being executed
    assert not admits(gate, 1160 * MS, REALTIME), 'row 7 is executed then'
    assert not admits(gate, 1180 * MS, AFTER), 'it is played to its end'
    question = gate.question(1180 * MS, 1180 * MS, REALTIME)
    assert question.joining is REALTIME and question.leftover.delay == 2
    assert question.leftover.rows[:, 0].tolist() == list(range(8, 16))
    gate.sent(1200 * MS, 1180 * MS, 2, numbered(20) + 100, REALTIME)
    assert not admits(gate, 1400 * MS, REALTIME), 'the controller has not said yet that it has the chunk'
    gate.on_status(1220 * MS, True, remaining=17, sequence=2, delay=2)  # its row 2 is being executed
    question = gate.question(1360 * MS, 1360 * MS, REALTIME)
    assert question.leftover.rows[:, 0].tolist() == list(range(109, 120))
    gate.on_status(1380 * MS, True, remaining=9, sequence=2, delay=2)  # row 10 is sent after what was measured before
    question = gate.question(1379 * MS, 1379 * MS, REALTIME)
    assert question.leftover.rows[0, 0] == 109


def test_a_slow_policy_asks_later_so_that_the_delay_is_bridged_by_rows_already_executed() -> None:
    gate = ChunkGate(CONTRACT)
    gate.sent(1000 * MS, 800 * MS, 1, numbered(20), REALTIME)
    gate.on_status(1000 * MS, True, remaining=9, sequence=1, delay=10)
    assert gate.delay.periods == 10
    assert not admits(gate, 980 * MS, REALTIME) and admits(gate, 1000 * MS, REALTIME)


def test_what_made_chunks_late_in_one_episode_is_forgotten_in_the_next() -> None:
    gate = ChunkGate(CONTRACT)
    gate.on_status(1000 * MS, True, remaining=2, sequence=1, delay=25)  # more than chunks of 20 rows can bridge
    gate.on_status(1020 * MS, False, remaining=0)
    gate.on_status(1040 * MS, False, remaining=0, sequence=1, delay=25)
    gate.sent(2000 * MS, 1990 * MS, 2, numbered(20), REALTIME)
    gate.on_status(2040 * MS, True, remaining=17, sequence=2, delay=2)
    assert gate.question(2200 * MS, 2200 * MS, REALTIME).leftover.delay == 2


def test_a_refused_chunk_leaves_the_one_before_to_go_on_from() -> None:
    gate = ChunkGate(CONTRACT)
    gate.sent(1000 * MS, 990 * MS, 1, numbered(20), AFTER)
    gate.on_status(1020 * MS, True, remaining=15, sequence=1, delay=1)
    gate.sent(1190 * MS, 1180 * MS, 2, numbered(20) + 100, REALTIME)
    gate.on_status(1190 * MS + TRANSIT_NS, True, remaining=5, sequence=1, delay=1)
    question = gate.question(1240 * MS, 1240 * MS, REALTIME)
    assert question.leftover.rows[0, 0] == 11 and len(question.leftover.rows) == 5


def test_an_old_part_of_an_observation_does_not_keep_short_chunks_from_going_on() -> None:
    gate = ChunkGate(PolicyContract(horizon=10, execute=10))
    gate.sent(1000 * MS, 900 * MS, 1, numbered(10), AFTER)
    gate.on_status(1140 * MS, True, remaining=3, sequence=1, delay=6)  # row 6 is being executed
    question = gate.question(1150 * MS, 1070 * MS, REALTIME)  # a picture of the time of row 2 is in it
    assert question.leftover.delay == 6 and question.leftover.rows[:, 0].tolist() == list(range(2, 10))
    assert gate.question(1150 * MS, 1010 * MS, REALTIME) is None, 'it is older than the chunk'
    gate.sent(1160 * MS, 1070 * MS, 2, numbered(10), REALTIME, age_ns=80 * MS)
    gate.on_status(1180 * MS, True, remaining=4, sequence=2, delay=6)  # row 5; 4 had passed when it was asked for
    assert gate.question(1219 * MS, 1150 * MS, REALTIME) is None, 'row 6: two periods after the one before was'
    assert gate.question(1239 * MS, 1170 * MS, REALTIME), 'two periods of the delay are to come, and row 9 is the last'
    assert gate.question(1280 * MS, 1190 * MS, REALTIME).leftover.rows[0, 0] == 5


def test_rows_of_a_policy_that_ran_before_are_played_to_their_end() -> None:
    gate = ChunkGate(CONTRACT)
    gate.on_status(1020 * MS, True, remaining=5, sequence=7, delay=1)
    assert not admits(gate, 1100 * MS, REALTIME)


def test_ensembles_ask_whenever_there_is_something_new() -> None:
    gate = ChunkGate(CONTRACT)
    gate.sent(1000 * MS, 990 * MS, 1, numbered(20), AFTER)
    gate.on_status(1020 * MS, True, remaining=15, sequence=1, delay=1)
    assert not admits(gate, 990 * MS, Joining.ENSEMBLE)
    assert gate.question(1010 * MS, 1010 * MS, Joining.ENSEMBLE) == Question(Joining.ENSEMBLE)


def test_stream_health_tells_silence_slowness_and_rejects() -> None:
    monitor = StreamMonitor('cam', expected_hz=50.0, max_age_s=0.3)
    assert monitor.health(0).level == ERROR
    for tick in range(101):
        monitor.arrived(tick * 20 * MS)
    good = monitor.health(2000 * MS)
    assert good.level == OK and good.values['rate_hz'] == pytest.approx(50.0, abs=0.5)
    monitor.reject('bad encoding')
    assert 'bad encoding' in monitor.health(2000 * MS).message
    assert monitor.health(2400 * MS).level == ERROR
    slow = StreamMonitor('cam', expected_hz=50.0, max_age_s=0.3)
    for tick in range(21):
        slow.arrived(tick * 100 * MS)
    assert slow.health(2000 * MS).level == WARN


def test_messages_that_did_not_come_are_counted_by_the_stamps_of_those_that_did() -> None:
    monitor = StreamMonitor('cam', expected_hz=50.0, max_age_s=0.3)
    monitor.arrived(0)
    assert 'missing' not in monitor.health(0).values, 'nobody knows without stamps'
    for stamp_ms in (0, 20, 54, 60, 120, 100, 140):  # one is late; two are missing; one is out of order
        monitor.arrived(stamp_ms * MS, stamp_ms * MS)
    assert monitor.health(140 * MS).values['missing'] == 2
    monitor.arrived(140 * MS, -5000 * MS)
    monitor.arrived(140 * MS, -4940 * MS)
    assert monitor.health(140 * MS).values['missing'] == 4, 'it goes on counting after the clock was set back'


@pytest.mark.serial
def test_loop_keeps_its_grid_and_skips_what_it_missed() -> None:
    starts = []

    def body() -> None:
        starts.append(time.monotonic())
        if len(starts) == 5:
            time.sleep(0.055)

    loop = SteadyLoop(0.02, body, lambda error: None, name='test')
    loop.start()
    time.sleep(0.5)
    loop.stop()
    assert starts[5] - starts[4] >= 0.055
    phases = (np.array(starts) - starts[0] + 0.01) % 0.02 - 0.01
    assert np.median(np.abs(phases)) < 0.005, 'calls must stay on the grid of the first one'
    assert len(starts) <= 26, 'missed calls must not be made up for in a burst'


def test_loop_ends_at_its_first_failure_and_reports_it() -> None:
    failures, ended = [], threading.Event()

    def fail(error: Exception) -> None:
        failures.append(error)
        ended.set()

    loop = SteadyLoop(0.01, lambda: 1 / 0, fail, name='test')
    loop.start()
    assert ended.wait(2.0) and isinstance(failures[0], ZeroDivisionError) and len(failures) == 1


def test_loop_ends_what_belongs_to_its_thread_on_its_thread() -> None:
    threads = []
    loop = SteadyLoop(0.01, lambda: threads.append(threading.get_ident()), threads.append, name='test',
                      on_end=lambda: threads.append(threading.get_ident()))
    loop.start()
    time.sleep(0.05)
    loop.stop()
    assert len(set(threads)) == 1 and threads[0] != threading.get_ident()


def test_steps_repeat_a_lost_object_pose_and_count_time_from_the_first() -> None:
    steps, joints = StepAssembler(), np.zeros(14)
    first = steps.assemble(5 * MS, joints, joints, np.arange(7.0))
    steps.reward = 2.0
    second = steps.assemble(25 * MS, joints, joints, None)
    assert first['timestamp'] == 0.0 and second['timestamp'] == pytest.approx(0.02)
    np.testing.assert_array_equal(second['object_pose'], np.arange(7.0))
    assert second['reward'] == 2.0 and second['action'].dtype == np.float32


def test_episode_that_begins_without_object_pose_never_has_one() -> None:
    steps, joints = StepAssembler(), np.zeros(14)
    assert 'object_pose' not in steps.assemble(0, joints, joints, None)
    assert 'object_pose' not in steps.assemble(1, joints, joints, np.arange(7.0))


def test_progress_is_the_last_complete_line(tmp_path) -> None:
    file = tmp_path / 'progress.jsonl'
    assert newest_progress(file) is None
    file.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iter')
    assert newest_progress(file) == {'iteration': 2}
    file.write_text('nonsense\n')
    with pytest.raises(ValueError, match='progress.jsonl'):
        newest_progress(file)


def waiting(*stamps: int, due: bool = False, max_age_s: float = 0.5) -> Waiting:
    """Return what holds an observation of each stamp [ms]."""
    waits = Waiting(max_age_s)
    for stamp in stamps:
        waits.add(SimpleNamespace(sequence=stamp), stamp * MS, lambda _: due)
    return waits


def asking(joining: Joining, since: int = 0) -> Callable[[SimpleNamespace], Question | None]:
    return lambda message: Question(joining) if message.sequence >= since else None


def test_while_a_chunk_is_played_the_newest_observation_is_answered_and_the_others_that_were_due_are_dropped() -> None:
    waits = waiting(20, 40, 60, 80)
    message, question = waits.take(asking(REALTIME, since=40), 90 * MS)
    assert (message.sequence, question.joining, waits.dropped) == (80, REALTIME, 2)
    assert waits.take(asking(REALTIME), 90 * MS) is None, 'those before are forgotten'


def test_after_the_end_of_a_chunk_the_earliest_observation_is_answered_and_none_is_dropped() -> None:
    waits = waiting(20, 40, 60)
    message, _ = waits.take(asking(AFTER, since=40), 90 * MS)
    assert (message.sequence, waits.dropped) == (40, 0)


def test_an_observation_that_waits_while_the_policy_is_busy_is_not_dropped_if_it_is_answered() -> None:
    waits = waiting(20, 40)
    assert waits.take(lambda _: None, 50 * MS) is None
    message, _ = waits.take(asking(REALTIME, since=40), 60 * MS)
    assert (message.sequence, waits.dropped) == (40, 0)


def test_observations_that_are_too_old_are_dropped_once_and_younger_ones_are_answered() -> None:
    waits = waiting(20, 40, 400, max_age_s=0.3)
    message, _ = waits.take(asking(AFTER), 420 * MS)
    assert (message.sequence, waits.dropped) == (400, 2) and 'observation 40 is 0.38 s old' in waits.stale
    old = waiting(20, max_age_s=0.3)
    assert old.take(asking(AFTER), 420 * MS) is None and old.dropped == 1 and old.stale
    assert old.take(asking(AFTER), 440 * MS) is None and old.dropped == 1 and not old.stale


def test_what_is_displaced_counts_where_it_was_due() -> None:
    stamps = range(RECENT + 3)
    assert waiting(*stamps, due=True).dropped == 3 and waiting(*stamps, due=False).dropped == 0


def observed(**sizes: tuple[int, int]) -> SimpleNamespace:
    """Return an observation's pictures by camera, (rows, columns)."""
    return SimpleNamespace(camera_names=list(sizes),
                           images=[SimpleNamespace(height=rows, width=columns) for rows, columns in sizes.values()])


def test_pictures_are_those_of_the_cameras_of_the_cell_in_their_size() -> None:
    cell = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_low'), image_height=72, image_width=96)
    check_pictures(observed(cam_high=(72, 96)), cell)
    check_pictures(observed(cam_high=(72, 96), cam_wrist=(480, 640)), cell, ('cam_wrist',))
    for pictures, others, match in (
            ({'cam_hihg': (72, 96)}, (), "has camera 'cam_hihg', the cell has cam_high, cam_low: name it alike"),
            ({'cam_wrist': (72, 96)}, ('cam_side',), 'the cell has cam_high, cam_low, cam_side: name it alike'),
            ({'cam_high': (96, 72)}, (), "picture of camera 'cam_high' has 96x72 pixels, the cell has 72x96")):
        with pytest.raises(ContractError, match=match):
            check_pictures(observed(**pictures), cell, others)
    twice = observed(cam_high=(72, 96))
    twice.camera_names, twice.images = twice.camera_names * 2, twice.images * 2
    with pytest.raises(ContractError, match="has camera 'cam_high' twice"):
        check_pictures(twice, cell)
