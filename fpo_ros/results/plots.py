"""Plots of the results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from fpo_ros.results.rates import bits, mean_over_seeds, rate
from fpo_ros.results.rows import Row

matplotlib.use('agg')

from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)

_COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9')  # Okabe and Ito


def plot_curves(row: Row, seeds: list[dict], path: Path) -> None:
    """Draw success in training and on held-out scenes against control steps, a colour per seed."""
    def draw(axes: Any) -> None:
        for index, one in enumerate(seeds):
            colour = _COLOURS[index % len(_COLOURS)]
            steps = np.array([entry['control_steps'] for entry in one['curve']]) / 1e6
            trained = np.array([entry['rewarded_rate'] for entry in one['curve']]) * 100
            axes.plot(steps, trained, color=colour, alpha=0.25, linewidth=1)
            at = [entry['control_steps'] / 1e6 for entry in one['evaluations']]
            for rule, style in (('gym', 'o-'), ('strict', 's--')):
                held = [100 * rate(entry, rule)[0] for entry in one['evaluations']]
                axes.plot(at, held, style, color=colour, markersize=4, label=f'seed {one["seed"]}, held out, {rule}')
        axes.set(xlabel='control steps [million]', ylabel='success [%]', ylim=(0, 101), xlim=(0, None), title=row.title)
        axes.legend(fontsize=7, loc='lower right', title='thin: rewarded training episodes', title_fontsize=7)
    _svg(path, draw)


def plot_bars(done: list[tuple[Row, list[dict]]], path: Path) -> None:
    """Draw final success by either rule with its interval, a bar per row and rule.

    :param done: rows and their seeds.
    """
    def draw(axes: Any) -> None:
        for offset, rule in ((-0.2, 'gym'), (0.2, 'strict')):
            for place, (_, seeds) in enumerate(done):
                mean, low, high = mean_over_seeds(bits([one['evaluations'][-1] for one in seeds], rule))
                axes.barh(place + offset, 100 * mean, 0.38, color=_COLOURS[0 if rule == 'gym' else 1],
                          xerr=[[100 * max(0.0, mean - low)], [100 * max(0.0, high - mean)]],
                          label=rule if not place else None)
        axes.set_yticks(range(len(done)), [row.title for row, _ in done])
        axes.invert_yaxis()
        axes.set(xlabel='success on held-out scenes [%]', xlim=(0, 100))
        axes.legend(fontsize=8, loc='lower right')
    _svg(path, draw, 1.2 + 0.4 * len(done))


def _svg(path: Path, draw: Callable[[Any], None], height: float = 3.8) -> None:
    """Write one figure, the same bytes for the same numbers."""
    with plt.rc_context({'svg.hashsalt': 'fpo_ros'}):
        figure, axes = plt.subplots(figsize=(7, height))
        draw(axes)
        axes.grid(alpha=0.3)
        figure.savefig(path, bbox_inches='tight', metadata={'Date': None})
        plt.close(figure)
