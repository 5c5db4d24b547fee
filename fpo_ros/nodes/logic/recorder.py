"""Episodes written to the store on a worker thread, step by step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.episodes.writer import EpisodeWriter

#: Steps waiting for the disk before recording is called too slow [count].
QUEUE_STEPS = 500


@dataclass
class _Recording:
    """One episode, from its first step to the store."""

    writer: EpisodeWriter | None = None
    problem: str = ''
    refused: int = 0
    newest_refusal: str = ''


class Recorder:
    """Writes one episode at a time. The caller never waits for the disk.

    A step that does not fit is left out and counted. A disk that refuses or falls behind ends the recording:
    :attr:`problem` says why, and what was flushed stays for ``fpo-ros episodes salvage``.

    :param store: where episodes go.
    """

    def __init__(self, store: EpisodeStore) -> None:
        self._store = store
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._recording = _Recording()
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name='recorder', daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why the episode begun last cannot be recorded any further; empty while it can."""
        return self._recording.problem

    @property
    def refused(self) -> int:
        """Steps of the episode begun last that did not fit and were left out [count]."""
        return self._recording.refused

    @property
    def newest_refusal(self) -> str:
        """Why the newest of these was left out; empty if none was."""
        return self._recording.newest_refusal

    def begin(self, meta: Mapping[str, Any]) -> None:
        """Start an episode; of an unfinished one, the flushed steps stay for salvage."""
        self._put(partial(self._leave, self._recording))
        self._recording = _Recording()
        self._put(partial(self._begin, self._recording, dict(meta)))

    def append(self, step: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> None:
        """Add one step; see :meth:`EpisodeWriter.append`. Does nothing once there is a :attr:`problem`."""
        recording = self._recording
        if self._jobs.qsize() > QUEUE_STEPS and not recording.problem:
            recording.problem = (
                f'the disk is more than {QUEUE_STEPS} steps behind: use a faster one for {self._store.path}'
            )
        if not recording.problem:
            self._put(partial(self._append, recording, step, images))

    def commit(self, **final_meta: Any) -> Future[str]:
        """Finish the episode; its entry ``extra`` also gets ``refused_steps``.

        :returns: its id, or the error (a ValueError or OSError) that kept it from the store and says which steps
            are safe. With :class:`fpo_ros.episodes.UnconfirmedEpisode` it is in the store under that error's
            ``episode_id``, but may not survive a power cut.
        """
        done: Future[str] = Future()
        done.set_running_or_notify_cancel()  # it is no longer the caller's to cancel
        if not self._put(partial(self._commit, self._recording, final_meta, done)):
            done.set_exception(ValueError('the recorder is closed'))
        return done

    def abort(self) -> None:
        """Drop the episode."""
        self._put(partial(self._abort, self._recording))

    def close(self, timeout_s: float = 10.0) -> bool:
        """End the thread; of an unfinished episode, the flushed steps stay for salvage.

        :returns: False if the thread did not end in time [s].
        """
        self._put(partial(self._leave, self._recording))
        with self._closing:
            self._closed = True
            self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, job: Callable[[], None]) -> bool:
        """Queue a job; returns False once the recorder was closed, for nobody would do it."""
        with self._closing:
            if not self._closed:
                self._jobs.put(job)
            return not self._closed

    # ---- worker thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _begin(self, recording: _Recording, meta: dict[str, Any]) -> None:
        try:
            recording.writer = self._store.writer(meta)
        except Exception as error:  # whatever it is, the cell goes on and the next episode is recorded
            recording.problem = _reason(error)

    def _append(self, recording: _Recording, step: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> None:
        writer = recording.writer
        if writer is None or writer.closed:
            return
        try:
            writer.append(step, images)
        except Exception as error:  # as above
            if writer.closed:
                recording.problem = _reason(error)
            else:
                recording.refused += 1
                recording.newest_refusal = _reason(error)

    def _commit(self, recording: _Recording, final_meta: dict[str, Any], done: Future[str]) -> None:
        try:
            episode_id = self._store_episode(recording, final_meta)
        except Exception as error:  # as above
            self._leave(recording)
            recording.problem = recording.problem or _reason(error)
            done.set_exception(error if isinstance(error, (ValueError, OSError)) else ValueError(_reason(error)))
        else:
            recording.writer = None
            done.set_result(episode_id)

    def _store_episode(self, recording: _Recording, final_meta: dict[str, Any]) -> str:
        writer = recording.writer
        if recording.problem and writer is not None and not writer.closed:
            recording.problem = f'{recording.problem}; {writer.leave()}'
        if recording.problem or writer is None:
            raise ValueError(recording.problem or 'no episode is being recorded')
        extra = dict(final_meta.get('extra', writer.meta.extra)) | {'refused_steps': recording.refused}
        if recording.refused:
            extra['newest_refusal'] = recording.newest_refusal
            if not writer.steps:
                raise ValueError(f'none of {recording.refused} steps could be stored; the newest was refused: '
                                 f'{recording.newest_refusal}')
        return writer.commit(**final_meta | {'extra': extra})

    def _leave(self, recording: _Recording) -> None:
        if recording.writer is not None:
            self._end(recording, recording.writer.leave)

    def _abort(self, recording: _Recording) -> None:
        if recording.writer is not None:
            self._end(recording, recording.writer.abort)

    def _end(self, recording: _Recording, how: Callable[[], Any]) -> None:
        try:
            how()
        except Exception as error:  # as above
            recording.problem = recording.problem or _reason(error)
        recording.writer = None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, (ValueError, OSError)) else f'{type(error).__name__}: {error}'
