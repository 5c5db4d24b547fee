"""Killed writers, concurrent writers, full disks: committed episodes stay, nothing torn is seen."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from episode_data import META, frames, row, steps

import fpo_ros.files
from fpo_ros.episodes import EpisodeStore, EpisodeStoreError
from fpo_ros.episodes.incoming import INCOMING, Incoming
from fpo_ros.episodes.writer import FLUSH_STEPS, FRAME_CHUNK

TIMEOUT_S = 60
pytestmark = pytest.mark.timeout(120)


def run(script: str, *arguments: object) -> subprocess.Popen:
    """Start Python with the packages and helpers this test sees."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen([sys.executable, '-c', textwrap.dedent(script), *map(str, arguments)],
                            env=os.environ | {'PYTHONPATH': path}, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


WRITE_AND_HANG = """
    import sys, time
    from episode_data import META, frames, row, steps
    from fpo_ros.episodes import EpisodeStore
    store, count = EpisodeStore.open(sys.argv[1]), int(sys.argv[2])
    data, pictures = steps(count), frames(count)
    writer = store.writer(META)
    for index in range(count):
        writer.append(row(data, index), {'cam': pictures[index]} if index % 2 == 0 else None)
    print('written', flush=True)
    time.sleep(600)
"""


@pytest.fixture
def killed(store):
    """A store with one committed episode, and a writer that was killed after 2.5 flushes."""
    store.write(steps(5, seed=5), META)
    count = 2 * FLUSH_STEPS + FLUSH_STEPS // 2
    process = run(WRITE_AND_HANG, store.path, count)
    try:
        assert process.stdout.readline() == 'written\n', process.stderr.read()
        (leftover,) = store.leftovers()
        assert leftover.alive and leftover.steps == 2 * FLUSH_STEPS
        with pytest.raises(EpisodeStoreError, match='its writer still runs'):
            store.salvage(leftover.name)
        with pytest.raises(EpisodeStoreError, match='its writer still runs'):
            store.discard(leftover.name)
        assert store.ids() == ['ep_000001']
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
    return store, count


def test_a_killed_writer_loses_at_most_what_was_not_flushed(killed):
    store, count = killed
    assert store.ids() == ['ep_000001'] and store.verify('ep_000001') == []
    (leftover,) = store.leftovers()
    assert not leftover.alive and leftover.problem == ''
    identity = store.salvage(leftover.name)
    episode = store.read(identity)
    assert identity == 'ep_000002' and store.verify(identity) == []
    assert len(episode) == 2 * FLUSH_STEPS and episode.meta.extra == {'salvaged': True}
    assert episode.meta.success is None
    for name, value in steps(count).items():
        np.testing.assert_array_equal(episode.arrays[name], value[:2 * FLUSH_STEPS])
    pictures, at = episode.images('cam')
    complete = FLUSH_STEPS // FRAME_CHUNK * FRAME_CHUNK  # one frame every other step of two flushes
    np.testing.assert_array_equal(at, np.arange(complete) * 2)
    np.testing.assert_array_equal(pictures, frames(count)[:2 * complete:2])
    assert store.leftovers() == [] and list((store.path / INCOMING).iterdir()) == []


def test_what_a_killed_writer_left_can_be_discarded(killed):
    store, _ = killed
    (leftover,) = store.leftovers()
    store.discard(leftover.name)
    assert store.leftovers() == [] and list((store.path / INCOMING).iterdir()) == []
    assert store.ids() == ['ep_000001']


def test_the_store_goes_on_after_a_kill_without_any_repair(killed):
    store, _ = killed
    assert store.write(steps(3), META) == 'ep_000002'
    assert [len(episode) for episode in store.iter()] == [5, 3]


def test_a_writer_killed_before_its_first_flush_leaves_nothing_to_save(store):
    process = run(WRITE_AND_HANG, store.path, FLUSH_STEPS - 1)
    assert process.stdout.readline() == 'written\n'
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    (leftover,) = store.leftovers()
    assert leftover.problem == 'its writer ended before the first flush'
    with pytest.raises(EpisodeStoreError, match='nothing to save, its writer ended before the first flush; '
                       f'remove it with "fpo-ros episodes salvage {store.path} {leftover.name} --discard"'):
        store.salvage(leftover.name)
    store.discard(leftover.name)
    assert store.leftovers() == []


COMMIT_UNTIL_KILLED = """
    import sys
    from episode_data import META, row, steps
    from fpo_ros.episodes import EpisodeStore
    store, data = EpisodeStore.open(sys.argv[1]), steps(60)
    while True:
        writer = store.writer(META)
        for index in range(60):
            writer.append(row(data, index))
        print(writer.commit(), flush=True)
"""


def test_every_acknowledged_episode_survives_a_kill_at_any_moment(store):
    acknowledged = []
    for kills in range(4):
        process = run(COMMIT_UNTIL_KILLED, store.path)
        for _ in range(3 + kills):
            acknowledged.append(process.stdout.readline().strip())
        process.kill()
        acknowledged += process.communicate(timeout=TIMEOUT_S)[0].split()
    ids = store.ids()
    assert set(acknowledged) <= set(ids) and len(set(acknowledged)) == len(acknowledged) >= 18
    for identity in ids:
        assert store.verify(identity) == [] and len(store.read(identity)) == 60
    for leftover in store.leftovers():
        assert not leftover.alive
        store.discard(leftover.name)


WRITE_MANY = """
    import sys
    from episode_data import META, steps
    from fpo_ros.episodes import EpisodeStore
    store = EpisodeStore.create_or_open(sys.argv[1])
    for seed in range(15):
        print(store.write(steps(4, seed), META | {'seed': seed, 'extra': {'writer': sys.argv[2]}}))
"""


def test_writers_in_several_processes_share_a_new_store(tmp_path):
    path = tmp_path / 'shared'
    processes = [run(WRITE_MANY, path, name) for name in 'abcd']
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, err
        printed += out.split()
    store = EpisodeStore.open(path)
    assert sorted(printed) == store.ids() == [f'ep_{number:06d}' for number in range(1, 61)]
    seen = {(episode.meta.extra['writer'], episode.meta.seed) for episode in store.iter()}
    assert seen == {(name, seed) for name in 'abcd' for seed in range(15)}
    for episode in store.iter():
        np.testing.assert_array_equal(episode.arrays['action'], steps(4, episode.meta.seed)['action'])


def fill_disk(monkeypatch, after: int, code: int = errno.ENOSPC) -> None:
    """Let the disk refuse the write that brings the total above ``after`` bytes."""
    real, room = os.write, [after]

    def write(fd: int, data: memoryview) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            real(fd, data[:len(data) // 2])  # a full disk tears files
            raise OSError(code, os.strerror(code))
        return real(fd, data)

    monkeypatch.setattr(fpo_ros.files.os, 'write', write)


@pytest.mark.parametrize('room', [0, 600, 3000, 12_000, 50_000])
def test_a_disk_that_fills_during_a_batch_loses_nothing_else(store, monkeypatch, room):
    store.write(steps(10), META)
    with monkeypatch.context() as patch:
        fill_disk(patch, room)
        with pytest.raises(EpisodeStoreError, match='disk full .* free some space'):
            store.write(steps(1000), META)
    assert store.ids() == ['ep_000001'] and store.verify('ep_000001') == []
    assert list((store.path / INCOMING).iterdir()) == []
    assert store.write(steps(10), META) == 'ep_000002'


@pytest.mark.parametrize(('room', 'safe'), [(1500, 0), (8000, 0), (20_000, FLUSH_STEPS), (36_000, 3 * FLUSH_STEPS)])
def test_a_disk_that_fills_during_a_recording_ends_it_with_one_error(store, monkeypatch, room, safe):
    store.write(steps(10), META)
    data = steps(3 * FLUSH_STEPS)
    writer = store.writer(META)
    with monkeypatch.context() as patch:
        fill_disk(patch, room)
        with pytest.raises(EpisodeStoreError, match='disk full .* every committed one is safe') as caught:
            for index in range(len(data['reward'])):
                writer.append(row(data, index))
            writer.commit()
    with pytest.raises(EpisodeStoreError, match='ask the store for a new writer'):
        writer.append(row(data, 0))
    assert store.ids() == ['ep_000001'] and writer.closed
    if not safe:
        assert 'this episode was dropped' in str(caught.value)
        assert list((store.path / INCOMING).iterdir()) == []
        return
    (leftover,) = store.leftovers()
    assert (leftover.alive, leftover.steps) == (False, safe)
    assert f'{safe} of its ' in str(caught.value)
    assert f'"fpo-ros episodes salvage {store.path} {leftover.name}"' in str(caught.value)
    episode = store.read(store.salvage(leftover.name))
    np.testing.assert_array_equal(episode.arrays['action'], data['action'][:safe])


def test_a_writer_that_is_left_keeps_what_was_flushed_and_one_that_is_aborted_does_not(store):
    data = steps(FLUSH_STEPS + 5)
    for end in ('leave', 'abort'):
        writer = store.writer(META)
        for index in range(FLUSH_STEPS + 5):
            writer.append(row(data, index))
        said = getattr(writer, end)()
        assert writer.closed and len(store.leftovers()) == 1
        assert (f'{FLUSH_STEPS} of its {FLUSH_STEPS + 5} steps are safe' in said) if said else end == 'abort'
        assert writer.leave() == ''


def test_an_unforeseen_error_while_writing_keeps_what_was_flushed(store, monkeypatch):
    data, writer = steps(FLUSH_STEPS + 1), store.writer(META)
    for index in range(FLUSH_STEPS):
        writer.append(row(data, index))
    monkeypatch.setattr(Incoming, 'extend', lambda *arguments: [][0])
    with pytest.raises(EpisodeStoreError, match=f'IndexError: .*; {FLUSH_STEPS} of its {FLUSH_STEPS} steps are safe'):
        writer.append(row(data, FLUSH_STEPS))
    assert writer.closed and store.leftovers()[0].steps == FLUSH_STEPS


def test_a_quota_reads_as_a_full_disk_and_other_errors_as_themselves(store, monkeypatch):
    for code, text in ((errno.EDQUOT, 'disk full'), (errno.EIO, 'Input/output error')):
        with monkeypatch.context() as patch:
            fill_disk(patch, 0, code)
            with pytest.raises(EpisodeStoreError, match=text):
                store.write(steps(3), META)
    assert store.ids() == [] and list((store.path / INCOMING).iterdir()) == []


def test_a_really_full_file_system(tmp_path):
    mount = tmp_path / 'small'
    mount.mkdir()
    made = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=300k', 'tmpfs', str(mount)],
                          capture_output=True, timeout=TIMEOUT_S, check=False) if os.geteuid() == 0 else None
    if made is None or made.returncode:
        pytest.skip('mounting a small file system is not permitted here')
    try:
        store = EpisodeStore.create_or_open(mount / 'store')
        with pytest.raises(EpisodeStoreError, match=r'disk full \(\d'):
            for _ in range(50):
                store.write(steps(400), META)
        assert 1 <= len(store) < 50 and list((store.path / INCOMING).iterdir()) == []
        assert [store.verify(identity) for identity in store.ids()] == [[]] * len(store)
    finally:
        subprocess.run(['umount', str(mount)], timeout=TIMEOUT_S, check=True)


def test_an_abandoned_writer_leaves_nothing(store):
    with store.writer(META) as writer:
        for index in range(FLUSH_STEPS):
            writer.append(row(steps(FLUSH_STEPS), index))
    assert store.ids() == [] and list((store.path / INCOMING).iterdir()) == []
