"""docs/results.md and its plots, from the JSON of all seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fpo_ros.files import replace_file
from fpo_ros.learning.alarms import SETTLED
from fpo_ros.learning.compare import paired
from fpo_ros.results.rates import bits, difference, mean_over_seeds, rate
from fpo_ros.results.rows import AGAIN, GROUPS, REFERENCE, ROWS, ZERO_REFERENCE, Row, row_named
from fpo_ros.results.stale import check_result

_TITLES = {
    'main': 'Main results', 'relatives': 'FPO and its relatives', 'ablations': 'What each part does',
    'stability': 'What keeps success where it is', 'pairs': 'Pairs per decision',
    'executed': 'Executed steps of a chunk',
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


def _interval(found: tuple[float, float, float], sign: str = '') -> str:
    mean, low, high = found
    return f'{100 * mean:{sign}.1f} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})'


def _mean(evaluations: list[dict], rule: str) -> str:
    """Return the mean over seeds of several evaluations with its interval."""
    return _interval(mean_over_seeds(bits(evaluations, rule))) + (', one seed' if len(evaluations) == 1 else '')


def _drop(one: dict) -> float:
    """Return how many points the last evaluation lies below the best one, by gym-aloha's rule."""
    rates = [rate(entry, 'gym')[0] for entry in one['evaluations'] if entry['mark']]
    return 100 * (max(rates) - rates[-1])


def _settled_from(one: dict) -> int | None:
    """Return the control steps from which the learning rate of a seed had settled for good; None for never.

    Curves that are older hold no rate.
    """
    settings, moved = one['settings'], 0
    if 'learning_rate' not in one['curve'][-1]:
        return None
    for index, entry in enumerate(one['curve']):
        whole = settings['narrow_learning_rate' if entry.get('narrowed') else 'learning_rate']
        if entry['learning_rate'] >= SETTLED * whole:
            moved = index + 1
    return one['curve'][moved]['control_steps'] if moved < len(one['curve']) else None


def _narrowed_from(one: dict) -> int | None:
    """Return after how many control steps the narrowing of a run began; None where it did not."""
    # The first iteration of it rolls out the policy that is to be narrowed.
    first = next((index for index, entry in enumerate(one['curve']) if entry.get('narrowed')), None)
    return None if first is None else one['curve'][first - 2]['control_steps']


def _by_seed(seeds: list[dict], value: Callable[[dict], str]) -> str:
    return ', '.join(f'{value(one)} (seed {one["seed"]})' for one in seeds)


def main_table(row: Row, seeds: list[dict]) -> list[str]:
    """Return the table of a main row: a line per mark, a column per seed, and their mean."""
    heads = ' | '.join(f'seed {one["seed"]}' for one in seeds)
    lines = [f'### {row.title}', '', f'| control steps | {heads} | mean, gym | mean, strict |',
             '|---|' + '---|' * (len(seeds) + 2)]

    def add(name: str, entries: list[dict | None]) -> None:
        there = [entry for entry in entries if entry is not None]
        each = ['' if entry is None else f'{_interval(rate(entry, "gym"))}; strict {_interval(rate(entry, "strict"))}'
                for entry in entries]
        if there:
            lines.append(f'| {name} | {" | ".join(each)} | {_mean(there, "gym")} | {_mean(there, "strict")} |')

    for mark in (0, *row.marks):
        add(f'{mark / 1e6:g} M', [next((entry for entry in one['evaluations'] if entry['mark'] == mark), None)
                                  for one in seeds])
    add('the end, from zero start noise', [one.get('zero') for one in seeds])
    add('`best`', [one.get('best') for one in seeds])
    finished = [one for one in seeds if one['finished']]
    if finished:
        drops = _by_seed(finished, lambda one: f'{_drop(one):.1f}')
        lines += ['', f'The end lies below the best evaluation by {drops} points.']
    dates, minutes = _by_seed(seeds, lambda one: one['date']), _by_seed(seeds, _time)
    lines += ['', f'Begun {dates}. Training took {minutes}.']
    settled = [(one, steps) for one in seeds if one['curve'] and (steps := _settled_from(one)) is not None]
    if settled:
        where = ', '.join(f'{steps / 1e6:.1f} M control steps (seed {one["seed"]})' for one, steps in settled)
        lines += ['', f'The learning rate was below {SETTLED:.0%} of its start from {where} on: what follows are '
                  'evaluations of a policy that stands nearly still, and say nothing of further learning.']
    narrowed = [(one, steps) for one in seeds if (steps := _narrowed_from(one)) is not None]
    if narrowed:
        where = ', '.join(f'{steps / 1e6:.2f} M (seed {one["seed"]})' for one, steps in narrowed)
        lines += ['', 'Success from little noise no longer grew, and [narrowing](algorithms.md#narrowing) began, at '
                  f'{where} control steps.']
    alarms = _by_seed(seeds, lambda one: ', '.join(one.get('alarms', [])) or 'none')
    restored = _by_seed(seeds, lambda one: str(one.get('restored', 0)))
    lines += ['', f'Alarms: {alarms}. Times that the best policy was restored: {restored}.']
    for one in seeds:
        if 'remark' in one:
            lines += ['', f'Seed {one["seed"]}: {one["remark"]}.']
    return [*lines, '']


def compared_table(group: str, found: dict[str, list[dict]]) -> list[str]:
    """Return the table of a group whose rows are compared with the default, each at its own budget and noise."""
    rows = shown(group, found)
    if not rows:
        return []
    # Of what is to keep success where it is, how far it has fallen since its best evaluation, too.
    fallen = group == 'stability'
    lines = ['| setting | control steps | start, gym | by seed, gym | mean, gym | mean, strict '
             '| less than the default, gym (McNemar p by seed) ' + '| below its best, by seed ' * fallen
             + '| minutes | begun |', '|---' * (9 + fallen) + '|']
    for row, seeds in rows:
        last = [one['evaluations'][-1] for one in seeds]
        mark = last[0]['mark']
        less = _less_than_the_default(row, seeds, mark, found)
        start = _interval(rate(seeds[0]['evaluations'][0], 'gym'))
        each = ', '.join(f'{one["seed"]}: {_interval(rate(one["evaluations"][-1], "gym"))}' for one in seeds)
        minutes = ', '.join(f'{one["minutes"]:.0f}' for one in seeds) if mark == row.control_steps else ''
        dates = ' to '.join(sorted({one['date'] for one in seeds})[::max(1, len({one['date'] for one in seeds}) - 1)])
        drops = ', '.join(f'{one["seed"]}: {_drop(one):.1f}' for one in seeds)
        lines.append(f'| {row.title} | {mark / 1e6:g} M | {start} | {each} | {_mean(last, "gym")} '
                     f'| {_mean(last, "strict")} | {less} ' + f'| {drops} ' * fallen
                     + f'| {minutes} | {dates} |')
    both = [[one['evaluations'][-1] for one in seeds] for row, seeds in rows if row.name in (REFERENCE, AGAIN)]
    if len(both) == 2:
        all_runs = [*both[0], *both[1]]
        lines += ['', f'Of all {len(all_runs)} runs of the default together: {_mean(all_runs, "gym")} by gym-aloha\'s '
                  f'rule, {_mean(all_runs, "strict")} by the strict one. Other rows from random start noise are '
                  'compared with all of them; the second runs are with the first, and so are p values.']
    return [*lines, '']


def _less_than_the_default(row: Row, seeds: list[dict], mark: int, found: dict[str, list[dict]]) -> str:
    """Return how much less often a row succeeds than all runs of the default at its mark, and p for each seed.

    The second runs of the default are compared with the first ones.
    """
    def at_mark(name: str) -> dict[int, dict]:
        return {one['seed']: entry for one in found.get(name, []) for entry in one['evaluations']
                if entry['mark'] == mark and (one['finished'] or name != AGAIN)}

    name = ZERO_REFERENCE if row.sampling == 'zero' else REFERENCE
    reference = at_mark(name)
    if row.name == name or not reference:
        return ''
    more = {} if row.name == AGAIN or name != REFERENCE else at_mark(AGAIN)
    ours = {one['seed']: bits([one['evaluations'][-1]], 'gym')[0] for one in seeds}
    theirs = bits([*reference.values(), *more.values()], 'gym')
    tests = ', '.join(f'{seed}: {paired(bits([reference[seed]], "gym")[0], won).p_value:.2g}'
                      for seed, won in ours.items() if seed in reference)
    return _interval(difference(theirs, np.stack([*ours.values()])), '+') + (f'; p {tests}' if tests else '')


def shown(group: str, found: dict[str, list[dict]]) -> list[tuple[Row, list[dict]]]:
    """Return the rows of a group with their finished seeds, behind the default as it was at their budget."""
    rows = [row for row in ROWS if row.group == group]
    done = [(row, [one for one in found.get(row.name, []) if one['finished']]) for row in rows]
    done = [(row, seeds) for row, seeds in done if seeds]
    if not done:
        return []
    mark = rows[0].marks[-1]
    until = _until(mark, found.get(REFERENCE, []))
    if not until:
        return done
    second = [one for one in found.get(AGAIN, []) if one['finished']]
    again = [] if any(row.name == AGAIN for row in rows) else _until(mark, second)
    return [(replace(row_named(REFERENCE), title='FPO, the default'), until),
            *([(row_named(AGAIN), again)] if again else []), *done]


def _until(mark: int, seeds: list[dict]) -> list[dict]:
    """Return those seeds that were evaluated at a mark, as they were there."""
    return [one | {'evaluations': [entry for entry in one['evaluations'] if entry['mark'] <= mark]}
            for one in seeds if any(entry['mark'] == mark for entry in one['evaluations'])]


_HEAD = """# Results

Made by `fpo-ros results page` from the JSON files in [results/](results); `make results` runs every row that is not
done there (resumable), and `fpo-ros results run ROW --seeds 0` one seed of one. Every number is of {episodes} held-out
scenes per seed, the same for all, from random start noise unless said otherwise, in percent. "gym" is gym-aloha's rule,
"strict" the stricter one ([learning.md](learning.md#success)), which is what is rewarded.

Behind the success of one seed stands its 95 % Wilson interval: what other scenes would have changed. Behind a mean
over seeds, or a difference of two, stands a 95 % bootstrap interval for which seeds and scenes are both drawn anew
(Owen 2007, "The pigeonhole bootstrap", Ann. Appl. Stat. 1): what other trainings would have changed, too, as far as
two or three of them tell; where all succeed it is a point. Of one run it says what other scenes would. Rows are
compared with the default in the same scenes: by the means of all runs of either, and seed by seed by McNemar's exact
test. That test tells two policies apart, not two settings: a second run of the default with the same seed, where
numbers round otherwise, ends elsewhere, and may be "significantly" better or worse. What was learned from all of them
is in [algorithms.md](algorithms.md).

Seeds are of training: of its scenes, noise, minibatches and critic. They share one start policy, trained on
demonstrations with errors. Minutes are of training alone, on the machine that ran them: two cores at most, often with
something else running beside, or stopped meanwhile. `best` is what a run keeps and ships: the policy of its best
training success, which is judged from the noise of training ([algorithms.md](algorithms.md#what-is-kept)).
"""


def write_page(directory: Path, out: Path, images: Path) -> None:
    """Write the page and the plots of what is there.

    :raises ResultsError: for a damaged file, or where there is no result.
    :raises StaleError: for a result of other settings than those of its row.
    """
    from fpo_ros.results.plots import plot_bars, plot_curves

    found = load_results(directory)
    if not found:
        raise ResultsError(f'{directory} holds no result: run one with fpo-ros results run')
    for name, seeds in found.items():
        for one in seeds:
            check_result(one, row_named(name), None, directory / f'{name}-{one["seed"]}.json')
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


def _time(one: dict) -> str:
    processes = one.get('processes', 1)
    return f'{one["minutes"]:.0f} min' + (f' in {processes} processes' if processes > 1 else '')
