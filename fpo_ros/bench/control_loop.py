"""A process that wakes at the control rate, as the arm controller does, and notes how long it slept.

``python -m fpo_ros.bench.control_loop`` answers each line on standard input with the longest time
between two wakings since the line before.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable

from fpo_ros.policy.contract import CONTROL_RATE_HZ


class ControlLoop:
    """The process, as another one sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, '-m', __spec__.name], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, text=True)
        self._ask()  # it runs

    def longest_gap_of(self, work: Callable[[], None]) -> float:
        """Return the longest time between two wakings while work was done [s].

        :raises RuntimeError: when the process has ended.
        """
        self._ask()
        work()
        return self._ask()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(10.0)
        self._process.stdout.close()

    def _ask(self) -> float:
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f'the control loop has ended (exit code {self._process.wait(10.0)})')
        return float(answer)


def run(rate_hz: float = CONTROL_RATE_HZ) -> None:
    """Wake at a rate until standard input ends."""
    period_s, longest_s = 1 / rate_hz, 0.0
    due = last = time.perf_counter()
    while True:
        due = max(due + period_s, last)
        asked, *_ = select.select([sys.stdin], [], [], max(0.0, due - time.perf_counter()))
        now = time.perf_counter()
        if asked:
            if not sys.stdin.readline():
                return
            print(max(longest_s, now - last), flush=True)
            longest_s, due = 0.0, due - period_s
            continue
        longest_s, last = max(longest_s, now - last), now


if __name__ == '__main__':
    run()
