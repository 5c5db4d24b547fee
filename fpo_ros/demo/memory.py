"""Peak memory of a process and everything it started."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil


class PeakMemory:
    """Samples resident memory once a second during a ``with`` block.

    Pages that processes share are counted once for each, so the figure is an upper bound.
    """

    def __init__(self, period_s: float = 1.0) -> None:
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='peak_memory', daemon=True)
        #: Largest sum seen [bytes].
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._sample()  # so that even the shortest block has a figure
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        own = psutil.Process()
        self.bytes = max(self.bytes, sum(map(_resident, (own, *own.children(recursive=True)))))


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0  # it ended between being listed and being asked
