"""What a run reports after every iteration: ``progress.jsonl``, ``progress.csv`` and TensorBoard's event files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from fpo_ros.files import replace_file
from fpo_ros.learning.diagnostics import SIDE
from fpo_ros.learning.metrics import SCALARS
from fpo_ros.policy.saving import saving

_ADVICE = 'the checkpoints stand: go on from them with --resume'
#: Where TensorBoard looks: ``tensorboard --logdir <run>``.
_EVENTS = 'tensorboard'
#: Metrics by the section of TensorBoard that shows them; the rest is under "training", and success of each start region
#: under "regions".
_SECTIONS = {'episodes': SCALARS[2:12], 'time': SCALARS[-5:]}


class Progress:
    """The progress files of a run, open for a ``with`` block.

    :param run: directory of the run.
    :param history: iterations done before; the files are made to agree with them.
    :raises SaveError: when the disk refuses.
    """

    def __init__(self, run: Path, history: list[dict]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._json, self._csv = run / 'progress.jsonl', run / 'progress.csv'
        with saving(run, _ADVICE):
            replace_file(self._json, ''.join(json.dumps(entry) + '\n' for entry in history).encode())
            replace_file(self._csv, ''.join([','.join(SCALARS) + '\r\n', *map(_row, history)]).encode())
            # What a killed process had written of iterations that are done again is not shown.
            self._events = SummaryWriter(str(run / _EVENTS), purge_step=len(history) + 1)
            self._events.flush()

    def add(self, entry: dict[str, Any]) -> None:
        """Add an iteration.

        :raises SaveError: when the disk refuses; the next :class:`Progress` mends the files.
        """
        with saving(self._json, _ADVICE):
            for path, line in ((self._json, json.dumps(entry) + '\n'), (self._csv, _row(entry))):
                with open(path, 'a', encoding='utf-8', newline='') as file:
                    file.write(line)
            for name in SCALARS[1:]:
                if entry.get(name) is not None:
                    section = next((title for title, names in _SECTIONS.items() if name in names), 'training')
                    self._events.add_scalar(f'{section}/{name}', entry[name], entry['iteration'])
            for index, (rewarded, episodes) in enumerate(entry.get('regions', ())):
                if episodes:
                    name = f'regions/x{index % SIDE}_y{index // SIDE}'
                    self._events.add_scalar(name, rewarded / episodes, entry['iteration'])
            self._events.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        with saving(self._json.with_name(_EVENTS), _ADVICE):
            self._events.close()


def _row(entry: dict[str, Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([entry.get(name) for name in SCALARS])
    return line.getvalue()
