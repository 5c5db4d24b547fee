"""Durable file operations: what a function here returned from survives a crash and a power cut (Linux)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

#: errno values that mean "no room left".
FULL = (errno.ENOSPC, errno.EDQUOT)


class NotConfirmed(OSError):
    """A change is made and visible, but the disk did not confirm that it survives a power cut."""

    def __init__(self, path: Path, error: OSError) -> None:
        reason = error.strerror or error
        super().__init__(error.errno, f'written, but the disk did not confirm it ({reason})', str(path))


@contextlib.contextmanager
def new_file(path: Path, mode: int = 0o644) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Give what appends bytes to a new file, and wait in the end until the disk has it.

    The directory entry is durable only after :func:`sync_dir` of the parent.

    :param path: must not exist.
    :param mode: permission bits, before the umask.
    :raises OSError: as the system reports it; an incomplete file may remain.
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, mode)

    def write(data: bytes | memoryview) -> None:
        view = memoryview(data).cast('B')
        while len(view):
            view = view[os.write(fd, view):]

    try:
        yield write
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes | memoryview, mode: int = 0o644) -> None:
    """Write a new file and wait until the disk has it; see :func:`new_file`."""
    with new_file(path, mode) as write:
        write(data)


def sync_dir(path: Path) -> None:
    """Wait until the disk has the directory's entries."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dirs(path: Path, mode: int = 0o777) -> None:
    """Make a directory and its missing ancestors and wait until the disk has their entries.

    :param mode: permission bits of what is made, before the umask.
    :raises OSError: as the system reports it; some of the ancestors may have been made.
    """
    path, missing = Path(path), []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode, exist_ok=True)
        sync_dir(directory.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Set the contents of a file so that a reader sees the old or the new ones, never a mixture.

    :raises NotConfirmed: when the new contents stand, but may not survive a power cut.
    :raises OSError: as the system reports it; the old contents stand then.
    """
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
    try:
        write_file(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    try:
        sync_dir(path.parent)
    except OSError as error:
        raise NotConfirmed(path, error) from error


def try_lock(path: Path) -> int | None:
    """Take the exclusive lock of a file, which the system releases when the process ends, however it ends.

    :returns: a descriptor that holds the lock until closed, or None when another holder has it.
    """
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise
    return fd


def is_locked(path: Path) -> bool:
    """Say whether some process holds the exclusive lock of a file. Changes nothing; works on read-only media.

    :raises OSError: when that cannot be told, because the file must not be read or cannot be locked.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of a file, waiting for another holder to finish."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def explain(error: OSError, path: Path) -> str:
    """Return one line that says what failed on which path and, for a full disk, what to do."""
    if isinstance(error, NotConfirmed):
        return f'{path}: {error.strerror}'
    if error.errno in FULL:
        free = shutil.disk_usage(_existing(path)).free
        return f'{path}: disk full ({free / 1e6:.1f} MB free): free some space or choose another disk'
    return f'{path}: {error.strerror or error}'


def _existing(path: Path) -> Path:
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
