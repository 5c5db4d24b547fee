"""Named warnings of what tends to precede a failed run, each with what to do.

Thresholds: DPPO (arXiv 2409.00588) for the share of clipped ratios, FPO++ (arXiv 2602.02481) and measurements in
docs/algorithms.md for the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fpo_ros.learning.config import FPOConfig


@dataclass(frozen=True)
class Alarm:
    """A warning.

    :param name: stable, for logs and for looking it up in docs/algorithms.md.
    :param text: what was seen, and what to do.
    """

    name: str
    text: str


#: Names in the order in which they are looked for.
NAMES = ('stopped_by_drift', 'steps_too_large', 'steps_too_small', 'ratio_explodes', 'pushed_apart', 'chunks_collapse',
         'values_blind', 'success_falls', 'region_lost', 'physics_diverges', 'settled')
#: Share of the learning rate below which a policy stands still.
SETTLED = 0.01


def has_settled(entry: dict, config: FPOConfig) -> bool:
    """Return whether hardly anything was learned in an iteration, by its metrics: the rate has fallen so far."""
    return entry['learning_rate'] < SETTLED * _whole(entry, config)


def _whole(entry: dict, config: FPOConfig) -> float:
    """Return the learning rate that an iteration would have had at the start of its kind."""
    return config.narrow_learning_rate if entry.get('narrowed') else config.learning_rate


def alarms(history: list[dict], config: FPOConfig) -> list[Alarm]:
    """Return the alarms of the newest iteration, in the order of :data:`NAMES`.

    :param history: metrics of all iterations, the newest last.
    """
    now, first, rate = history[-1], history[0], _whole(history[-1], config)
    found: list[Alarm] = []

    def check(name: str, where: bool, text: str) -> None:
        if where:
            found.append(Alarm(name, text))

    taken = now.get('steps_taken', 1.0)
    check('stopped_by_drift', taken < 1, f'ratios drifted beyond drift_stop ({config.drift_stop}) after {taken:.0%} of '
          f'the planned steps, and the others were left out: lower the learning rate ({rate:g}) by a third, or take '
          f'fewer epochs ({config.epochs})')
    clipped = now.get('clip_fraction')
    if clipped is not None:
        check('steps_too_large', clipped > 0.3, f'{clipped:.0%} of the ratios are outside the trust region: lower the '
              f'learning rate ({rate:g}), or take fewer epochs ({config.epochs})')
        # A rate that has settled is meant to take small steps.
        small = (clipped < 0.004 and taken == 1 and now['learning_rate'] >= rate
                 and config.objective.trust_region != 'none')
        check('steps_too_small', small, f'{clipped:.1%} of the ratios reach the trust region: raise the '
              f'learning rate ({rate:g})')
        largest = config.objective.log_ratio_clip
        check('ratio_explodes', now['ratio_max'] >= math.exp(largest) * 0.999 and clipped > 0.2,
              f'ratios reach their clamp of exp({largest:g}): lower kappa or set loss_clip')
    bad = [entry.get('loss_change_bad', 0.0) for entry in history[-3:]]
    # Negative log densities, which take the place of flow losses in a chain, are no scale for their own changes.
    check('pushed_apart', len(bad) == 3 and min(bad) > 0.25 * now.get('flow_loss', 0.0) > 0, 'the loss of bad '
          'decisions has risen by more than a quarter in three iterations running: pushing away dominates, raise '
          'bc_coefficient or lower the learning rate')
    spread, start = now.get('chunk_spread'), first.get('chunk_spread')
    if spread is not None and start and not now.get('narrowed'):
        check('chunks_collapse', spread < 0.3 * start, f'chunks of one observation differ by {spread / start:.0%} of '
              'what they did at the start: nothing new is tried any more; raise perturbation or lower bc_coefficient')
    explained = [entry['explained_variance'] for entry in history[-3:]]
    check('values_blind', now['iteration'] > config.warmup + 2 and max(explained) < 0.2, 'the critic explains '
          f'{max(explained):.0%} of the returns at best: advantages are noise; train it for more steps or iterations '
          '(critic steps, history, warmup)')
    # The first iteration is drawn from other noise than those behind it.
    begun = history[min(1, len(history) - 1)]['rewarded_rate']
    recent = [entry['rewarded_rate'] for entry in history[-3:]]
    check('success_falls', len(history) > 4 and max(recent) < begun - 0.1, f'success has been more than 10 points '
          f'below that of the second iteration ({begun:.0%}) for three iterations: begin again with half the learning '
          'rate')
    worst = now.get('worst_region')
    check('region_lost', worst is not None and now['smoothed_success'] > 0.5 and worst < 0.2,
          f'one region of start positions succeeds in {worst or 0:.0%}: its advantages vanish once every episode '
          'fails; go back to an earlier checkpoint with a larger perturbation')
    check('physics_diverges', now['diverged'] > 0.05 * config.episodes, f'physics diverged in {now["diverged"]} of '
          f'{config.episodes} episodes: the policy commands what no arm can do; begin again with half the learning '
          'rate')
    check('settled', has_settled(now, config), f'the learning rate is {now["learning_rate"] / rate if rate else 0:.1%} '
          'of what it was: hardly anything is learned any more; end the run, as --until-settled does, and take its '
          'best policy, or begin another run from that')
    return found
