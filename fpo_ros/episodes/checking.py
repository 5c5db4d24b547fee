"""Reading every byte of an episode to find damage before it matters."""

from __future__ import annotations

import json
from pathlib import Path

from fpo_ros.episodes import zarr3
from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.layout import check_frames, check_steps
from fpo_ros.episodes.reading import Episode, read_episode
from fpo_ros.episodes.salvage import chunk_names


def problems(path: Path) -> list[str]:
    """Return one line for everything wrong with the episode in a directory; none if all is well."""
    try:
        episode = read_episode(path)
    except EpisodeStoreError as error:
        return [str(error)]
    found = []
    for check in (_check_arrays, _check_cameras, _check_files):
        try:
            check(episode)
        except (EpisodeStoreError, OSError, MemoryError) as error:
            text = str(error) or type(error).__name__
            found.append(text if str(path) in text else f'{path}: {text}')
    return found


def _check_arrays(episode: Episode) -> None:
    stored = dict(episode.arrays)
    for name, value in check_steps(stored, episode.meta.task).items():
        if value.dtype != stored[name].dtype:
            raise EpisodeStoreError(f'array {name} has type {stored[name].dtype} instead of {value.dtype}')


def _check_cameras(episode: Episode) -> None:
    for camera in episode.cameras:
        check_frames(camera, *episode.images(camera), len(episode))


def _check_files(episode: Episode) -> None:
    described = zarr3.read_group(episode.path, 'an episode')['consolidated_metadata']['metadata']
    for name, metadata in described.items():
        file = episode.path / name / zarr3.METADATA
        try:
            own = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            raise EpisodeStoreError(f'{file} is missing or damaged: restore it from a copy') from error
        if own != metadata:
            raise EpisodeStoreError(f'{file} differs from what {episode.path / zarr3.METADATA} says of it')
        _check_names(episode.path / name, {zarr3.METADATA, *chunk_names(metadata)})
    _check_names(episode.path, {zarr3.METADATA, *described})


def _check_names(directory: Path, expected: set[str]) -> None:
    found = {entry.name for entry in directory.iterdir()}
    for name in sorted(found ^ expected):
        state = 'is missing' if name in expected else 'does not belong to the episode'
        raise EpisodeStoreError(f'{directory / name} {state}')


def size_bytes(directory: Path) -> int:
    """Return how many bytes the files of a directory hold."""
    return sum(file.stat().st_size for file in directory.rglob('*') if file.is_file())
