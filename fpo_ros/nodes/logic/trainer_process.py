"""The trainer as a worker process of low priority, followed through its progress file."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

#: One JSON object per line, written by the trainer after each iteration.
PROGRESS_FILE = 'progress.jsonl'
OUTPUT_FILE = 'trainer.log'
LOCK_FILE = '.trainer.lock'


def newest_progress(path: Path) -> dict[str, Any] | None:
    """Return the last complete entry of a file of JSON lines; None before the first.

    A line still being written does not count.

    :raises ValueError: naming the line that is not a JSON object.
    """
    try:
        lines = path.read_bytes().split(b'\n')[:-1]
    except FileNotFoundError:
        return None
    if not lines:
        return None
    try:
        entry = json.loads(lines[-1])
    except ValueError as error:
        raise ValueError(f'{path}: a line of progress is not JSON: {lines[-1][:80]!r}') from error
    if not isinstance(entry, dict):
        raise ValueError(f'{path}: a line of progress is not an object: {lines[-1][:80]!r}')
    return entry


class TrainerProcess:
    """Runs ``fpo-ros train fpo`` in a process group of its own; it ends when its learner does, however that ends.

    :param run: run directory.
    :param arguments: further arguments of ``fpo-ros train fpo``.
    :param resume: continue the run.
    :param nice: added niceness, so that the arms come first.
    :param threads: threads of physics and of the numerical libraries.
    :raises OSError: when the directory cannot be written, or another trainer works in it.
    """

    def __init__(self, run: Path, arguments: list[str], resume: bool, nice: int, threads: int) -> None:
        self.run = run
        run.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(run / LOCK_FILE)
        command = [sys.executable, '-m', 'fpo_ros.cli', 'train', 'fpo', '--run', str(run),
                   '--threads', str(threads), *arguments,
                   *(['--resume'] if resume else [])]
        environment = os.environ | {'OMP_NUM_THREADS': str(threads)}
        self._log: TextIO = open(run / OUTPUT_FILE, 'a', encoding='utf-8')
        # A session of its own would be scheduled apart from the nodes, and niceness would count for nothing.
        self._process = subprocess.Popen(
            ['setpriv', '--pdeathsig', 'INT', 'nice', '-n', str(nice), *command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=(self._lock.fileno(),),
            preexec_fn=os.setpgrp,
        )
        self._lock.write(f'{self._process.pid}\n')
        self._lock.flush()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    def progress(self) -> dict[str, Any] | None:
        """Return the newest entry of its progress; see :func:`newest_progress`."""
        return newest_progress(self.run / PROGRESS_FILE)

    def exit_code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def last_output(self) -> str:
        """Return the newest line the trainer printed; empty where its log is gone."""
        try:
            lines = (self.run / OUTPUT_FILE).read_text(encoding='utf-8', errors='replace').split('\n')
        except OSError:
            return ''
        return next((line.strip() for line in reversed(lines) if line.strip()), '')

    def stop(self, patience_s: float = 10.0) -> int:
        """Ask the trainer to end (SIGINT), kill it after a while; returns the exit code.

        What it saved after its newest iteration stays; the iteration in progress is lost.

        :param patience_s: time given to end [s].
        """
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGINT)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
        self._log.close()
        self._lock.close()
        return self._process.returncode


def _lock(path: Path) -> TextIO:
    """Take the lock of a run directory. The trainer inherits it, so it outlives a killed learner."""
    file = open(path, 'a+', encoding='utf-8')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        process = file.read().strip() or 'unknown'
        file.close()
        raise OSError(error.errno, f'another trainer (process {process}) works in this run directory: '
                                   'wait for it or end it', str(path.parent)) from error
    file.truncate(0)
    return file
