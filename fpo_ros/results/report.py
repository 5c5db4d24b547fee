"""docs/results.md and its plots, from the JSON of all seeds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from fpo_ros.files import replace_file
from fpo_ros.learning.compare import paired
from fpo_ros.results.rates import pooled
from fpo_ros.results.rows import GROUPS, REFERENCE, ROWS, Row, row_named

_TITLES = {
    'main': 'Main results', 'relatives': 'FPO and its relatives', 'ablations': 'What each part does',
    'pairs': 'Pairs per decision', 'executed': 'Executed steps of a chunk',
}


class ResultsError(ValueError):
    """Results cannot be read; the message names the file."""


def load_results(directory: Path) -> dict[str, list[dict]]:
    """Return the results by row, each a list over seeds.

    :raises ResultsError: for a file that is none.
    """
    found: dict[str, list[dict]] = {}
    for path in sorted(directory.glob('*.json')):
        try:
            one = json.loads(path.read_text(encoding='utf-8'))
            found.setdefault(one['row'], []).append(one)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResultsError(f'{path} is no result ({error}): remove it, and run its row again') from error
    return {row: sorted(seeds, key=lambda one: one['seed']) for row, seeds in found.items()}


def _rate(evaluations: list[dict], rule: str) -> str:
    """Return the pooled success of several evaluations with its 95 % Wilson interval."""
    rate, low, high = pooled(evaluations, rule)
    return f'{100 * rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})'


def _of(entry: dict, rule: str) -> float:
    return pooled([entry], rule)[0]


def _drop(one: dict) -> float:
    """Return how many points the last evaluation lies below the best one, by gym-aloha's rule."""
    rates = [_of(entry, 'gym') for entry in one['evaluations'] if entry['mark']]
    return 100 * (max(rates) - rates[-1])


def main_table(row: Row, seeds: list[dict]) -> list[str]:
    """Return the table of a main row: a line per mark, seeds apart and pooled."""
    lines = [f'### {row.title}', '', '| control steps | by seed, gym (strict) | gym, all | strict, all |',
             '|---|---|---|---|']
    for mark in (0, *row.marks):
        at = [(one['seed'], entry) for one in seeds for entry in one['evaluations'] if entry['mark'] == mark]
        if not at:
            continue
        entries = [entry for _, entry in at]
        pooled = entries if mark else entries[:1]  # all seeds have one start
        each = ', '.join(f'{100 * _of(entry, "gym"):.1f} ({100 * _of(entry, "strict"):.1f})' for entry in pooled)
        lines.append(f'| {mark / 1e6:g} M | {each} | {_rate(pooled, "gym")} | {_rate(pooled, "strict")} |')
    finished = [one for one in seeds if one['finished']]
    if finished:
        zero = [one['zero'] for one in finished]
        drops = ', '.join(f'{_drop(one):.1f}' for one in finished)
        minutes = ', '.join(f"{one['minutes']:.0f}" for one in finished)
        lines += ['', f'From zero start noise at the end: {_rate(zero, "gym")}, strict {_rate(zero, "strict")}. '
                  f'The end lies below the best evaluation by {drops} points (by seed). Training took {minutes} min.']
    alarms = sorted({name for one in seeds for name in one.get('alarms', [])})
    restored = sum(one.get('restored', 0) for one in seeds)
    lines += ['', f'Alarms: {", ".join(alarms) or "none"}; the best policy was restored {restored} times in all seeds '
              'together.']
    return [*lines, '']


def compared_table(group: str, found: dict[str, list[dict]]) -> list[str]:
    """Return the table of a group whose rows are compared with the default, each at its own budget."""
    rows = shown(group, found)
    if not rows:
        return []
    lines = ['| setting | control steps | seeds | start, gym | gym | strict '
             '| less than the default, gym (paired) | p |', '|---|---|---|---|---|---|---|---|']
    for row, seeds in rows:
        last = [one['evaluations'][-1] for one in seeds]
        mark = last[0]['mark']
        reference = {one['seed']: entry for one in found.get(REFERENCE, []) for entry in one['evaluations']
                     if entry['mark'] == mark}
        difference, p = '', ''
        both = [one for one in seeds if one['seed'] in reference]
        if row.name != REFERENCE and both:
            a = ''.join(one['evaluations'][-1]['gym'] for one in both)
            b = ''.join(reference[one['seed']]['gym'] for one in both)
            result = paired(_array(a), _array(b))
            difference = f'{100 * result.difference:+.1f} ({100 * result.low:+.1f} to {100 * result.high:+.1f})'
            p = f'{result.p_value:.2g}'
        start = _rate([seeds[0]['evaluations'][0]], 'gym')
        lines.append(f'| {row.title} | {mark / 1e6:g} M | {len(seeds)} | {start} | {_rate(last, "gym")} '
                     f'| {_rate(last, "strict")} | {difference} | {p} |')
    return [*lines, '']


def shown(group: str, found: dict[str, list[dict]]) -> list[tuple[Row, list[dict]]]:
    """Return the rows of a group with their finished seeds, behind the default as it was at their budget."""
    rows = [row for row in ROWS if row.group == group]
    done = [(row, [one for one in found.get(row.name, []) if one['finished']]) for row in rows]
    done = [(row, seeds) for row, seeds in done if seeds]
    if not done:
        return []
    mark = rows[0].marks[-1]
    until = [one | {'evaluations': [entry for entry in one['evaluations'] if entry['mark'] <= mark]}
             for one in found.get(REFERENCE, []) if any(entry['mark'] == mark for entry in one['evaluations'])]
    return [(replace(row_named(REFERENCE), title='FPO, the default'), until), *done] if until else done


def _array(bits: str) -> np.ndarray:
    return np.frombuffer(bits.encode(), np.uint8) == ord('1')


_HEAD = """# Results

Made by `fpo-ros results page` from the JSON files in [results/](results); `make results` runs every row that is not
done there (resumable), and `fpo-ros results run ROW --seeds 0` one seed of one. Every number is of {episodes} held-out
scenes per seed from random start noise, unless said otherwise, with the 95 % Wilson interval of all seeds together.
"gym" is gym-aloha's rule, "strict" the stricter one ([learning.md](learning.md#success)), which is what is rewarded.
What was learned from them is in [algorithms.md](algorithms.md).

Seeds are of training: of its scenes, noise, minibatches and critic. They share one start policy, trained on
demonstrations with errors. Minutes are of the machine that ran them: two cores at most, often with something else
running beside.
"""


def write_page(directory: Path, out: Path, images: Path) -> None:
    """Write the page and the plots of what is there.

    :raises ResultsError: for a damaged file, or where there is no result.
    """
    from fpo_ros.results.plots import plot_bars, plot_curves

    found = load_results(directory)
    if not found:
        raise ResultsError(f'{directory} holds no result: run one with fpo-ros results run')
    dates = sorted(one['date'] for seeds in found.values() for one in seeds)
    text = [_HEAD.format(episodes=max(row.episodes for row in ROWS)), f'Begun from {dates[0]} to {dates[-1]}.', '']
    images.mkdir(parents=True, exist_ok=True)
    for group in GROUPS:
        body = []
        if group == 'main':
            for row in ROWS:
                if row.group == group and row.name in found:
                    plot_curves(row, found[row.name], images / f'results_{row.name}.svg')
                    body += [*main_table(row, found[row.name]), f'![{row.title}](images/results_{row.name}.svg)', '']
        else:
            body = compared_table(group, found)
            if body:
                plot_bars(shown(group, found), images / f'results_{group}.svg')
                body += [f'![{_TITLES[group]}](images/results_{group}.svg)', '']
        if body:
            text += [f'## {_TITLES[group]}', '', *body]
    replace_file(out, ('\n'.join(text).rstrip() + '\n').encode())
