"""What the disk must have before an episode appears or is called safe: every byte and every entry, in order."""

from __future__ import annotations

import os

import pytest
from disk_log import DiskLog
from episode_data import META, frames, row, steps

import fpo_ros.files
from fpo_ros.episodes import EpisodeStore, EpisodeStoreError, UnconfirmedEpisode
from fpo_ros.episodes.incoming import INCOMING
from fpo_ros.episodes.writer import FLUSH_STEPS
from fpo_ros.files import NotConfirmed, make_dirs, replace_file


@pytest.fixture
def disk(tmp_path, monkeypatch):
    return DiskLog(monkeypatch, tmp_path)


def record(store, count):
    data, pictures = steps(count), frames(count)
    writer = store.writer(META)
    for index in range(count):
        writer.append(row(data, index), {'cam': pictures[index]})
    return writer


def test_a_new_store_and_each_new_directory_above_it_are_on_the_disk(tmp_path, disk):
    store = EpisodeStore.create_or_open(tmp_path / 'a' / 'b' / 'store')
    assert disk.dirty == set()
    assert {tmp_path, tmp_path / 'a', tmp_path / 'a' / 'b', store.path} <= set(disk.synced)


def test_new_directories_are_synced_from_the_top(tmp_path, disk):
    make_dirs(tmp_path / 'a' / 'b')
    assert disk.synced == [tmp_path, tmp_path / 'a']
    make_dirs(tmp_path / 'a' / 'b')
    assert (tmp_path / 'a' / 'b').is_dir() and len(disk.synced) == 2


def test_a_whole_episode_is_on_the_disk_before_it_appears_and_its_entry_after(store, disk):
    path = store.path / store.write(steps(30), META, {'cam': (frames(20), range(20))})
    assert [target for _, target in disk.moved][-1] == path
    assert disk.dirty == set()


def test_a_recorded_episode_is_on_the_disk_before_it_appears_and_its_entry_after(store, disk):
    path = store.path / record(store, FLUSH_STEPS + 7).commit()
    assert [target for _, target in disk.moved][-1] == path
    assert disk.dirty == set()


def test_an_episode_that_begins_is_found_after_a_power_cut(store, disk):
    writer = store.writer(META)
    (leftover,) = store.leftovers()
    assert disk.dirty <= {store.path / INCOMING / leftover.name}, 'only what is in it may still be on its way'
    assert {store.path, store.path / INCOMING} <= set(disk.synced)
    writer.abort()


def test_flushed_steps_are_on_the_disk(store, disk):
    writer = record(store, FLUSH_STEPS)
    assert disk.dirty == set()
    writer.abort()


def test_a_salvaged_episode_is_on_the_disk_before_it_appears(store, disk):
    writer = record(store, FLUSH_STEPS)
    writer.append(row(steps(FLUSH_STEPS + 1), FLUSH_STEPS), {'late': frames(1)[0]})  # an array without a flushed chunk
    writer.leave()
    (leftover,) = store.leftovers()
    path = store.path / store.salvage(leftover.name)
    assert store.read(path.name).cameras == ('cam',)
    assert [target for _, target in disk.moved][-1] == path
    assert disk.dirty == set()


def refuse_directory(monkeypatch, path) -> None:
    """Let the disk refuse to confirm the entries of one directory."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.readlink(f'/proc/self/fd/{fd}') == str(path):
            raise OSError(5, 'Input/output error')
        real(fd)

    monkeypatch.setattr(fpo_ros.files.os, 'fsync', fsync)


@pytest.mark.parametrize('how', ['commit', 'salvage'])
def test_an_episode_that_appeared_unconfirmed_is_reported_as_stored_and_not_stored_twice(store, monkeypatch, how):
    writer = record(store, FLUSH_STEPS)
    if how == 'salvage':
        writer.leave()
    (leftover,) = store.leftovers()
    with monkeypatch.context() as patch:
        refuse_directory(patch, store.path)
        with pytest.raises(UnconfirmedEpisode) as caught:
            writer.commit() if how == 'commit' else store.salvage(leftover.name)
    assert caught.value.episode_id == 'ep_000001' == store.ids()[0]
    assert 'stored as ep_000001, but the disk did not confirm it (Input/output error)' in str(caught.value)
    assert store.verify('ep_000001') == [] and store.leftovers() == []
    with pytest.raises(EpisodeStoreError):
        writer.commit()
    assert store.ids() == ['ep_000001']


def test_a_whole_episode_that_appeared_unconfirmed_is_reported_as_stored(store, monkeypatch):
    real = os.rename

    def rename(source, target) -> None:
        real(source, target)
        refuse_directory(monkeypatch, store.path)

    monkeypatch.setattr(os, 'rename', rename)
    with pytest.raises(UnconfirmedEpisode, match='stored as ep_000001'):
        store.write(steps(3), META)
    assert store.ids() == ['ep_000001'] and list((store.path / INCOMING).iterdir()) == []


def test_a_replaced_file_that_is_not_confirmed_is_reported_as_written(tmp_path, monkeypatch):
    (tmp_path / 'file').write_bytes(b'old')
    refuse_directory(monkeypatch, tmp_path)
    with pytest.raises(NotConfirmed, match='written, but the disk did not confirm it'):
        replace_file(tmp_path / 'file', b'new')
    assert (tmp_path / 'file').read_bytes() == b'new' and len(list(tmp_path.iterdir())) == 1


def test_a_store_that_is_not_confirmed_is_reported_as_written(tmp_path, monkeypatch):
    (tmp_path / 'store').mkdir()
    refuse_directory(monkeypatch, tmp_path / 'store')
    with pytest.raises(EpisodeStoreError, match='written, but the disk did not confirm it') as caught:
        EpisodeStore.create_or_open(tmp_path / 'store')
    assert 'no store was made' not in str(caught.value)
