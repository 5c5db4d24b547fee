"""Figures of the report, each an SVG picture inside a data URI: it needs no file and shares no names with the page."""

from __future__ import annotations

import base64
import io

import matplotlib

matplotlib.use('svg')

from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)

_BLUE, _ORANGE, _GREY = '#2563eb', '#ea580c', '#94a3b8'


def _picture(figure: plt.Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='svg', bbox_inches='tight')
    plt.close(figure)
    return 'data:image/svg+xml;base64,' + base64.b64encode(buffer.getvalue()).decode()


def learning_curve(history: list[dict], sft: dict, fpo: dict) -> str:
    """Return training success over control steps, with both held-out results at its ends."""
    figure, axes = plt.subplots(figsize=(7, 3.4))
    steps = [entry['control_steps'] / 1e6 for entry in history]
    axes.plot(steps, [entry['success_rate'] for entry in history], color=_GREY, marker='.', lw=1,
              label='training episodes of one iteration')
    axes.plot(steps, [entry['smoothed_success'] for entry in history], color=_BLUE, lw=2,
              label='mean of three, by the rule that is rewarded')
    for place, result, colour, name in ((0.0, sft, _ORANGE, 'SFT, held out'), (steps[-1], fpo, _BLUE, 'FPO, held out')):
        rate = result['success_rate']
        axes.errorbar([place], [rate], [[rate - result['wilson_low']], [result['wilson_high'] - rate]],
                      fmt='o', color=colour, capsize=5, label=f'{name} (95 % Wilson)')
    axes.set(xlabel='control steps [million]', ylabel='success rate', ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc='best')
    return _picture(figure)


def comparison(sft: dict, fpo: dict) -> str:
    """Return held-out success before and after, with Wilson intervals, for random and zero start noise."""
    figure, axes = plt.subplots(figsize=(4.2, 3.4))
    for offset, colour, label, pick in ((-0.17, _BLUE, 'random start noise', lambda r: r),
                                        (0.17, _GREY, 'zero start noise', lambda r: r['zero_sampling'])):
        for column, result in enumerate((pick(sft), pick(fpo))):
            rate = result['success_rate']
            axes.bar(column + offset, rate, 0.32, color=colour, label=label if column == 0 else None)
            axes.errorbar(column + offset, rate, [[rate - result['wilson_low']], [result['wilson_high'] - rate]],
                          color='black', capsize=4)
    axes.set(xticks=[0, 1], xticklabels=['SFT', 'FPO'], ylabel='success rate', ylim=(0, 1.02))
    axes.legend(fontsize=8)
    return _picture(figure)
