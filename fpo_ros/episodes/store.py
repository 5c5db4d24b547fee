"""The episode store: a zarr v3 directory that many processes write and read at once.

Layout: ``<store>/zarr.json`` (group, says that this is a store), ``<store>/ep_000001/zarr.json`` (group,
description and array metadata of one episode), ``<store>/ep_000001/<array>/c.0.0`` (chunks). Episodes appear
by one atomic rename after all their bytes are on disk, so no reader ever sees half of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from fpo_ros.episodes import zarr3
from fpo_ros.episodes.checking import problems
from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.incoming import (
    EPISODE_ID,
    FORMAT_VERSION,
    Incoming,
    episode_numbers,
    system_errors,
)
from fpo_ros.episodes.layout import FRAME_STEPS, FRAMES, check_frames, check_steps
from fpo_ros.episodes.meta import EpisodeMeta
from fpo_ros.episodes.reading import Episode, read_episode
from fpo_ros.episodes.salvage import Leftover, discard, leftovers, salvage, tidy
from fpo_ros.episodes.writer import FRAME_CHUNK, EpisodeWriter
from fpo_ros.files import NotConfirmed, explain, make_dirs, replace_file

STORE_ATTRIBUTE = 'fpo_ros_episode_store'
_WHAT = 'an episode store'

__all__ = ['Episode', 'EpisodeStore', 'Leftover']


class EpisodeStore:
    """Episodes on disk. Make one by :meth:`create_or_open` or :meth:`open`.

    Any number of processes may write and read the same store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create_or_open(cls, path: str | Path) -> EpisodeStore:
        """Open a store, after making it if the directory is missing or empty.

        :raises EpisodeStoreError: when something else is there, or the directory cannot be made.
        """
        path = Path(path)
        with system_errors(path, 'no store was made'):
            make_dirs(path)
            temporary = f'.{zarr3.METADATA}.'  # of another process that makes the store right now
            if path.is_dir() and all(entry.name.startswith(temporary) for entry in path.iterdir()):
                attributes = {STORE_ATTRIBUTE: {'format_version': FORMAT_VERSION}}
                try:
                    replace_file(path / zarr3.METADATA, zarr3.dumps(zarr3.group_metadata(attributes)))
                except NotConfirmed as error:
                    raise EpisodeStoreError(explain(error, path / zarr3.METADATA)) from error
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> EpisodeStore:
        """Open an existing store.

        :raises EpisodeStoreError: when it is missing, damaged, of another program or of another version.
        """
        path = Path(path)
        if not path.is_dir():
            raise EpisodeStoreError(f'{path}: no such directory; record or import episodes first')
        attributes = zarr3.read_group(path, _WHAT).get('attributes')
        mark = attributes.get(STORE_ATTRIBUTE) if isinstance(attributes, dict) else None
        if not isinstance(mark, dict):
            raise EpisodeStoreError(f'{path} is a zarr group of another program, not {_WHAT}: '
                                    'give the path of a store, or an empty directory to make one')
        if mark.get('format_version') != FORMAT_VERSION:
            raise EpisodeStoreError(f'{path} has store format {mark.get("format_version")!r}, this program '
                                    f'reads {FORMAT_VERSION}: use the version of fpo_ros that wrote it')
        return cls(path)

    def __repr__(self) -> str:
        return f'EpisodeStore({str(self.path)!r})'

    def ids(self) -> list[str]:
        """Return the ids of all committed episodes, oldest first."""
        with system_errors(self.path, 'the episodes cannot be listed'):
            return [f'ep_{number:06d}' for number in episode_numbers(self.path)]

    def __len__(self) -> int:
        return len(self.ids())

    def read(self, episode_id: str) -> Episode:
        """Open one episode; arrays are read from disk when asked for.

        :raises EpisodeStoreError: when there is none of that id or it is damaged.
        """
        return read_episode(self._directory(episode_id))

    def _directory(self, episode_id: str) -> Path:
        if not isinstance(episode_id, str) or not EPISODE_ID.fullmatch(episode_id):
            raise EpisodeStoreError(f'{episode_id!r} is not an episode id: ids look like ep_000001')
        if not (self.path / episode_id).is_dir():
            ids = self.ids()
            there = f'it has {len(ids)}, {ids[0]} to {ids[-1]}' if ids else 'it is empty'
            raise EpisodeStoreError(f'{self.path} has no episode {episode_id}: {there}')
        return self.path / episode_id

    def iter(self, keep: Callable[[EpisodeMeta], bool] | None = None) -> Iterator[Episode]:
        """Yield the episodes present now, oldest first.

        :param keep: takes a description and says whether to yield that episode.
        :raises EpisodeStoreError: at a damaged episode.
        """
        for episode_id in self.ids():
            episode = self.read(episode_id)
            if keep is None or keep(episode.meta):
                yield episode

    def leftovers(self) -> list[Leftover]:
        """Return the episodes that were begun and not committed, their writers alive or dead. Changes nothing.

        :raises EpisodeStoreError: when the disk refuses.
        """
        return leftovers(self.path)

    def salvage(self, name: str) -> str:
        """Make an episode of what a dead writer flushed; see :func:`salvage.salvage`.

        :raises EpisodeStoreError: when the writer still runs, or nothing can be saved.
        """
        return salvage(self.path, name)

    def discard(self, name: str) -> None:
        """Remove what a dead writer left.

        :raises EpisodeStoreError: when the writer still runs or the disk refuses.
        """
        discard(self.path, name)

    def tidy(self) -> None:
        """Remove stale lock files; see :func:`salvage.tidy`."""
        tidy(self.path)

    def verify(self, episode_id: str) -> list[str]:
        """Read every byte of an episode; return one line for everything wrong with it.

        :raises EpisodeStoreError: when there is no episode of that id.
        """
        return problems(self._directory(episode_id))

    def write(self, arrays: Mapping[str, np.ndarray], meta: EpisodeMeta | dict,
              images: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None) -> str:
        """Add one whole episode; once this returns it survives a kill and a power cut.

        :param arrays: name → (T, ...) one row per step, at least :data:`layout.REQUIRED`.
        :param meta: description; ``steps`` is filled in.
        :param images: camera → (frames (F, H, W, 3) uint8 RGB, steps (F,) at which they were new).
        :returns: the id of the episode.
        :raises EpisodeStoreError: for data that do not fit or a disk that refuses; nothing is added then.
        :raises UnconfirmedEpisode: when it is added, but may not survive a power cut; do not write it again.
        """
        meta = EpisodeMeta.from_dict(meta)
        checked = check_steps(arrays, meta.task)
        total = len(checked['timestamp'])
        frames = {camera: check_frames(camera, *value, total) for camera, value in (images or {}).items()}
        meta = meta.replace(steps=total)
        incoming = Incoming(self.path, meta)
        try:
            with system_errors(incoming.path, 'this episode was not stored, every committed one is safe'):
                for name, rows in checked.items():
                    incoming.extend(name, rows, total)
                for camera, (pictures, steps) in frames.items():
                    incoming.extend(FRAMES + camera, pictures, min(FRAME_CHUNK, len(pictures)))
                    incoming.extend(FRAME_STEPS + camera, steps, len(steps))
                return incoming.commit(meta)
        except BaseException:
            incoming.discard()
            raise

    def writer(self, meta: EpisodeMeta | dict) -> EpisodeWriter:
        """Begin an episode that is recorded step by step.

        :raises EpisodeStoreError: for a wrong description or a disk that refuses.
        """
        return EpisodeWriter(self.path, EpisodeMeta.from_dict(meta))
