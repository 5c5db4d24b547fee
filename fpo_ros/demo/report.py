"""Stage 8 of the demo: one self-contained page."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path

import jinja2

from fpo_ros.demo.config import DemoConfig
from fpo_ros.demo.deployment import HOLD_PERIODS
from fpo_ros.demo.directory import program
from fpo_ros.demo.numbers import verdict
from fpo_ros.demo.plots import comparison, learning_curve
from fpo_ros.demo.video import episode_frames
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.films import encode
from fpo_ros.sim.render import RenderError


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


def films_of(work: Path, runs: list[dict]) -> tuple[list[dict], str]:
    """Return the films with their captions, and why there are none."""
    store, films = EpisodeStore.open(work / 'episodes'), []
    for run, name in zip(chosen_pair(runs), ('Before: SFT', 'After: FPO'), strict=False):
        try:
            frames, fps = episode_frames(store.read(run['episode_id']))
        except RenderError as error:
            return [], str(error)
        outcome = 'success' if run['success'] else 'no success'
        films.append({'data': base64.b64encode(encode(frames, fps)).decode(),
                      'caption': f"{name} ({run['policy_version']}), scene {run['seed']}, {outcome}; "
                                 f"recorded episode {run['episode_id']} of the running graph, in real time."})
    return films, ''


def commands(work: Path, version: str) -> dict[str, str]:
    """Return what to type next: words → command line.

    :param version: the release that served last.
    """
    place = shlex.quote(str(work.resolve()))
    return {
        'start the graph with the release that served last':
            f'{program()} up sim --policy {place}/releases/{version} --trusted-keys {place}/keys/release.pub '
            f'--releases {place}/releases --record-dir {place}/episodes',
        'list the recorded episodes': f'{program()} episodes list {place}/episodes',
        'list the releases': f'{program()} releases list {place}/releases --trusted {place}/keys',
        'measure the policy again': f'{program()} eval --policy {place}/fpo/best',
    }


def write_report(path: Path, config: DemoConfig, work: Path, results: dict, found: dict, quick: bool,
                 no_films: str = '') -> None:
    """Write the page.

    :param results: what the stages returned, by stage.
    :param found: the numbers of the demo, see :mod:`fpo_ros.demo.numbers`.
    :param no_films: why nothing can be drawn; empty where it can.
    """
    films, problem = ([], no_films) if no_films else films_of(work, results['graph']['runs'])
    template = jinja2.Environment(
        loader=jinja2.PackageLoader('fpo_ros.demo', '.'), autoescape=True,
        undefined=jinja2.StrictUndefined).get_template('report.html.j2')
    minutes, seconds = divmod(round(found['wall_s']), 60)
    release, memory = results['release'], found['peak_memory_bytes']
    path.write_text(template.render(
        contract=config.contract, quick=quick, wall=f'{minutes} min {seconds} s', sft=results['sft_evaluation'],
        fpo=results['fpo_evaluation'], graph=results['graph'], each=config.graph_episodes, stages=found['stages'],
        films=films, no_film=problem, verdict=verdict(found), onnx=release['onnx_max_abs_difference'],
        memory='not measured, since the demo was resumed' if memory is None else f'{memory / 1e9:.1f} GB',
        cap=results['sft_evaluation']['max_steps'], more=HOLD_PERIODS, place=str(work.resolve()),
        commands=commands(work, release['fpo_version'] or release['sft_version']),
        curve=learning_curve(results['fpo']['history'], results['sft_evaluation'], results['fpo_evaluation']),
        bars=comparison(results['sft_evaluation'], results['fpo_evaluation'])), encoding='utf-8')
