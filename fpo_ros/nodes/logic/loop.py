"""A loop with a fixed period on its own thread, paced by the steady clock."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable


class SteadyLoop:
    """Calls a function once per period, on a grid that does not drift.

    A call that overruns skips the missed grid points instead of catching up in a burst.

    :param period_s: time between calls [s].
    :param body: the function; its first exception ends the loop.
    :param on_failure: called with that exception, on the loop's thread.
    :param on_end: called once on the loop's thread when it ends, for what belongs to that thread.
    :param name: name of the thread.
    :param realtime_priority: SCHED_FIFO priority 1..99 of the thread; 0 leaves it as it is.
    """

    def __init__(self, period_s: float, body: Callable[[], None], on_failure: Callable[[Exception], None], *,
                 name: str, realtime_priority: int = 0, on_end: Callable[[], None] | None = None) -> None:
        if not period_s > 0:
            raise ValueError(f'period must be positive, got {period_s} s')
        self._period_ns = round(period_s * 1e9)
        self._body, self._on_failure, self._on_end = body, on_failure, on_end
        self._priority = realtime_priority
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        #: Why the wanted priority was not given; empty if it was, or none was wanted.
        self.priority_refusal = ''
        self._ready = threading.Event()

    def start(self) -> None:
        """Start the loop; returns once its thread runs with its final priority."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """End the loop and wait for its last call."""
        self._stopping = True
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        if self._priority:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))
            except OSError as error:
                self.priority_refusal = f'no real-time priority {self._priority}: {error.strerror}'
        self._ready.set()
        try:
            self._repeat()
            if self._on_end is not None:
                self._on_end()
        except Exception as error:
            self._on_failure(error)

    def _repeat(self) -> None:
        due = time.monotonic_ns()
        while not self._stopping:
            self._body()
            due += self._period_ns
            wait = due - time.monotonic_ns()
            if wait < 0:
                due -= wait // self._period_ns * self._period_ns
                wait = due - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait * 1e-9)
