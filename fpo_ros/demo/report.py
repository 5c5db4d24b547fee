"""Stage 8 of the demo: one self-contained page."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2

from fpo_ros.demo.config import DemoConfig
from fpo_ros.demo.plots import comparison, learning_curve
from fpo_ros.demo.video import encode, episode_frames
from fpo_ros.episodes.store import EpisodeStore


def chosen_pair(runs: list[dict]) -> tuple[dict, ...]:
    """Return an episode before and one after the swap of one scene, at best one that only the second solved.

    Without a swap there is one episode alone.
    """
    by_seed: dict[int, list[dict]] = {}
    for run in runs:
        by_seed.setdefault(run['seed'], []).append(run)
    pairs = [(entries[0], entries[-1]) for entries in by_seed.values() if len(entries) > 1]
    if not pairs:
        return (max(runs, key=lambda run: run['success']),)
    return max(pairs, key=lambda pair: (pair[1]['success'] - pair[0]['success'], pair[1]['success']))


def write_report(path: Path, config: DemoConfig, work: Path, results: dict, quick: bool) -> None:
    """Write the page.

    :param results: what the stages returned, by stage, with ``stages`` and ``wall_s``.
    """
    store = EpisodeStore.open(work / 'episodes')
    films = []
    for run, name in zip(chosen_pair(results['graph']['runs']), ('Before: SFT', 'After: FPO'), strict=False):
        frames = episode_frames(store.read(run['episode_id']))
        outcome = 'success' if run['success'] else 'no success'
        films.append({'data': base64.b64encode(encode(frames)).decode(),
                      'caption': f"{name} ({run['policy_version']}), scene {run['seed']}, {outcome}; drawn from the "
                                 f"recorded episode {run['episode_id']} of the running graph."})
    template = jinja2.Environment(
        loader=jinja2.PackageLoader('fpo_ros.demo', '.'), autoescape=False,
        undefined=jinja2.StrictUndefined).get_template('report.html.j2')
    minutes, seconds = divmod(round(results['wall_s']), 60)
    path.write_text(template.render(
        contract=config.contract, quick=quick, wall=f'{minutes} min {seconds} s', sft=results['sft_evaluation'],
        fpo=results['fpo_evaluation'], graph=results['graph'], stages=results['stages'], films=films,
        onnx=results['release']['onnx_max_abs_difference'],
        curve=learning_curve(results['fpo']['history'], results['sft_evaluation'], results['fpo_evaluation']),
        bars=comparison(results['sft_evaluation'], results['fpo_evaluation'])), encoding='utf-8')
