"""What a person sees while long work runs: a line per stage, bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

#: Seconds between plain lines of progress where there is no terminal.
_PLAIN_PERIOD_S = 15.0


def print_plain(console: Console, text: str) -> None:
    """Print text as it is: nothing in it is markup, and no line is broken."""
    console.print(Text(text), soft_wrap=True)


class Bar:
    """Progress of one piece of work."""

    def __init__(self, console: Console, text: str, total: int, progress: Progress | None) -> None:
        self._console, self._text, self._total, self._progress = console, text, total, progress
        self._task = progress.add_task(text, total=total) if progress else None
        self._printed = time.monotonic()

    def update(self, done: int, text: str = '') -> None:
        """Show how much is done, with further words."""
        shown = f'{self._text} {text}'.strip()
        if self._progress is not None:
            self._progress.update(self._task, completed=done, description=shown)
        elif time.monotonic() - self._printed > _PLAIN_PERIOD_S:
            self._printed = time.monotonic()
            print_plain(self._console, f'    {shown}: {done} of {self._total}')


class Display:
    """The console of a long command.

    :param to_stderr: keep standard output for a JSON object.
    """

    def __init__(self, to_stderr: bool = False) -> None:
        self.console = Console(stderr=to_stderr)

    def stage(self, number: int, total: int, text: str) -> None:
        """Announce a stage in one line of plain words."""
        self.console.print(Text.assemble((f'{number}/{total}', 'bold cyan'), f' {text}'), soft_wrap=True)

    def line(self, text: str) -> None:
        """Print one indented line."""
        print_plain(self.console, f'    {text}')

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Bar]:
        """Show a progress bar for the duration of a ``with`` block."""
        if not self.console.is_terminal:
            yield Bar(self.console, text, total, None)
            return
        columns = (TextColumn('    {task.description}', markup=False), BarColumn(), MofNCompleteColumn(),
                   TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield Bar(self.console, text, total, progress)


class TrainingTable:
    """The live table of fine-tuning; plain lines where there is no terminal.

    :param iterations: of the whole run, where that is known.
    :param rows: iterations shown at once.
    """

    COLUMNS = (('iteration', 'iteration', 'd'), ('steps', 'control_steps', ',d'), ('success', 'rewarded_rate', '.1%'),
               ('return', 'mean_return', '.3f'), ('ratio', 'ratio', '.4f'), ('clipped', 'clip_fraction', '.1%'),
               ('V explained', 'explained_variance', '.2f'), ('steps/s', 'steps_per_s', ',.0f'))

    def __init__(self, display: Display, iterations: int | None, rows: int = 12) -> None:
        self._console, self._iterations, self._rows = display.console, iterations, rows
        self._history: list[dict] = []
        self._phase = 'starting'
        self._live = Live(self._table(), console=self._console, refresh_per_second=4, transient=True) \
            if self._console.is_terminal else None

    def __enter__(self) -> TrainingTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Show what the learner does now."""
        self._phase = text
        if self._live:
            self._live.update(self._table())

    def add(self, metrics: dict) -> None:
        """Show one more iteration."""
        self._history.append(metrics)
        if self._live:
            self._live.update(self._table())
        else:
            cells = [f'{column[0]} {value}' for column, value in zip(self.COLUMNS, self._cells(metrics), strict=True)]
            print_plain(self._console, '    ' + ', '.join(cells))

    def _cells(self, metrics: dict) -> list[str]:
        return [format(metrics[key], form) if key in metrics else '-' for _, key, form in self.COLUMNS]

    def _table(self) -> Table:
        done = self._history[-1]['iteration'] if self._history else 0
        total = f'{done}' if self._iterations is None else f'{done} of {self._iterations}'
        table = Table(title=Text(f'FPO, {total} iterations, {self._phase}'))
        for title, _, _ in self.COLUMNS:
            table.add_column(title, justify='right')
        for metrics in self._history[-self._rows:]:
            table.add_row(*self._cells(metrics))
        return table
