"""Episodes recorded on a worker thread: what is stored, and what is said when the disk refuses."""

from __future__ import annotations

import errno
import threading
import time

import numpy as np
import pytest

from fpo_ros.episodes import UnconfirmedEpisode, incoming
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.episodes.writer import FLUSH_STEPS, EpisodeWriter
from fpo_ros.nodes.logic import recorder as recorder_module
from fpo_ros.nodes.logic.recorder import Recorder

META = {'task': 'transfer_cube', 'prompt': 'Transfer cube', 'observation': 'state', 'source': 'policy',
        'created': '2026-01-01T00:00:00+00:00', 'seed': 1}


def step(k: int) -> dict:
    """Return one step."""
    return {'joint_positions': np.zeros(14, np.float32), 'action': np.full(14, k, np.float32),
            'reward': np.float32(0), 'timestamp': 0.02 * k}


@pytest.fixture
def recorder(tmp_path):
    """A recorder on a fresh store."""
    made = Recorder(EpisodeStore.create_or_open(tmp_path / 'store'))
    yield made
    assert made.close()


def test_steps_are_stored_in_order(recorder, tmp_path) -> None:
    recorder.begin(META)
    for k in range(120):
        recorder.append(step(k), {})
    episode = EpisodeStore.open(tmp_path / 'store').read(recorder.commit(success=True).result(10.0))
    np.testing.assert_array_equal(np.array(episode.arrays['action'])[:, 0], np.arange(120))
    assert episode.meta.success is True


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


def until(holds, limit_s: float = 10.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, 'it did not happen in time'
        time.sleep(0.001)


def test_full_disk_ends_the_episode_with_its_reason_and_the_next_one_is_stored(
        recorder, tmp_path, monkeypatch) -> None:
    recorder.begin(META)
    recorder.append(step(0), {})
    first = recorder.commit(success=False).result(10.0)
    with monkeypatch.context() as patch:
        patch.setattr(incoming.Incoming, 'extend', full)
        recorder.begin(META)
        recorder.append(step(0), {})
        with pytest.raises((ValueError, OSError), match='No space left|disk'):
            recorder.commit(success=False).result(10.0)
        assert recorder.problem
    recorder.begin(META)
    assert recorder.problem == ''
    recorder.append(step(0), {})
    second = recorder.commit(success=False).result(10.0)
    assert EpisodeStore.open(tmp_path / 'store').ids() == [first, second]


def test_disk_that_falls_behind_is_named_instead_of_filling_the_memory(recorder, monkeypatch) -> None:
    monkeypatch.setattr(recorder_module, 'QUEUE_STEPS', -1)
    recorder.begin(META)
    recorder.append(step(0), {})
    assert 'behind' in recorder.problem
    with pytest.raises(ValueError, match='behind'):
        recorder.commit(success=False).result(10.0)


def assert_salvageable(tmp_path, count: int, error: str = '') -> None:
    """The first ``count`` steps are in the one leftover that the error names."""
    store = EpisodeStore.open(tmp_path / 'store')
    (leftover,) = store.leftovers()
    assert leftover.alive is False and not leftover.problem
    if error:
        assert f'{count} of its ' in error
        assert f'"fpo-ros episodes salvage {store.path} {leftover.name}"' in error
    episode = store.read(store.salvage(leftover.name))
    np.testing.assert_array_equal(episode.arrays['action'][:, 0], np.arange(count))


def test_full_disk_costs_the_tail_only(recorder, tmp_path, monkeypatch) -> None:
    recorder.begin(META)
    for k in range(2 * FLUSH_STEPS):
        recorder.append(step(k), {})
    store = EpisodeStore.open(tmp_path / 'store')
    until(lambda: [leftover.steps for leftover in store.leftovers()] == [2 * FLUSH_STEPS])
    monkeypatch.setattr(incoming.Incoming, 'extend', full)
    recorder.append(step(2 * FLUSH_STEPS), {})
    until(lambda: recorder.problem)  # at once, so that the episode can be stopped
    with pytest.raises(ValueError, match='disk full') as caught:
        recorder.commit(success=True).result(10.0)
    assert recorder.problem == str(caught.value)
    assert_salvageable(tmp_path, 2 * FLUSH_STEPS, str(caught.value))


def test_disk_that_falls_behind_costs_the_tail_only(recorder, tmp_path, monkeypatch) -> None:
    recorder.begin(META)
    for k in range(FLUSH_STEPS + 3):
        recorder.append(step(k), {})
    monkeypatch.setattr(recorder_module, 'QUEUE_STEPS', -1)
    recorder.append(step(FLUSH_STEPS + 3), {})
    assert 'behind' in recorder.problem
    with pytest.raises(ValueError, match='behind') as caught:
        recorder.commit(success=True).result(10.0)
    assert_salvageable(tmp_path, FLUSH_STEPS, str(caught.value))


def test_recorder_that_is_closed_or_begins_anew_leaves_flushed_steps(recorder, tmp_path) -> None:
    for _ in range(2):
        recorder.begin(META)
        for k in range(FLUSH_STEPS):
            recorder.append(step(k), {})
    assert recorder.close()
    store = EpisodeStore.open(tmp_path / 'store')
    assert [leftover.steps for leftover in store.leftovers()] == [FLUSH_STEPS] * 2


def test_abort_removes_everything(recorder, tmp_path) -> None:
    recorder.begin(META)
    for k in range(FLUSH_STEPS):
        recorder.append(step(k), {})
    recorder.abort()
    assert recorder.close() and EpisodeStore.open(tmp_path / 'store').leftovers() == []


def test_refused_steps_are_left_out_counted_and_named_by_their_place(recorder, tmp_path) -> None:
    recorder.begin(META | {'extra': {'cell': 'left'}})
    for k in range(10):
        bad = {3: {'action': np.full(14, np.nan, np.float32)}, 7: {'joint_positions': np.zeros(13)}}.get(k, {})
        recorder.append(step(k) | bad, {'cam': np.zeros((2, 2), np.uint8)} if k == 5 else {})
    episode_id = recorder.commit(success=True).result(10.0)
    assert recorder.problem == '' and recorder.refused == 3
    assert 'array joint_positions has rows of shape (13,)' in recorder.newest_refusal
    episode = EpisodeStore.open(tmp_path / 'store').read(episode_id)
    np.testing.assert_array_equal(episode.arrays['action'][:, 0], [0, 1, 2, 4, 6, 8, 9])
    assert episode.meta.extra == {'cell': 'left', 'refused_steps': 3, 'newest_refusal': recorder.newest_refusal}
    recorder.begin(META)
    assert (recorder.refused, recorder.newest_refusal) == (0, '')
    for k in range(3):
        recorder.append(step(k), {})
    recorder.append(step(3) | {'reward': np.float32(np.inf)}, {})
    extra = {'reason': 'success'}
    episode_id = recorder.commit(success=True, extra=extra).result(10.0)
    assert recorder.newest_refusal == 'array reward is not finite at step 3: inf'
    found = EpisodeStore.open(tmp_path / 'store').read(episode_id).meta.extra
    assert found == {'reason': 'success', 'refused_steps': 1, 'newest_refusal': recorder.newest_refusal}
    assert extra == {'reason': 'success'}


def test_an_episode_without_refused_steps_says_so(recorder, tmp_path) -> None:
    recorder.begin(META)
    recorder.append(step(0), {})
    episode_id = recorder.commit().result(10.0)
    assert EpisodeStore.open(tmp_path / 'store').read(episode_id).meta.extra == {'refused_steps': 0}


def test_an_episode_of_refused_steps_only_gives_their_reason(recorder) -> None:
    recorder.begin(META)
    for k in range(4):
        recorder.append(step(k) | {'action': np.zeros(3)}, {})
    with pytest.raises(ValueError, match=r'none of 4 steps .* array action has rows of shape \(3,\)'):
        recorder.commit(success=True).result(10.0)


def test_unforeseen_errors_cost_a_step_or_an_episode_but_not_the_recorder(recorder, tmp_path, monkeypatch) -> None:
    recorder.begin(META)
    recorder.append(step(0), {})
    recorder.append(None, {})
    recorder.append(step(1), {})
    first = recorder.commit().result(10.0)
    assert recorder.refused == 1 and 'AttributeError' in recorder.newest_refusal
    for broken in ('extend', 'commit'):
        with monkeypatch.context() as patch:
            patch.setattr(incoming.Incoming, broken, lambda *arguments: {}['unforeseen'])
            recorder.begin(META)
            recorder.append(step(0), {})
            with pytest.raises(ValueError, match="KeyError: 'unforeseen'"):
                recorder.commit().result(10.0)
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, 'writer', lambda *arguments: {}['unforeseen'])
        recorder.begin(META)
        recorder.append(step(0), {})
        with pytest.raises(ValueError, match="KeyError: 'unforeseen'"):
            recorder.commit().result(10.0)
    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, 'commit', lambda *arguments, **options: {}['unforeseen'])
        patch.setattr(EpisodeWriter, 'leave', lambda *arguments: {}['again'])
        recorder.begin(META)
        recorder.append(step(0), {})
        with pytest.raises(ValueError, match="KeyError: 'unforeseen'"):
            recorder.commit().result(10.0)
    recorder.begin(META)
    recorder.append(step(0), {})
    second = recorder.commit().result(10.0)
    assert EpisodeStore.open(tmp_path / 'store').ids() == [first, second]


def test_a_problem_of_an_episode_is_not_that_of_the_next(recorder, tmp_path, monkeypatch) -> None:
    """The worker may find out about the first one's disk only when the second has begun."""
    go = threading.Event()

    def late(*arguments: object) -> None:
        assert go.wait(10.0)
        full()

    monkeypatch.setattr(incoming.Incoming, 'extend', late)
    recorder.begin(META)
    recorder.append(step(0), {})
    first = recorder.commit()
    recorder.begin(META)
    go.set()
    assert isinstance(first.exception(10.0), ValueError)
    monkeypatch.undo()
    recorder.append(step(0), {})
    assert recorder.commit().result(10.0) and recorder.problem == ''


def test_an_episode_that_is_stored_unconfirmed_is_reported_with_its_id(recorder, tmp_path, monkeypatch) -> None:
    def unconfirmed(self, meta) -> None:
        incoming.Incoming.discard(self)
        raise UnconfirmedEpisode(tmp_path, 'ep_000001', OSError(errno.EIO, 'Input/output error'))

    monkeypatch.setattr(incoming.Incoming, 'commit', unconfirmed)
    recorder.begin(META)
    recorder.append(step(0), {})
    error = recorder.commit().exception(10.0)
    assert isinstance(error, UnconfirmedEpisode) and error.episode_id == 'ep_000001'
    assert 'stored as ep_000001, but the disk did not confirm it' in recorder.problem


def test_a_closed_recorder_refuses_instead_of_letting_wait(recorder) -> None:
    assert recorder.close()
    recorder.begin(META)
    recorder.append(step(0), {})
    with pytest.raises(ValueError, match='the recorder is closed'):
        recorder.commit().result(1.0)


def test_commit_without_an_episode_is_refused(recorder) -> None:
    with pytest.raises(ValueError, match='no episode is being recorded'):
        recorder.commit(success=True).result(10.0)
