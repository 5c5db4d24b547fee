"""Reading one committed episode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpo_ros.episodes import zarr3
from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.incoming import EPISODE_ATTRIBUTE, FORMAT_VERSION
from fpo_ros.episodes.layout import FRAME_STEPS, FRAMES
from fpo_ros.episodes.meta import EpisodeMeta
from fpo_ros.episodes.zarr3 import ZarrArray


class LazyArrays(Mapping[str, np.ndarray]):
    """Per-step arrays of an episode by name; each access reads the array from disk anew."""

    def __init__(self, arrays: dict[str, ZarrArray]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._arrays[name])

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f'LazyArrays({", ".join(self._arrays)})'


@dataclass(frozen=True)
class Episode:
    """One committed episode.

    :param id: its id in the store.
    :param meta: its description.
    :param arrays: name → (T, ...) array, read from disk at each access.
    :param cameras: names of the cameras that have frames.
    :param path: its directory.
    """

    id: str
    meta: EpisodeMeta
    arrays: LazyArrays
    cameras: tuple[str, ...]
    path: Path
    _nodes: dict[str, ZarrArray]

    def __len__(self) -> int:
        return self.meta.steps

    def images(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Return all frames (F, H, W, 3) uint8 RGB of a camera and the steps (F,) int32 they belong to.

        :raises EpisodeStoreError: for a camera the episode lacks, or damage.
        """
        return np.asarray(self.frames(camera)), np.asarray(self._nodes[FRAME_STEPS + camera])

    def frames(self, camera: str) -> ZarrArray:
        """Return the frames of a camera unread; indexing reads only what it needs.

        :raises EpisodeStoreError: for a camera the episode lacks.
        """
        if camera not in self.cameras:
            raise EpisodeStoreError(f'episode {self.id} has no camera {camera!r}: '
                                    f'it has {", ".join(self.cameras) or "none"}')
        return self._nodes[FRAMES + camera]


def read_episode(path: Path) -> Episode:
    """Open the episode in a directory.

    :raises EpisodeStoreError: naming what is damaged.
    """
    meta, nodes = read_nodes(path)
    steps = {name: node for name, node in nodes.items() if not name.startswith((FRAMES, FRAME_STEPS))}
    for node in steps.values():
        if len(node) != meta.steps:
            raise EpisodeStoreError(f'{node.path} has {len(node)} rows, the episode has {meta.steps} steps; '
                                    'restore it from a copy')
    return Episode(path.name, meta, LazyArrays(steps), check_cameras(path, nodes), path, nodes)


def check_cameras(path: Path, nodes: Mapping[str, ZarrArray]) -> tuple[str, ...]:
    """Return the cameras of an episode, after checking that each has as many frames as steps of frames.

    :raises EpisodeStoreError: naming what is missing or differs.
    """
    cameras = tuple(name.removeprefix(FRAMES) for name in nodes if name.startswith(FRAMES))
    stepped = tuple(name.removeprefix(FRAME_STEPS) for name in nodes if name.startswith(FRAME_STEPS))
    for camera in dict.fromkeys(cameras + stepped):
        for name in (FRAMES + camera, FRAME_STEPS + camera):
            if name not in nodes:
                raise EpisodeStoreError(f'{path} lacks the array {name}; restore it from a copy')
        frames, steps = nodes[FRAMES + camera], nodes[FRAME_STEPS + camera]
        if len(frames) != len(steps):
            raise EpisodeStoreError(f'{frames.path} has {len(frames)} frames, {steps.path} names {len(steps)} steps; '
                                    'restore the episode from a copy')
    return cameras


def read_nodes(path: Path) -> tuple[EpisodeMeta, dict[str, ZarrArray]]:
    """Return the description and all arrays of an episode directory, unread.

    :raises EpisodeStoreError: naming what is damaged.
    """
    group = zarr3.read_group(path, 'an episode')
    try:
        entry: dict[str, Any] = group['attributes'][EPISODE_ATTRIBUTE]
        version, meta = entry['format_version'], entry['meta']
        described = dict(group['consolidated_metadata']['metadata'])
    except (KeyError, TypeError, ValueError) as error:
        raise EpisodeStoreError(f'{path / zarr3.METADATA} does not describe an episode; '
                                'restore it from a copy') from error
    if version != FORMAT_VERSION:
        raise EpisodeStoreError(f'{path} has episode format {version!r}, this program reads '
                                f'{FORMAT_VERSION}: use the version of fpo_ros that wrote it')
    try:
        return (EpisodeMeta.from_dict(meta),
                {zarr3.check_name(name): ZarrArray(path / name, value) for name, value in described.items()})
    except EpisodeStoreError as error:
        raise EpisodeStoreError(f'{path / zarr3.METADATA}: {error}') from error
