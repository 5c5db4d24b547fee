"""Rows on the tiny task of the learning tests.

``tiny_rows.py WORK RESULTS`` runs one as ``fpo-ros results run`` does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

sys.path.append(str(Path(__file__).parents[1] / 'learning'))

import tiny_task  # noqa: E402

from fpo_ros.results import cli, rows, running  # noqa: E402
from fpo_ros.results.rows import STATE, Row  # noqa: E402

TINY = Row('tiny', 'main', 'Tiny', STATE, 200, (60, 200), seeds=(0,), episodes=3)


@contextmanager
def on_the_tiny_task() -> Iterator[None]:
    """Let rows start from a tiny policy, with tiny settings, on the tiny task."""
    with mock.patch.object(running, 'start_policy', lambda start, work, display: tiny_task.policy()), \
            mock.patch.object(Row, 'config', lambda row: tiny_task.config()), \
            mock.patch.object(rows, 'ROWS', (TINY,)), tiny_task.short_episodes(), tiny_task.waist_reward():
        yield


if __name__ == '__main__':
    with on_the_tiny_task():
        try:
            cli.app(['run', 'tiny', '--threads', '1', '--dir', sys.argv[1], '--results', sys.argv[2]],
                    standalone_mode=False)
        except (RuntimeError, ValueError) as error:
            sys.exit(f'{type(error).__name__}: {error}')
