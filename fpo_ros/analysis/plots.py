"""Figures of an analysis, in colours that stay apart for every kind of colour vision (Okabe and Ito; viridis)."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use('agg')

import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)
from matplotlib.axes import Axes  # noqa: E402
from scipy.spatial import ConvexHull  # noqa: E402

from fpo_ros.analysis.latents import EARLY, FAILED, SUCCESSFUL, Analysis  # noqa: E402
from fpo_ros.policy.contract import ARM_JOINTS, JOINT_NAMES  # noqa: E402

#: Colour and marker of each group; the markers tell them apart without colours.
_LOOKS = {EARLY: ('#0072B2', 'o'), FAILED: ('#D55E00', 'X'), SUCCESSFUL: ('#009E73', '^')}
_GREY, _DARK = '#c8ccd2', '#555555'
#: Panels of policies in a row, and the longest name in a label.
_COLUMNS, _NAME = 4, 18
_DPI = 130


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f'{name[:_NAME - 1]}…'


def _number(value: float | None) -> str:
    """Return three digits, whole numbers from 100 on."""
    return 'none' if value is None else f'{value:,.0f}' if value >= 100 else f'{value:#.3g}'


def plot_stages(analysis: Analysis, path: Path) -> None:
    """Draw the t-SNE plane once per policy, its points over those of all, and how the spread goes from one to the next.

    :param path: PNG that is written.
    """
    count = len(analysis.names)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    colours = plt.get_cmap('viridis')(np.linspace(0.05, 0.8, count))
    heights = [4.5 * rows, 3.3] if count > 1 else [5]  # one policy alone has nothing to be compared with
    figure = plt.figure(figsize=(max(10.5, 3.3 * columns), sum(heights)), layout='constrained')
    planes, *trends = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).ravel()
    panels = planes.subplots(rows, columns, squeeze=False).ravel()
    for number, axes in enumerate(panels):
        if number < count:
            _stage(axes, analysis, number, colours[number])
        else:
            axes.set_axis_off()
    planes.suptitle(f'Drawn chunks in one t-SNE plane, {len(analysis.chunks) // count} of each policy with their '
                    'convex hull (grey: all policies)', fontsize=12)
    for part in trends:
        part.suptitle(f'Spread, relative to {_short(analysis.names[0])}', fontsize=12)
        _trends(part.subplots(1, 3), analysis, colours)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _stage(axes: Axes, analysis: Analysis, number: int, colour: np.ndarray) -> None:
    """Draw the points of one policy over all, and their hull."""
    stage, plane = analysis.stages[number], analysis.embedding.tsne
    own = plane[analysis.policy == number]
    axes.scatter(*plane.T, s=5, color=_GREY, linewidths=0)
    axes.scatter(*own.T, s=8, color=colour, linewidths=0, alpha=0.8)
    if stage['hull_area_tsne'] is not None:
        corners = ConvexHull(own).vertices
        axes.plot(*own[np.append(corners, corners[0])].T, color=colour, lw=1.2)
    axes.set_title(f'{_short(stage["policy"])}: {stage["successes"]} of {stage["episodes"]} succeeded', fontsize=10)
    axes.set_xlabel(f'mean std {_number(stage["mean_std"])} (plane {_number(stage["mean_std_tsne"])})\n'
                    f'dispersion {_number(stage["dispersion"])} (of a phase {_number(stage["dispersion_of_phase"])}, '
                    f'plane {_number(stage["dispersion_tsne"])})\n'
                    f'hull area in the plane {_number(stage["hull_area_tsne"])}', fontsize=9)
    middle, half = (plane.max(0) + plane.min(0)) / 2, 0.54 * np.ptp(plane, axis=0).max()
    axes.set(xticks=[], yticks=[], xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half),
             aspect='equal')


#: Panels of spread: title, and key, label, marker and line of each curve.
_TRENDS = (
    ('mean standard deviation', (('mean_std', 'whole space', 'o', '-'), ('mean_std_tsne', 't-SNE plane', 's', '--'))),
    ('overall dispersion', (('dispersion', 'whole space', 'o', '-'), ('dispersion_of_phase', 'of a phase', 'D', ':'),
                            ('dispersion_tsne', 't-SNE plane', 's', '--'))),
    ('area of the convex hull', (('hull_area_tsne', 't-SNE plane', 's', '--'),)),
)


def _trends(panels: np.ndarray, analysis: Analysis, colours: np.ndarray) -> None:
    """Draw measures of spread over the policies, each divided by that of the first one."""
    places = np.arange(len(analysis.names))
    for axes, (title, curves) in zip(panels, _TRENDS, strict=True):
        for key, label, marker, style in curves:
            values = np.array([np.nan if stage[key] is None else stage[key] for stage in analysis.stages])
            if not values[0] > 0:
                continue
            axes.plot(places, values / values[0], color=_DARK, ls=style, lw=1, zorder=1)
            axes.scatter(places, values / values[0], c=colours, marker=marker, s=36, zorder=2)
            axes.plot([], [], color=_DARK, ls=style, marker=marker, lw=1, label=label)
        axes.axhline(1, color=_GREY, lw=1, zorder=0)
        slanted = {'rotation': 30, 'ha': 'right', 'rotation_mode': 'anchor'} if len(places) > 3 else {}
        axes.set_xticks(places, [_short(name) for name in analysis.names], **slanted)
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, axis='y')
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        else:
            axes.set_yticks([])
            axes.text(0.5, 0.5, 'too few points', transform=axes.transAxes, ha='center', color=_DARK)


def plot_outcomes(analysis: Analysis, path: Path) -> None:
    """Draw the groups by how episodes ended: both planes, the norms of chunks, and the variance of each joint.

    :param path: PNG that is written.
    """
    figure, ((tsne, pca), (norms, variance)) = plt.subplots(2, 2, figsize=(11.5, 9), layout='constrained')
    shares = 100 * analysis.embedding.explained
    _plane(tsne, analysis, analysis.embedding.tsne)
    tsne.set(title='t-SNE', xlabel='t-SNE 1', ylabel='t-SNE 2')
    _plane(pca, analysis, analysis.embedding.pca)
    pca.set(title='PCA', xlabel=f'PC1 ({shares[0]:.1f} % of the variance)', ylabel=f'PC2 ({shares[1]:.1f} %)')
    _norms(norms, analysis)
    _variance(variance, analysis)
    last = analysis.outcomes['groups'][SUCCESSFUL]['policy']
    silhouette = analysis.outcomes['silhouette']
    found = '' if silhouette is None else f' (their silhouette {silhouette:.3f})'
    early = f'{_short(analysis.names[0])}, and of ' if EARLY in analysis.groups else ''
    figure.legend(*tsne.get_legend_handles_labels(), loc='outside upper center', ncols=3, fontsize=10, markerscale=1.6,
                  title=f'Drawn chunks of {early}failed and successful episodes of {_short(last)}{found}',
                  title_fontsize=12, frameon=False)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _label(analysis: Analysis, name: str) -> str:
    group = analysis.outcomes['groups'][name]
    what = f'{_short(group["policy"])}, all episodes' if name == EARLY else f'{_short(group["policy"])}, {name}'
    return f'{what} ({group["points"]} points)'


def _plane(axes: Axes, analysis: Analysis, plane: np.ndarray) -> None:
    for name, group in analysis.groups.items():
        colour, marker = _LOOKS[name]
        axes.scatter(*plane[group].T, s=16, color=colour, marker=marker, alpha=0.6, linewidths=0,
                     label=_label(analysis, name))
    axes.grid(alpha=0.3)


def _norms(axes: Axes, analysis: Analysis) -> None:
    """Draw a histogram per group, each of area 1, with a line at the mean."""
    edges = np.histogram_bin_edges(analysis.norms, 30)
    for name, group in analysis.groups.items():
        if not group.any():
            continue
        colour, _ = _LOOKS[name]
        mean = analysis.outcomes['groups'][name]['mean_norm']
        axes.hist(analysis.norms[group], edges, density=True, histtype='stepfilled', color=colour, alpha=0.25)
        axes.hist(analysis.norms[group], edges, density=True, histtype='step', color=colour, lw=1.4,
                  label=f'{name}, mean {mean:.2f}')
        axes.axvline(mean, color=colour, ls='--', lw=1.2)
    axes.set(title='norm of a chunk', xlabel='Euclidean norm [normalised actions]', ylabel='density')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def _variance(axes: Axes, analysis: Analysis) -> None:
    """Draw the variance of every joint, a line per group, left arm first."""
    places = np.arange(len(JOINT_NAMES))
    for name in analysis.groups:
        values = analysis.outcomes['groups'][name]['variance_per_dimension']
        if values is None:
            continue
        colour, marker = _LOOKS[name]
        axes.plot(places, list(values.values()), color=colour, marker=marker, ms=6, lw=1.2, label=name)
    axes.axvline(len(ARM_JOINTS) + 0.5, color=_DARK, lw=0.8)
    axes.set_xticks(places, [name.replace('_', ' ') for name in JOINT_NAMES], rotation=55, ha='right',
                    rotation_mode='anchor', fontsize=8)
    axes.set(title='variance of each action dimension, mean over steps', ylabel='variance [normalised²]',
             ylim=(0, None))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)
