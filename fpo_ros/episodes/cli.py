"""``fpo-ros episodes``: look into, check and repair an episode store."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from fpo_ros.episodes.checking import size_bytes
from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.meta import SOURCES, EpisodeMeta
from fpo_ros.episodes.store import EpisodeStore, Leftover

app = typer.Typer(no_args_is_help=True, help="""
Look into, check and repair an episode store.

A store is a directory of recorded episodes (zarr v3), one directory
each: ep_000001, ep_000002, and so on. Looking is safe while robots
record: an episode appears when it is complete, never before.""")

StorePath = Annotated[Path, typer.Argument(help='Directory of the store.', metavar='STORE')]
AsJson = Annotated[bool, typer.Option('--json', help='Print one JSON object instead of text.')]


@app.command('list')
def list_(store: StorePath,
          success: Annotated[bool | None, typer.Option(
              '--success/--failure', help='Only episodes that succeeded, or only those that failed.')] = None,
          source: Annotated[str | None, typer.Option(
              help=f'Only episodes recorded from one source: {", ".join(SOURCES)}.')] = None,
          as_json: AsJson = False) -> None:
    """List episodes, one line each, and count them.

    Example: fpo-ros episodes list runs/demo/episodes --failure
    """
    if source is not None and source not in SOURCES:
        raise typer.BadParameter(f'{source!r}: use one of {", ".join(SOURCES)}', param_hint='--source')

    def keep(meta: EpisodeMeta) -> bool:
        return (success is None or meta.success == success) and (source is None or meta.source == source)

    opened = EpisodeStore.open(store)
    found = [(episode.id, episode.meta) for episode in opened.iter(keep)]
    unfinished, note = _unfinished(opened)
    if as_json:
        _print_json({'store': str(store), 'unfinished': unfinished,
                     'episodes': [{'id': name, **meta.to_dict()} for name, meta in found]})
        return
    for name, meta in found:
        seed = '-' if meta.seed is None else meta.seed
        typer.echo(f'{name}  {meta.created}  {meta.task}  {meta.source:<7} {_outcome(meta):<8} '
                   f'{meta.steps:>5} steps  seed {seed}  {meta.policy_version or "-"}')
    done = sum(bool(meta.success) for _, meta in found)
    typer.echo(f'{len(found)} episodes, {done} succeeded, {sum(meta.steps for _, meta in found)} steps{note}')


@app.command()
def show(store: StorePath,
         episode_id: Annotated[str, typer.Argument(help='Such as ep_000001.', metavar='ID')],
         as_json: AsJson = False) -> None:
    """Show one episode: description, arrays with the range of their values, cameras.

    Example: fpo-ros episodes show runs/demo/episodes ep_000001
    """
    episode = EpisodeStore.open(store).read(episode_id)
    arrays = {name: _summary(value) for name, value in episode.arrays.items()}
    cameras = {}
    for camera in episode.cameras:
        frames = episode.frames(camera)
        cameras[camera] = {'frames': frames.shape[0], 'height': frames.shape[1], 'width': frames.shape[2]}
    data = {'id': episode.id, 'path': str(episode.path), 'bytes': size_bytes(episode.path),
            'meta': episode.meta.to_dict(), 'arrays': arrays, 'cameras': cameras}
    if as_json:
        _print_json(data)
        return
    typer.echo(f'{episode.id}  {data["path"]}  {data["bytes"] / 1e3:.1f} kB')
    for name, value in data['meta'].items():
        typer.echo(f'  {name}: {value if value not in (None, "") else "-"}')
    for name, entry in arrays.items():
        span = 'no finite value' if entry['min'] is None else f'{entry["min"]:g} to {entry["max"]:g}'
        typer.echo(f'  array {name} {tuple(entry["shape"])} {entry["dtype"]}, {span}')
    for name, entry in cameras.items():
        typer.echo(f'  camera {name}: {entry["frames"]} frames, '
                   f'{entry["width"]} x {entry["height"]} pixels')


@app.command()
def verify(store: StorePath,
           ids: Annotated[list[str] | None, typer.Argument(
               help='Episodes to check; all if none are named.', metavar='ID')] = None,
           as_json: AsJson = False) -> None:
    """Read every byte of episodes and report what is damaged; exit code 1 if anything is.

    Example: fpo-ros episodes verify runs/demo/episodes
    """
    opened = EpisodeStore.open(store)
    checked = {name: opened.verify(name) for name in ids or opened.ids()}
    damaged = {name: lines for name, lines in checked.items() if lines}
    if as_json:
        _print_json({'store': str(store), 'checked': len(checked), 'damaged': damaged})
    else:
        for name, lines in damaged.items():
            for line in lines:
                typer.echo(f'{name}: {line}')
        typer.echo(f'{len(checked)} episodes checked, {len(damaged)} damaged')
    if damaged:
        raise typer.Exit(1)


@app.command()
def salvage(store: StorePath,
            names: Annotated[list[str] | None, typer.Argument(
                help='Unfinished episodes; all if none are named.', metavar='NAME')] = None,
            dry_run: Annotated[bool, typer.Option('--dry-run', help='List them, change nothing.')] = False,
            discard: Annotated[bool, typer.Option(
                '--discard', help='Remove them instead of saving.')] = False,
            as_json: AsJson = False) -> None:
    """Save what killed recorders left, or remove it.

    A recorder that is killed leaves an unfinished episode that no reader
    sees. This command makes an ordinary episode of the steps that reached
    the disk; its description then says "salvaged". Episodes that are still
    being recorded are not touched.

    Example: fpo-ros episodes salvage runs/demo/episodes --dry-run
    """
    if dry_run and discard:
        raise typer.BadParameter('--dry-run and --discard exclude each other')
    opened = EpisodeStore.open(store)
    found = {leftover.name: leftover for leftover in opened.leftovers()}
    unknown = [name for name in names or [] if name not in found]
    if unknown:
        raise EpisodeStoreError(f'{store} has no unfinished episode {unknown[0]!r}: it has '
                                f'{", ".join(found) or "none"}')
    results = [_treat(opened, found[name], dry_run, discard) for name in names or found]
    if not dry_run:
        opened.tidy()
    failed = [entry for entry in results if entry['result'] in ('nothing to save', 'failed')]
    if as_json:
        _print_json({'store': str(store), 'unfinished': results})
    else:
        for entry in results:
            typer.echo(f'{entry["name"]}: {entry["text"]}')
        if not results:
            typer.echo('nothing unfinished')
    if failed and not dry_run:
        raise typer.Exit(1)


def _unfinished(store: EpisodeStore) -> tuple[int | None, str]:
    """Return how many episodes are unfinished, None if that cannot be told, and what to say of them."""
    try:
        count = len(store.leftovers())
    except EpisodeStoreError as error:
        return None, f'; {error}'
    command = shlex.join(['fpo-ros', 'episodes', 'salvage', str(store.path), '--dry-run'])
    return count, f'; {count} unfinished: "{command}" tells more' if count else ''


def _treat(store: EpisodeStore, leftover: Leftover, dry_run: bool, discard: bool) -> dict[str, Any]:
    """Save or remove one unfinished episode and say what was done."""
    entry: dict[str, Any] = {'name': leftover.name, 'steps': leftover.steps, 'episode': None}
    if leftover.alive:
        return entry | {'result': 'recording', 'text': 'is being recorded, left alone'}
    if dry_run:
        text = f'{leftover.steps} steps can be saved'
        if leftover.problem:
            text = f'nothing to save: {leftover.problem}'
        if leftover.doubt:
            text += f' (it cannot be told whether it is still being recorded: {leftover.doubt})'
        return entry | {'result': 'dry run', 'text': text}
    if leftover.problem and not discard:
        return entry | {'result': 'nothing to save',
                        'text': f'nothing to save: {leftover.problem}; remove it with --discard'}
    try:
        if discard:
            store.discard(leftover.name)
            return entry | {'result': 'discarded', 'text': 'removed'}
        episode_id = store.salvage(leftover.name)
    except EpisodeStoreError as error:
        return entry | {'result': 'failed', 'text': str(error)}
    return entry | {'result': 'saved', 'episode': episode_id,
                    'text': f'{leftover.steps} steps saved as {episode_id}'}


def _outcome(meta: EpisodeMeta) -> str:
    return {True: 'success', False: 'failure', None: 'unknown'}[meta.success]


def _summary(value: np.ndarray) -> dict[str, Any]:
    """Return shape, type and the range of the finite values, None where there is none."""
    finite = value[np.isfinite(value)]
    return {'shape': list(value.shape), 'dtype': value.dtype.name,
            'min': float(finite.min()) if finite.size else None,
            'max': float(finite.max()) if finite.size else None}


def _print_json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data, allow_nan=False))
