"""Follows what the disk was told, in order, and says what a power cut at a rename could tear."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Files that carry no data; nothing waits for the disk to have them.
UNIMPORTANT = '.lock'


class DiskLog:
    """Wraps the system calls that change files, until the test ends.

    :attr:`dirty` holds the files whose bytes, and the directories whose entries, changed after the last fsync.
    A rename of a file or tree in which anything is dirty, or was never synced, fails the test there and then.

    :param patch: undoes the wrapping.
    :param root: what lies outside is not followed.
    """

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.dirty: set[Path] = set()
        self.synced: list[Path] = []
        self.moved: list[tuple[Path, Path]] = []
        for name, wrap in (('open', self._open), ('write', self._write), ('fsync', self._fsync),
                           ('mkdir', self._entry), ('unlink', self._entry), ('rmdir', self._entry),
                           ('rename', self._move), ('replace', self._move)):
            patch.setattr(os, name, wrap(getattr(os, name)))

    def _change(self, path: Path) -> None:
        if self.root in (path, *path.parents) and not path.name.endswith(UNIMPORTANT):
            self.dirty.add(path)

    def _entry_of(self, path: Path) -> None:
        if not path.name.endswith(UNIMPORTANT):
            self._change(path.parent)

    def _open(self, real):
        def wrapped(path, flags, *arguments, **options):
            new = flags & os.O_CREAT and not os.path.lexists(path)
            fd = real(path, flags, *arguments, **options)
            if new:
                self._entry_of(Path(path).absolute())
            return fd
        return wrapped

    def _write(self, real):
        def wrapped(fd, data):
            self._change(_path_of(fd))
            return real(fd, data)
        return wrapped

    def _fsync(self, real):
        def wrapped(fd):
            real(fd)
            self.dirty.discard(_path_of(fd))
            self.synced.append(_path_of(fd))
        return wrapped

    def _entry(self, real):
        def wrapped(path, *arguments, **options):
            if 'dir_fd' not in options or options['dir_fd'] is None:
                self._entry_of(Path(path).absolute())
            return real(path, *arguments, **options)
        return wrapped

    def _move(self, real):
        def wrapped(source, target):
            source, target = Path(source).absolute(), Path(target).absolute()
            inside = [source, *source.rglob('*')]
            torn = [path for path in inside if path in self.dirty or path not in self.synced]
            assert not torn, f'{source} is renamed before these reached the disk: {torn}'
            real(source, target)
            self.moved.append((source, target))
            self.synced += [target / path.relative_to(source) for path in inside]
            self._entry_of(source)
            self._entry_of(target)
        return wrapped


def _path_of(fd: int) -> Path:
    return Path(os.readlink(f'/proc/self/fd/{fd}'))
