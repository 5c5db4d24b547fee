"""Episodes whose writer died: what is left of them, and making episodes of it."""

from __future__ import annotations

import contextlib
import os
import shlex
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
    release_lock,
    system_errors,
)
from fpo_ros.episodes.layout import FRAME_STEPS, FRAMES, REQUIRED
from fpo_ros.episodes.meta import EpisodeMeta
from fpo_ros.episodes.reading import check_cameras, read_nodes
from fpo_ros.episodes.zarr3 import ZarrArray
from fpo_ros.files import explain, is_locked, replace_file, sync_dir, try_lock, write_file


@dataclass(frozen=True)
class Leftover:
    """An episode that was begun and not committed.

    :param name: its name, for :meth:`EpisodeStore.salvage`.
    :param alive: whether its writer still runs, None if that cannot be told; unless it is False, the rest of the
        entries may change.
    :param steps: steps that can be saved.
    :param meta: its description, None if it cannot be read.
    :param problem: why nothing can be saved, empty if something can.
    :param doubt: why it cannot be told whether the writer runs, empty if it can.
    """

    name: str
    alive: bool
    steps: int
    meta: EpisodeMeta | None
    problem: str
    doubt: str


def leftovers(root: Path) -> list[Leftover]:
    """Return the unfinished episodes of a store, by name. Changes nothing; works on read-only media.

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


def tidy(root: Path) -> None:
    """Remove lock files without an episode: of writers killed just before they began or just after they ended.

    They do no harm, so neither does a disk that refuses.
    """
    with contextlib.suppress(OSError):
        for lock in (root / INCOMING).glob('*' + LOCK_SUFFIX):
            path = lock.with_name(lock.name.removesuffix(LOCK_SUFFIX))
            held = None if path.exists() else try_lock(lock)
            if held is not None:
                release_lock(lock, held)


def _take(root: Path, name: str, action: Callable[[Path], str | None]) -> str | None:
    path = root / INCOMING / name
    lock = lock_path(path)
    if '/' in name or not (os.path.lexists(path) or os.path.lexists(lock)):
        raise EpisodeStoreError(f'{root} has no unfinished episode {name!r}: list them with '
                                f'"{_command(root, "--dry-run")}"')
    with system_errors(path, 'it can be tried again'):
        while (held := try_lock(lock)) is None:
            if is_locked(lock):  # otherwise somebody just looked at it
                raise EpisodeStoreError(f'{path}: its writer still runs; stop that process first')
        try:
            return action(path)
        finally:
            release_lock(lock, held)


def _inspect(path: Path) -> Leftover | None:
    """Return what an incoming directory holds, None if it is gone by now."""
    alive, doubt = None, ''
    try:
        alive = is_locked(lock_path(path))
    except OSError as error:
        doubt = explain(error, lock_path(path))
    if not path.exists():  # committed just now, not quite begun, or killed before it made the directory
        return None
    try:
        meta, nodes = _readable(path)
    except EpisodeStoreError as error:
        return Leftover(path.name, alive, 0, None, str(error), doubt)
    return Leftover(path.name, alive, meta.steps, meta, _problem(meta, nodes), doubt)


def _readable(path: Path) -> tuple[EpisodeMeta, dict[str, ZarrArray]]:
    meta, nodes = read_nodes(path)
    for name, node in nodes.items():
        if not name.startswith((FRAMES, FRAME_STEPS)) and len(node) != meta.steps:
            raise EpisodeStoreError(f'{node.path} has {len(node)} rows instead of {meta.steps}')
    check_cameras(path, nodes)
    return meta, nodes


def _problem(meta: EpisodeMeta, nodes: dict[str, ZarrArray]) -> str:
    if not meta.steps or any(name not in nodes for name in REQUIRED):
        return 'its writer ended before the first flush'
    return ''


def _finish(root: Path, path: Path) -> str:
    meta, nodes = _readable(path)
    problem = _problem(meta, nodes)
    if problem:
        raise EpisodeStoreError(f'{path}: nothing to save, {problem}; remove it with '
                                f'"{_command(root, path.name, "--discard")}"')
    described = {}
    for name, node in nodes.items():
        rows = len(node)
        if name.startswith((FRAMES, FRAME_STEPS)):
            camera = name.removeprefix(FRAME_STEPS).removeprefix(FRAMES)
            rows = int((np.asarray(nodes[FRAME_STEPS + camera]) < meta.steps).sum())
            if not rows:
                continue
        np.asarray(node)  # a damaged chunk is found before the episode counts as one
        described[name] = zarr3.array_metadata((rows, *node.shape[1:]), node.chunk_rows, node.dtype)
    # From here on, a salvage that is killed can be repeated: nothing described is removed.
    meta = meta.replace(extra=meta.extra | {'salvaged': True})
    replace_file(path / zarr3.METADATA, episode_metadata(meta, described))
    _remove_surplus(path, described)
    for name, metadata in described.items():
        (path / name / zarr3.METADATA).unlink(missing_ok=True)
        write_file(path / name / zarr3.METADATA, zarr3.dumps(metadata))
        sync_dir(path / name)
    sync_dir(path)
    return publish(root, path)


def _command(root: Path, *arguments: str) -> str:
    return shlex.join(['fpo-ros', 'episodes', 'salvage', str(root), *arguments])


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
