"""``fpo-ros analyse``: what policies draw, in numbers and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fpo_ros.options import AsJson, MaxSteps, display_of

app = typer.Typer(no_args_is_help=True, help='Analyse what policies draw, in numbers and figures.')


@app.command()
def latents(policy: Annotated[list[str], typer.Option(metavar='NAME=DIR', help='A name and the directory of a policy; '
                                                      'once for each, the earliest first.')],
            episodes: Annotated[int, typer.Option(min=1, help='Held-out scenes for each policy.')] = 60,
            points: Annotated[int, typer.Option(min=2, help='The most points for each policy, one a decision.')] = 600,
            seed: Annotated[int, typer.Option(min=0, help='Which held-out scenes, the start noise, the choice of '
                                              'points, and t-SNE.')] = 0,
            reward: Annotated[str, typer.Option(help="Success by gym-aloha's rule (gym), or by the stricter one for "
                                                '0.2 s (strict).')] = 'strict',
            max_steps: MaxSteps = None,
            out: Annotated[Path, typer.Option(help='Directory of latents.json, stages.png and outcomes.png; made if '
                                              'missing.')] = Path('runs/latents'),
            as_json: AsJson = False) -> None:
    """How the chunks that policies draw spread.

    Compares policies with each other, and failed with successful episodes of the last one: docs/analysis.md. All
    policies run the same held-out scenes from random start noise; one embedding (PCA, t-SNE) is fitted on all
    chunks.
    """
    from fpo_ros.analysis.drawn import check_comparable, roll_out
    from fpo_ros.analysis.latents import analyse
    from fpo_ros.files import replace_file
    from fpo_ros.learning.rollout import cap_of, check_reward
    from fpo_ros.policy.checkpoint import FlowPolicy
    from fpo_ros.sim.scenes import Scenes, scene_seeds

    directories = _named(policy)
    policies = {name: FlowPolicy.load(directory) for name, directory in directories.items()}
    check_comparable(policies)
    check_reward(reward)
    scene_seeds(Scenes.EVALUATION, seed, episodes)
    out.mkdir(parents=True, exist_ok=True)
    display, drawn = display_of(as_json), []
    with display.bar('held-out episodes', len(policies) * episodes) as bar:
        for count, (name, loaded) in enumerate(policies.items()):
            drawn.append(roll_out(name, loaded, episodes, seed, reward, max_steps,
                                  lambda done, before=count * episodes: bar.update(before + done)))
    display.line('embedding')
    analysis = analyse(drawn, points, seed)
    found = {'task': next(iter(policies.values())).contract.task, 'reward': reward, 'max_steps': cap_of(max_steps),
             'episodes': episodes, 'seed': seed,
             'policies': {name: str(directory) for name, directory in directories.items()}, **analysis.to_dict()}
    from fpo_ros.analysis import plots  # only now: the figures need matplotlib

    plots.plot_stages(analysis, out / 'stages.png')
    plots.plot_outcomes(analysis, out / 'outcomes.png')
    replace_file(out / 'latents.json', (json.dumps(found, indent=2, allow_nan=False) + '\n').encode())
    for line in _summary(found):
        display.line(line)
    display.line(f'{out}: latents.json, stages.png, outcomes.png')
    if as_json:
        print(json.dumps(found, allow_nan=False), flush=True)


def _named(given: list[str]) -> dict[str, Path]:
    """Return the directories of policies by name.

    :raises LatentsError: for what is no NAME=DIR, or a name given twice.
    """
    from fpo_ros.analysis.drawn import LatentsError

    directories: dict[str, Path] = {}
    for words in given:
        name, equals, directory = words.partition('=')
        name = name.strip()
        if not (equals and name and directory):
            raise LatentsError(f'--policy {words} is no NAME=DIR: give a name and a directory, such as '
                               '--policy early=runs/demo/sft')
        if name in directories:
            raise LatentsError(f'--policy {name}=... is given twice: give every policy a name of its own')
        directories[name] = Path(directory)
    return directories


#: What the summary says of a policy and of a group: words and key.
_STAGE = (('standard deviation', 'mean_std'), ('dispersion', 'dispersion'), ('of a phase', 'dispersion_of_phase'),
          ('t-SNE standard deviation', 'mean_std_tsne'), ('t-SNE dispersion', 'dispersion_tsne'),
          ('t-SNE hull area', 'hull_area_tsne'))
_OUTCOME = (('norm', 'mean_norm'), ('silhouette', 'silhouette'), ('Mahalanobis distance', 'mahalanobis_to_success'),
            ('variance', 'within_cluster_variance'), ('difference within a chunk', 'difference_within_chunk'),
            ('at the seam', 'difference_at_the_seam'), ('between chunks', 'difference_between_chunks'))


def _summary(found: dict[str, Any]) -> list[str]:
    """Return the numbers in a line for each policy and each group."""
    shares = found['embedding']['pca_explained_variance']
    return [f'{found["points_per_policy"]} points of each policy with {found["dimensions"]} dimensions; '
            f'PC1 holds {shares[0]:.1%} of the variance, PC2 {shares[1]:.1%}',
            *(f'{stage["policy"]}: {stage["successes"]} of {stage["episodes"]} succeeded; {_shown(stage, _STAGE)}'
              for stage in found['stages']),
            *(f'{name}, {group["points"]} points of {group["policy"]}: {_shown(group, _OUTCOME)}'
              for name, group in found['outcomes']['groups'].items())]


def _shown(values: dict[str, Any], what: tuple[tuple[str, str], ...]) -> str:
    numbers = ((words, values[key]) for words, key in what)
    return ', '.join(f'{words} {"none" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"}'
                     for words, value in numbers)
