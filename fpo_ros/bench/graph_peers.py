"""Bare nodes beside the graph, each a process of its own (fpo_ros/nodes/bare.py), as a benchmark asks them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

#: Time in which a process answers [s].
ANSWER_LIMIT_S = 30.0


class Peer:
    """The process, as the benchmark sees it.

    :param role: one of ``fpo_ros.nodes.bare.ROLES``.
    :param environment: of the process.
    """

    def __init__(self, role: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.role = role
        self._process = subprocess.Popen([sys.executable, '-m', 'fpo_ros.nodes.bare', role, *arguments], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def ask(self, limit_s: float = ANSWER_LIMIT_S) -> Any:
        """Return what was seen since the last time.

        :raises RuntimeError: when the process has ended or does not answer.
        """
        answers: list[str] = []
        reader = threading.Thread(target=lambda: answers.append(self._process.stdout.readline()), daemon=True)
        with contextlib.suppress(BrokenPipeError):  # the empty answer below says that it ended
            self._process.stdin.write('\n')
            self._process.stdin.flush()
        reader.start()
        reader.join(limit_s)
        if not answers:
            raise RuntimeError(f'waited {limit_s:g} s for the answer of the bare node "{self.role}"')
        if not answers[0]:
            raise RuntimeError(f'the bare node "{self.role}" has ended (exit code {self._process.wait(10.0)})')
        return json.loads(answers[0])

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
