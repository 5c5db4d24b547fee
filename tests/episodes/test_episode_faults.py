"""A kill or a full disk at every single system call of writers and salvage: nothing torn, nothing flushed is lost."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from episode_data import META, frames, row, steps
from faults import KILLED, faults, full_disk, killed_at

import fpo_ros.episodes.writer
from fpo_ros.episodes import EpisodeStore, EpisodeStoreError, UnconfirmedEpisode
from fpo_ros.episodes.incoming import INCOMING

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings('ignore:This process.*fork')]
FLUSH, COUNT = 4, 9
DATA, PICTURES = steps(COUNT), frames(COUNT, 2, 2)
LEFT = 'f' * 32
del DATA['object_pose']  # fewer files, fewer calls


@pytest.fixture(autouse=True)
def short_flushes(monkeypatch):
    """Two flushes and a tail, in few calls; no waiting for the disk, for no power fails here."""
    monkeypatch.setattr(fpo_ros.episodes.writer, 'FLUSH_STEPS', FLUSH)
    monkeypatch.setattr(fpo_ros.episodes.writer, 'FRAME_CHUNK', 2)
    monkeypatch.setattr('os.fsync', lambda fd: None)


@pytest.fixture(scope='module')
def template(tmp_path_factory):
    """A store with one committed episode."""
    path = tmp_path_factory.mktemp('template') / 'store'
    EpisodeStore.create_or_open(path).write(steps(3, seed=3), META)
    return path


@pytest.fixture
def fresh(template, tmp_path):
    """Return a function that makes one more copy of the template."""
    def make() -> EpisodeStore:
        return EpisodeStore.open(shutil.copytree(template, tmp_path / f's{len(list(tmp_path.iterdir()))}'))
    return make


def append(writer, index):
    """Append one step; every other one has a frame."""
    writer.append(row(DATA, index), None if index % 2 else {'cam': PICTURES[index]})


def record(store, flushed=None, count=None):
    """Record and commit; ``flushed`` collects after which call how many steps were safe."""
    writer = store.writer(META)
    for index in range(COUNT):
        append(writer, index)
        if flushed is not None and writer.steps % FLUSH == 0:
            flushed.append((count.count, writer.steps))
    return writer.commit(success=True)


def write(store):
    return store.write(DATA, META, {'cam': (PICTURES[::2], np.arange(0, COUNT, 2))})


def assert_prefix(store, identity, exactly=None):
    """The episode is whole in itself, and holds the first steps of what was recorded."""
    assert store.verify(identity) == []
    episode = store.read(identity)
    assert exactly is None or len(episode) == exactly
    for name, value in DATA.items():
        np.testing.assert_array_equal(episode.arrays[name], value[:len(episode)])
    pictures, at = episode.images('cam')
    np.testing.assert_array_equal(at, np.arange(0, len(episode), 2))
    np.testing.assert_array_equal(pictures, PICTURES[at])


def clean_up(store, safe, count=COUNT):
    """Salvage or discard what is left; ``safe`` steps at least must come back, or all if the episode is there."""
    assert store.verify('ep_000001') == []
    for identity in store.ids()[1:]:
        assert_prefix(store, identity, count)
    found = store.leftovers()
    assert len(found) + len(store) <= 2
    for leftover in found:
        assert leftover.alive is False
        if leftover.problem:
            assert not safe, f'{safe} steps were flushed, but: {leftover.problem}'
            store.discard(leftover.name)
        else:
            assert leftover.steps >= safe
            assert_prefix(store, store.salvage(leftover.name), leftover.steps)
    if not found and len(store) == 1:
        assert not safe
    store.tidy()
    assert not (store.path / INCOMING).exists() or list((store.path / INCOMING).iterdir()) == []
    assert store.write(steps(2), META) == f'ep_{len(store):06d}'


def count_calls(work, store) -> int:
    with faults(0, full_disk) as counted:
        work(store)
    return counted.count


def test_a_writer_killed_at_any_call_tears_nothing_and_loses_at_most_the_tail(fresh):
    flushed: list[tuple[int, int]] = []
    store = fresh()
    with faults(0, full_disk) as counted:
        record(store, flushed, counted)
    assert [steps for _, steps in flushed] == [4, 8] and counted.count > 100
    for at in range(1, counted.count + 1):
        store = fresh()
        assert killed_at(at, lambda store=store: record(store))
        clean_up(store, max([steps for call, steps in flushed if call < at], default=0))


def test_a_batch_killed_at_any_call_is_there_or_not(fresh):
    for at in range(1, count_calls(write, fresh()) + 1):
        store = fresh()
        assert killed_at(at, lambda store=store: write(store))
        for leftover in store.leftovers():
            store.discard(leftover.name)
        clean_up(store, 0)


@pytest.fixture
def abandoned(fresh):
    """Return a function that makes a store with an unfinished episode: two flushes, and bytes after them."""
    source = fresh()
    writer = source.writer(META)
    for index in range(COUNT):
        append(writer, index)
    writer.leave()
    (leftover,) = source.leftovers()
    (source.path / INCOMING / leftover.name).rename(source.path / INCOMING / LEFT)
    copies = iter(range(10_000))

    def make() -> EpisodeStore:
        return EpisodeStore.open(shutil.copytree(source.path, source.path.with_name(f'abandoned{next(copies)}')))
    return make


def salvage(store):
    return store.salvage(LEFT)


def test_a_salvage_killed_at_any_call_can_be_repeated(abandoned):
    for at in range(1, count_calls(salvage, abandoned()) + 1):
        store = abandoned()
        assert killed_at(at, lambda store=store: salvage(store))
        clean_up(store, 8, 8)


def refused_at(at, work, store) -> EpisodeStoreError | None:
    """Let one call find the disk full; returns the error, None where that call did not matter."""
    with faults(at, full_disk) as counted:
        try:
            work(store)
        except EpisodeStoreError as error:
            assert counted.count >= at
            assert 'disk full' in str(error) or 'No space left' in str(error)
            return error
    return None


@pytest.mark.parametrize('work', [record, write])
def test_a_disk_that_is_full_at_any_call_costs_the_tail_only_and_the_error_says_so(fresh, work):
    refused = 0
    for at in range(1, count_calls(work, fresh()) + 1):
        store = fresh()
        error = refused_at(at, work, store)
        refused += error is not None
        assert store.verify('ep_000001') == []
        stored = error is None or isinstance(error, UnconfirmedEpisode)
        assert stored == (len(store) == 2), f'call {at}: {error}'
        safe = re.search(r'(\d+) of its \d+ steps are safe in (\S+): "fpo-ros episodes salvage \S+ (\w+)"', str(error))
        if safe:
            (leftover,) = store.leftovers()
            assert leftover.name == safe[3] and leftover.steps >= int(safe[1]) and leftover.alive is False
            assert str(store.path / INCOMING / leftover.name) == safe[2]
            assert_prefix(store, store.salvage(leftover.name), leftover.steps)
        assert store.leftovers() == [], f'call {at}: {error}'
        store.tidy()
        assert not (store.path / INCOMING).exists() or list((store.path / INCOMING).iterdir()) == []
    assert refused > 50


def test_a_salvage_on_a_full_disk_can_be_repeated(abandoned):
    for at in range(1, count_calls(salvage, abandoned()) + 1):
        store = abandoned()
        error = refused_at(at, salvage, store)
        if error is None or isinstance(error, UnconfirmedEpisode):
            assert_prefix(store, 'ep_000002', 8)
        else:
            assert len(store) == 1
            assert_prefix(store, salvage(store), 8)
        assert store.leftovers() == []


def test_the_fault_itself_is_noticed(fresh):
    """The tests above would prove nothing if no process died."""
    store = fresh()
    assert killed_at(1, lambda: record(store)) and not killed_at(10_000, lambda: record(store)) and KILLED
