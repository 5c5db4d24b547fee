"""Episodes written to the store on a worker thread, step by step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.episodes.writer import EpisodeWriter

#: Steps waiting for the disk before recording is called too slow [count].
QUEUE_STEPS = 500


class Recorder:
    """Writes one episode at a time. The caller never waits for the disk.

    An error of the disk ends the episode being recorded; :attr:`problem` says why.

    :param store: where episodes go.
    """

    def __init__(self, store: EpisodeStore) -> None:
        self._store = store
        self._jobs: queue.Queue[tuple[str, Any, Any] | None] = queue.Queue()
        self._writer: EpisodeWriter | None = None
        #: Why the current episode cannot be recorded; empty while it can.
        self.problem = ''
        self._thread = threading.Thread(target=self._work, name='recorder', daemon=True)
        self._thread.start()

    def begin(self, meta: Mapping[str, Any]) -> None:
        """Start an episode; an unfinished one is dropped."""
        self.problem = ''
        self._jobs.put(('begin', dict(meta), None))

    def append(self, step: Mapping[str, Any], images: Mapping[str, np.ndarray]) -> None:
        """Add one step; see :meth:`EpisodeWriter.append`."""
        if self._jobs.qsize() > QUEUE_STEPS and not self.problem:
            self.problem = (
                f'the disk is more than {QUEUE_STEPS} steps behind: use a faster one for {self._store.path}'
            )
        if not self.problem:
            self._jobs.put(('append', step, images))

    def commit(self, **final_meta: Any) -> Future[str]:
        """Finish the episode; the result is its id, or the error that kept it from the store."""
        done: Future[str] = Future()
        self._jobs.put(('commit', final_meta, done))
        return done

    def abort(self) -> None:
        """Drop the episode."""
        self._jobs.put(('abort', None, None))

    def close(self, timeout_s: float = 10.0) -> bool:
        """Drop an unfinished episode and end the thread; returns False if it did not end in time [s]."""
        self.abort()
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            kind, value, extra = job
            if kind == 'commit':
                self._commit(value, extra)
                continue
            try:
                self._carry_out(kind, value, extra)
            except (ValueError, OSError) as error:
                self.problem = str(error)
                self._drop()

    def _carry_out(self, kind: str, value: Any, extra: Any) -> None:
        if kind in ('begin', 'abort'):
            self._drop()
        if kind == 'begin':
            self._writer = self._store.writer(value)
        elif kind == 'append' and self._writer is not None:
            self._writer.append(value, extra)

    def _commit(self, final_meta: dict[str, Any], done: Future[str]) -> None:
        if self.problem or self._writer is None:
            done.set_exception(ValueError(self.problem or 'no episode is being recorded'))
            self._drop()
            return
        try:
            done.set_result(self._writer.commit(**final_meta))
        except (ValueError, OSError) as error:
            done.set_exception(error)
        self._drop()

    def _drop(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()
