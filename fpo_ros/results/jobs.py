"""Seeds of rows side by side, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from fpo_ros.demo.display import Display
from fpo_ros.results.rows import Row


class JobsError(RuntimeError):
    """Some seeds could not be run; the message names them, and what each printed last."""


class Jobs:
    """Runs ``fpo-ros results run`` for one seed after the other, several at once.

    :param count: at once, at least 1.
    :param threads: of each.
    :param work: where starts and runs are kept; what seeds of a row share must be there.
    :param results: where the JSON goes.
    :param display: gets what they print, a line at a time behind row and seed.
    """

    def __init__(self, count: int, threads: int, work: Path, results: Path, display: Display) -> None:
        self._count, self._threads, self._display = count, threads, display
        self._places = ('--dir', str(work), '--results', str(results))
        self._running: set[subprocess.Popen] = set()
        self._lock, self._stopping = threading.Lock(), False

    def run(self, tasks: Sequence[tuple[Row, int]]) -> None:
        """Run all to their ends, also where one fails. Interrupted, all are interrupted, and have ended.

        :raises JobsError: naming those that failed.
        """
        failed = []
        with ThreadPoolExecutor(self._count) as pool:
            try:
                futures = [pool.submit(self._run_one, row, seed) for row, seed in tasks]
                failed = [future.result() for future in as_completed(futures)]
            except BaseException:
                self._stop()
                raise
        if any(failed):
            raise JobsError('; '.join(sorted(filter(None, failed))) + ': what is done stays, and the same command goes '
                            'on with the rest')

    def _run_one(self, row: Row, seed: int) -> str:
        """Return what failed in words; nothing where nothing did."""
        name, last = f'{row.name} {seed}', '(no message)'
        # It ends with this process, however that ends. A terminal's Ctrl-C reaches this one alone, which hands it on:
        # as SIGTERM, since who is started in the background of a script is deaf to SIGINT.
        command = ['setpriv', '--pdeathsig', 'TERM', sys.executable, '-m', 'fpo_ros.cli', 'results', 'run', row.name,
                   '--seeds', str(seed), '--threads', str(self._threads), *self._places]
        with self._lock:
            if self._stopping:
                return ''
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                       env=os.environ | {'OMP_NUM_THREADS': str(self._threads)})
            self._running.add(process)
        with process:
            for line in process.stdout:
                if line.strip():
                    last = line.strip()
                    self._display.line(f'{name}: {last}')
        with self._lock:
            self._running.discard(process)
        return f'{name} ended with code {process.returncode} ({last})' if process.returncode else ''

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)
