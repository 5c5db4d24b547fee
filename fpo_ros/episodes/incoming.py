"""An episode while it is being written: hidden, locked by its writer, and valid up to the last flush."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fpo_ros.episodes import zarr3
from fpo_ros.episodes.errors import EpisodeStoreError, UnconfirmedEpisode
from fpo_ros.episodes.meta import EpisodeMeta
from fpo_ros.files import explain, replace_file, sync_dir, try_lock, write_file

#: Directory inside the store that no reader looks into.
INCOMING = '.incoming'
LOCK_SUFFIX = '.lock'
FORMAT_VERSION = 1
EPISODE_ATTRIBUTE = 'fpo_ros_episode'
#: Numbers have six digits, and more only where six do not suffice: each number has one name.
EPISODE_ID = re.compile(r'ep_([0-9]{6}|[1-9][0-9]{6,11})')


@contextlib.contextmanager
def system_errors(path: Path, consequence: str) -> Iterator[None]:
    """Turn an OSError into an EpisodeStoreError of one line."""
    try:
        yield
    except OSError as error:
        raise EpisodeStoreError(f'{explain(error, path)}; {consequence}') from error


def episode_numbers(root: Path) -> list[int]:
    """Return the numbers of all committed episodes of a store, ascending."""
    with os.scandir(root) as entries:
        matches = [EPISODE_ID.fullmatch(entry.name) for entry in entries]
    return sorted(int(match.group(1)) for match in matches if match)


def episode_metadata(meta: EpisodeMeta, arrays: dict[str, dict[str, Any]]) -> bytes:
    """Return the bytes of the zarr.json of an episode."""
    attributes = {EPISODE_ATTRIBUTE: {'format_version': FORMAT_VERSION, 'meta': meta.to_dict()}}
    return zarr3.dumps(zarr3.group_metadata(attributes, arrays))


class _GrowingArray:
    """One array that grows by rows; a chunk goes to disk as soon as it is full."""

    def __init__(self, path: Path, chunk_rows: int) -> None:
        self.path, self.chunk_rows = path, chunk_rows
        self.pending: list[np.ndarray] = []
        self.pending_rows = 0
        self.written = 0

    def extend(self, rows: np.ndarray) -> None:
        if not self.written and not self.pending:
            self.path.mkdir()
            self.row_shape, self.dtype = rows.shape[1:], rows.dtype
        self.pending.append(rows)
        self.pending_rows += len(rows)
        while self.pending_rows >= self.chunk_rows:
            self._write(self.chunk_rows)

    def finish(self) -> None:
        if self.pending_rows:
            self._write(self.pending_rows)
        write_file(self.path / zarr3.METADATA, zarr3.dumps(self.metadata()))
        sync_dir(self.path)

    def metadata(self) -> dict[str, Any]:
        return zarr3.array_metadata((self.written, *self.row_shape), self.chunk_rows, self.dtype)

    def _write(self, count: int) -> None:
        rows = self.pending[0] if len(self.pending) == 1 else np.concatenate(self.pending)
        key = zarr3.chunk_key(self.written // self.chunk_rows, rows.ndim)
        write_file(self.path / key, zarr3.encode_chunk(rows[:count], self.chunk_rows))
        self.written += count
        self.pending = [rows[count:]] if len(rows) > count else []
        self.pending_rows -= count


class Incoming:
    """A directory under the store's hidden one, with a lock that dies with this process.

    :param root: directory of the store.
    :param meta: what is known at the start.
    :raises EpisodeStoreError: when the directory cannot be made.
    """

    def __init__(self, root: Path, meta: EpisodeMeta) -> None:
        self.root, self.meta = root, meta
        self.path = root / INCOMING
        self.arrays: dict[str, _GrowingArray] = {}
        #: Steps that a salvage would find if this process died now.
        self.safe_steps = 0
        self._lock: int | None = None
        with system_errors(self.path, 'the episode was not begun'):
            self.path.mkdir(exist_ok=True)
            sync_dir(root)
            while self._lock is None:
                self.path = root / INCOMING / uuid.uuid4().hex
                self._lock = _begin_lock(lock_path(self.path))
        try:
            with system_errors(self.path, 'the episode was not begun'):
                self.path.mkdir()
                write_file(self.path / zarr3.METADATA, episode_metadata(meta, {}))
                sync_dir(self.path.parent)
        except BaseException:
            self.discard()
            raise

    def extend(self, name: str, rows: np.ndarray, chunk_rows: int) -> None:
        """Append rows (n, ...) to an array, which is made on first use.

        :raises OSError: as the system reports it.
        """
        if name not in self.arrays:
            self.arrays[name] = _GrowingArray(self.path / name, chunk_rows)
        self.arrays[name].extend(rows)

    def publish_progress(self, steps: int) -> None:
        """Record how far the arrays are complete, for a salvage should this process die.

        :raises OSError: as the system reports it.
        """
        for array in self.arrays.values():
            sync_dir(array.path)
        replace_file(self.path / zarr3.METADATA, episode_metadata(
            self.meta.replace(steps=steps), {name: array.metadata() for name, array in self.arrays.items()
                                             if array.written}))
        self.safe_steps = steps

    def commit(self, meta: EpisodeMeta) -> str:
        """Write what is left and make the episode visible, durably.

        :returns: the id of the episode.
        :raises OSError: as the system reports it; nothing became visible then.
        :raises UnconfirmedEpisode: when the episode is visible, but may not survive a power cut.
        """
        for array in self.arrays.values():
            array.finish()
        replace_file(self.path / zarr3.METADATA, episode_metadata(
            meta, {name: array.metadata() for name, array in self.arrays.items()}))
        self.safe_steps = meta.steps
        try:
            episode_id = publish(self.root, self.path)
        except UnconfirmedEpisode:
            self.leave()
            raise
        self.leave()
        return episode_id

    def discard(self) -> None:
        """Remove everything written so far."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        """Let go of the directory: what is in it belongs to whoever salvages it."""
        held, self._lock = self._lock, None
        if held is not None:
            release_lock(lock_path(self.path), held)


def _begin_lock(path: Path) -> int | None:
    """Take the lock of a new name; None if a process that looks at unfinished episodes got in between."""
    held = try_lock(path)
    if held is None:
        path.unlink(missing_ok=True)
    elif not path.exists() or not os.path.samestat(os.stat(path), os.fstat(held)):
        os.close(held)
        held = None
    return held


def release_lock(path: Path, held: int) -> None:
    """Remove a lock file and let go of it. Never fails: a lock file that nobody holds does no harm."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.close(held)


def lock_path(path: Path) -> Path:
    """Return the lock file that goes with an incoming directory."""
    return path.with_name(path.name + LOCK_SUFFIX)


def publish(root: Path, path: Path) -> str:
    """Move a finished incoming directory to the next free episode id, atomically and durably.

    :raises OSError: as the system reports it; the directory was not moved then.
    :raises UnconfirmedEpisode: when it was moved, but may not survive a power cut.
    """
    while True:
        numbers = episode_numbers(root)
        episode_id = f'ep_{(numbers[-1] if numbers else 0) + 1:06d}'
        try:
            os.rename(path, root / episode_id)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                continue  # another writer took that id in the meantime
            raise
        try:
            sync_dir(root)
            sync_dir(path.parent)
        except OSError as error:
            raise UnconfirmedEpisode(root, episode_id, error) from error
        return episode_id
