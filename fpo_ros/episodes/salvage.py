"""Episodes whose writer died: what is left of them, and making episodes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fpo_ros.episodes import zarr3
from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.incoming import (
    INCOMING,
    LOCK_SUFFIX,
    episode_metadata,
    lock_path,
    publish,
    system_errors,
)
from fpo_ros.episodes.layout import FRAME_STEPS, FRAMES, REQUIRED
from fpo_ros.episodes.meta import EpisodeMeta
from fpo_ros.episodes.reading import read_nodes
from fpo_ros.episodes.zarr3 import ZarrArray
from fpo_ros.files import replace_file, sync_dir, try_lock, write_file


@dataclass(frozen=True)
class Leftover:
    """An episode that was begun and not committed.

    :param name: its name, for :meth:`EpisodeStore.salvage`.
    :param alive: whether its writer still runs; the rest of the entries may change then.
    :param steps: steps that can be saved.
    :param meta: its description, None if it cannot be read.
    :param problem: why nothing can be saved, empty if something can.
    """

    name: str
    alive: bool
    steps: int
    meta: EpisodeMeta | None
    problem: str


def leftovers(root: Path) -> list[Leftover]:
    """Return the unfinished episodes of a store, by name.

    :raises EpisodeStoreError: when the disk refuses.
    """
    incoming = root / INCOMING
    with system_errors(incoming, 'unfinished episodes cannot be listed'):
        if not incoming.is_dir():
            return []
        names = {entry.name.removesuffix(LOCK_SUFFIX) for entry in os.scandir(incoming)}
        return [found for found in (_inspect(incoming / name) for name in sorted(names)) if found]


def salvage(root: Path, name: str) -> str:
    """Make an episode of the flushed steps of a dead writer.

    Its description says ``extra['salvaged']``; ``success`` stays what it was when the writer began.

    :returns: the id of the episode.
    :raises EpisodeStoreError: when the writer still runs, or nothing can be saved.
    """
    return _take(root, name, lambda path: _finish(root, path))


def discard(root: Path, name: str) -> None:
    """Remove what a dead writer left.

    :raises EpisodeStoreError: when the writer still runs or the disk refuses.
    """
    _take(root, name, lambda path: shutil.rmtree(path) if path.exists() else None)


def _take(root: Path, name: str, action: Callable[[Path], str | None]) -> str | None:
    path = root / INCOMING / name
    lock = lock_path(path)
    if '/' in name or not (os.path.lexists(path) or os.path.lexists(lock)):
        raise EpisodeStoreError(f'{root} has no unfinished episode {name!r}: list them with '
                                f'"fpo-ros episodes salvage {root} --dry-run"')
    with system_errors(path, 'nothing was changed'):
        held = try_lock(lock)
        if held is None:
            raise EpisodeStoreError(f'{path}: its writer still runs; stop that process first')
        try:
            result = action(path)
            lock.unlink(missing_ok=True)
            return result
        finally:
            os.close(held)


def _inspect(path: Path) -> Leftover | None:
    """Return what an incoming directory holds, None if it is gone by now."""
    held = try_lock(lock_path(path))
    try:
        if not path.exists():  # committed just now, not quite begun, or killed before it made the directory
            if held is not None:
                lock_path(path).unlink(missing_ok=True)
            return None
        try:
            meta, nodes = _readable(path)
        except EpisodeStoreError as error:
            return Leftover(path.name, held is None, 0, None, str(error))
        return Leftover(path.name, held is None, meta.steps, meta, _problem(meta, nodes))
    finally:
        if held is not None:
            os.close(held)


def _readable(path: Path) -> tuple[EpisodeMeta, dict[str, ZarrArray]]:
    meta, nodes = read_nodes(path)
    for name, node in nodes.items():
        if not name.startswith((FRAMES, FRAME_STEPS)) and len(node) != meta.steps:
            raise EpisodeStoreError(f'{node.path} has {len(node)} rows instead of {meta.steps}')
    return meta, nodes


def _problem(meta: EpisodeMeta, nodes: dict[str, ZarrArray]) -> str:
    if not meta.steps or any(name not in nodes for name in REQUIRED):
        return 'its writer ended before the first flush'
    return ''


def _finish(root: Path, path: Path) -> str:
    meta, nodes = _readable(path)
    problem = _problem(meta, nodes)
    if problem:
        raise EpisodeStoreError(f'{path}: nothing to save, {problem}; remove it with --discard')
    described = {}
    for name, node in nodes.items():
        rows = len(node)
        if name.startswith((FRAMES, FRAME_STEPS)):
            camera = name.removeprefix(FRAME_STEPS).removeprefix(FRAMES)
            if FRAMES + camera not in nodes or FRAME_STEPS + camera not in nodes:
                continue
            rows = int((np.asarray(nodes[FRAME_STEPS + camera]) < meta.steps).sum())
            if not rows:
                continue
        np.asarray(node)  # a damaged chunk is found before the episode counts as one
        described[name] = zarr3.array_metadata((rows, *node.shape[1:]), node.chunk_rows, node.dtype)
    _remove_surplus(path, described)
    for name, metadata in described.items():
        (path / name / zarr3.METADATA).unlink(missing_ok=True)
        write_file(path / name / zarr3.METADATA, zarr3.dumps(metadata))
        sync_dir(path / name)
    meta = meta.replace(extra=meta.extra | {'salvaged': True})
    replace_file(path / zarr3.METADATA, episode_metadata(meta, described))
    return publish(root, path)


def _remove_surplus(path: Path, described: dict[str, dict]) -> None:
    """Remove chunks written after the last flush, and arrays that have none of the saved steps."""
    for entry in list(path.iterdir()):
        if entry.name == zarr3.METADATA:
            continue
        if entry.name not in described:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            continue
        kept = {zarr3.METADATA, *chunk_names(described[entry.name])}
        for file in list(entry.iterdir()):
            if file.name not in kept:
                file.unlink()


def chunk_names(metadata: dict) -> list[str]:
    """Return the names of all chunk files of an array."""
    shape = metadata['shape']
    count = -(-shape[0] // metadata['chunk_grid']['configuration']['chunk_shape'][0])
    return [zarr3.chunk_key(number, len(shape)) for number in range(count)]
