"""Episodes recorded on a worker thread: what is stored, and what is said when the disk refuses."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from fpo_ros.episodes import incoming
from fpo_ros.episodes.store import EpisodeStore
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


def test_full_disk_ends_the_episode_with_its_reason_and_the_next_one_is_stored(
        recorder, tmp_path, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

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


def test_commit_without_an_episode_is_refused(recorder) -> None:
    with pytest.raises(ValueError, match='no episode is being recorded'):
        recorder.commit(success=True).result(10.0)
