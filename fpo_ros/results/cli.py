"""``fpo-ros results``: the tables and plots of docs/results.md, run anew or made from what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fpo_ros.options import display_of

app = typer.Typer(no_args_is_help=True, help='Reproduce the results of docs/results.md: run rows, make the page.')

Work = Annotated[Path, typer.Option('--dir', help='Where demonstrations, start policies and runs are kept.')]
Results = Annotated[Path, typer.Option(help='Where the JSON of each seed is.')]
_WORK, _RESULTS = Path('runs/results'), Path('docs/results')


@app.command('list')
def list_(results: Results = _RESULTS) -> None:
    """List the rows, and which of their seeds are done."""
    from fpo_ros.results.report import load_results
    from fpo_ros.results.rows import ROWS

    found = load_results(results)
    for row in ROWS:
        done = [str(one['seed']) for one in found.get(row.name, []) if one['finished']]
        typer.echo(f'{row.name:20} {row.group:10} {row.control_steps / 1e6:>4g} M  seeds done: '
                   f'{", ".join(done) or "none"} of {len(row.seeds)}  {row.title}')


@app.command('run')
def run(context: typer.Context,
        rows: Annotated[list[str] | None, typer.Argument(help='Names of rows; all of them if none is given.')] = None,
        seeds: Annotated[str | None, typer.Option(help='Seeds, comma-separated.', show_default="the rows' own")] = None,
        threads: Annotated[int | None, typer.Option(min=1, help='Threads of physics and network, of each '
                                                    'process.', show_default='all cores')] = None,
        jobs: Annotated[int, typer.Option(min=1, help='Seeds at once, each in a process of its own: faster than as '
                                          'many threads. They share the cores.')] = 1,
        work: Work = _WORK, results: Results = _RESULTS) -> None:
    """Run rows, from where they were left; what is done already is not done again.

    Under torchrun, several processes train one seed after the other; process 0 evaluates.
    """
    import torch

    from fpo_ros.learning.parallel import Group
    from fpo_ros.results.rates import rate
    from fpo_ros.results.rows import ROWS, row_named
    from fpo_ros.results.running import end_help, help_to_train, run_seed

    group = context.with_resource(Group.from_environment())
    if group.size > 1 and jobs > 1:
        raise typer.BadParameter('torchrun starts several processes for one seed, --jobs for several: leave one of '
                                 'them out', param_hint='--jobs')
    if group.rank:
        help_to_train(group, threads)
        return
    chosen = [row_named(name) for name in rows] if rows else list(ROWS)
    wanted = None if seeds is None else _numbers(seeds)
    if threads is not None:
        torch.set_num_threads(threads)
    display = display_of(False)
    if jobs > 1:
        _side_by_side([(row, seed) for row in chosen for seed in wanted or row.seeds], jobs, threads, work,
                      results, display)
        return
    for row in chosen:
        for seed in wanted or row.seeds:
            result = run_seed(row, seed, work, results, display, threads, group)
            last = result['evaluations'][-1]
            display.line(f'{row.name}, seed {seed}: {rate(last, "gym")[0]:.1%}, '
                         f'{rate(last, "strict")[0]:.1%} by the strict rule, after '
                         f'{last["control_steps"]:,} control steps and {result["minutes"]:.0f} min')
    end_help(group)


def _side_by_side(tasks: list[tuple[Any, int]], jobs: int, threads: int | None, work: Path, results: Path,
                  display: Any) -> None:
    import os

    from fpo_ros.results.jobs import Jobs
    from fpo_ros.results.report import load_results
    from fpo_ros.results.running import prepare, run_seed

    done = {(row, one['seed']) for row, found in load_results(results).items() for one in found if one['finished']}
    for row, seed in tasks:
        if (row.name, seed) in done:
            run_seed(row, seed, work, results, display)  # sees whether it is stale, and does nothing
    left = [(row, seed) for row, seed in tasks if (row.name, seed) not in done]
    for row in {row.name: row for row, _ in left}.values():
        prepare(row, work, display, threads)
    Jobs(jobs, threads or max(1, len(os.sched_getaffinity(0)) // jobs), work, results, display).run(left)


def _numbers(seeds: str) -> list[int]:
    try:
        found = [int(seed) for seed in seeds.split(',')]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise typer.BadParameter(f"'{seeds}' are no seeds: give whole numbers from 0, comma-separated, such as 0,1",
                                 param_hint='--seeds')
    return found


@app.command('starts')
def starts(rows: Annotated[list[str], typer.Argument(help='Names of rows whose starts are made.')],
           work: Work = _WORK) -> None:
    """Make start policies from demonstrations, also where the package has the one that results began with.

    What is there in --dir already stays; results that began with another policy are not gone on with from these.
    """
    from fpo_ros.results.rows import row_named
    from fpo_ros.results.running import start_policy

    display = display_of(False)
    for row in [row_named(name) for name in rows]:
        policy = start_policy(row.start, work, display, packaged=False)
        display.line(f'{work / "starts" / row.start.name / "policy"}: {policy.digest()[:12]}')


@app.command('page')
def page(results: Results = _RESULTS,
         out: Annotated[Path, typer.Option(help='The page.')] = Path('docs/results.md'),
         images: Annotated[Path, typer.Option(help='Where its plots go.')] = Path('docs/images')) -> None:
    """Make the page and its plots from the JSON of all seeds."""
    from fpo_ros.results.report import write_page

    write_page(results, out, images)
    display_of(False).line(f'{out} is written')
