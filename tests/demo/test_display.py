"""What a person sees: text as it is, and the number of the iteration."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fpo_ros.demo.display import Display, TrainingTable

PATH = '/data/[lab]/:smile:/' + 'a' * 100 + '/x'
METRICS = {'iteration': 17, 'control_steps': 12_345, 'rewarded_rate': 0.5, 'mean_return': 0.25, 'steps_per_s': 900.0}


def shown(terminal: bool) -> tuple[Display, io.StringIO]:
    """Return a display that writes into memory."""
    display, text = Display(), io.StringIO()
    display.console = Console(file=text, width=80, force_terminal=terminal, color_system=None)
    return display, text


@pytest.mark.parametrize('terminal', [False, True])
def test_a_path_is_printed_whole(terminal):
    display, text = shown(terminal)
    display.line(f'everything is in {PATH}')
    display.stage(3, 8, f'Stage in {PATH}')
    assert text.getvalue() == f'    everything is in {PATH}\n3/8 Stage in {PATH}\n'


def test_progress_off_a_terminal_is_printed_whole(monkeypatch):
    monkeypatch.setattr('fpo_ros.demo.display._PLAIN_PERIOD_S', -1.0)
    display, text = shown(False)
    with display.bar('recording', 7) as bar:
        bar.update(3, f'({PATH})')
    assert text.getvalue() == f'    recording ({PATH}): 3 of 7\n'


def test_the_table_of_a_resumed_run_goes_on_counting():
    display, text = shown(True)
    table = TrainingTable(display, 24)
    table.add(METRICS)
    display.console.print(table._table())
    assert 'FPO, 17 of 24 iterations' in text.getvalue() and '12,345' in text.getvalue()


def test_off_a_terminal_an_iteration_is_one_line():
    display, text = shown(False)
    with TrainingTable(display, 24) as table:
        table.add(METRICS)
    assert len(text.getvalue().splitlines()) == 1 and 'iteration 17' in text.getvalue()
