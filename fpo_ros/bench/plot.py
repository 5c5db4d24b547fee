"""Plots of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('agg')

from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)
from matplotlib.figure import Figure  # noqa: E402

#: What axes are called in plots of latencies.
_LABELS = {'horizon': 'rows of a chunk', 'flow_steps': 'denoising steps', 'batch': 'observations at once'}


def plot_growth(rows: list[dict[str, float]], path: Path) -> None:
    """Draw control steps per second over worlds, a line per number of threads.

    :param rows: ``worlds``, ``threads`` and ``control_steps_per_s`` each.
    :param path: picture that is written; its directory is made.
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for threads in sorted({row['threads'] for row in rows}):
        line = sorted((row['worlds'], row['control_steps_per_s']) for row in rows if row['threads'] == threads)
        axes.plot(*zip(*line, strict=True), marker='o', label=f'{threads} thread{"s" if threads > 1 else ""}')
    axes.set(xscale='log', xlabel='worlds', ylabel='control steps per second', ylim=(0, None))
    counts = sorted({row['worlds'] for row in rows})
    axes.set_xticks(counts, [f'{count:,}' for count in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_iterations(rows: list[dict[str, float]], path: Path) -> None:
    """Draw the time of an iteration over its episodes, its parts on top of each other.

    :param rows: ``episodes``, ``rollout_s``, ``prefix_s`` and ``update_s`` each, by their episodes.
    :param path: picture that is written; its directory is made.
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    parts = ('rollout', 'prefix', 'update')
    episodes = [row['episodes'] for row in rows]
    axes.stackplot(episodes, [[row[f'{part}_s'] for row in rows] for part in parts], labels=parts, alpha=0.8)
    axes.set(xlabel='episodes per iteration', ylabel='time of an iteration [s]', ylim=(0, None))
    axes.set_xticks(episodes)
    axes.grid(alpha=0.3)
    axes.legend(loc='upper left')
    _save(figure, path)


def plot_latencies(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the time of a chunk over each of the axes.

    :param rows: ``axis``, ``value`` and ``p50_ms`` each.
    :param path: picture that is written; its directory is made.
    """
    axes_names = list(dict.fromkeys(row['axis'] for row in rows))
    figure, panels = plt.subplots(1, len(axes_names), figsize=(2.6 * len(axes_names), 3), sharey=True, squeeze=False)
    for panel, name in zip(panels[0], axes_names, strict=True):
        line = sorted((row['value'], row['p50_ms']) for row in rows if row['axis'] == name)
        panel.plot(*zip(*line, strict=True), marker='o')
        panel.set(xlabel=_LABELS.get(name, name), ylim=(0, None), xlim=(0, None), xticks=[value for value, _ in line])
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel('time of a chunk [ms]')
    _save(figure, path)


def plot_stages(rows: list[dict[str, float]], path: Path) -> None:
    """Draw the stages from observation to command of every chunk, the quickest first.

    :param rows: stage -> its duration [ms], the same stages in order in each.
    :param path: picture that is written; its directory is made.
    """
    figure, axes = plt.subplots(figsize=(7, 3.6))
    rows = sorted(rows, key=lambda row: sum(row.values()))
    share = [100 * (index + 0.5) / len(rows) for index in range(len(rows))]
    axes.stackplot(share, [[row[stage] for row in rows] for stage in rows[0]], labels=list(rows[0]), alpha=0.8)
    axes.set(xlabel='chunks, the quickest first [%]', ylabel='observation to command [ms]', xlim=(0, 100),
             ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc='upper left')
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches='tight', dpi=120)
    plt.close(figure)
