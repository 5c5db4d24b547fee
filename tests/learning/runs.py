"""Fine-tuning runs of the tiny task, and what they wrote."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_task

from fpo_ros.learning.finetune import finetune

#: Entries of a history that measure the wall clock.
CLOCK = {'rollout_s', 'update_s', 'steps_per_s'}


def train(run: Path, iterations: int, **options: object):
    settings = options.pop('settings', tiny_task.config())
    recorded = tiny_task.pairs() if settings.imitates_recorded else None
    return finetune(tiny_task.policy(), run, settings, iterations, demonstrations=recorded, **options)


def newest(run: Path) -> Path:
    return max((run / 'checkpoints').iterdir())


def without_clock(history: list[dict]) -> list[dict]:
    return [{key: value for key, value in entry.items() if key not in CLOCK} for entry in history]


def progress(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / 'progress.jsonl').read_text().splitlines()]


def files(directory: Path) -> dict[str, bytes]:
    """Return what a run holds, its lock and TensorBoard's events left out: those grow whenever it is opened."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob('*')
            if path.is_file() and path.name != '.finetune.lock' and 'tensorboard' not in path.parts}
