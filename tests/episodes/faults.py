"""A fault at the n-th system call: the process dies there, or the call fails."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator

#: Module and name of every system call by which writers and salvage change the disk. Closing is left out: a process
#: that dies then has done the same as one that dies at the next call.
CALLS = ((os, 'open'), (os, 'write'), (os, 'fsync'), (os, 'mkdir'), (os, 'rename'), (os, 'replace'), (os, 'unlink'),
         (os, 'rmdir'), (fcntl, 'flock'))
KILLED = 77


class Faults:
    """Counts the calls; at number :attr:`at` something happens instead (or halfway, when it is a write)."""

    def __init__(self, at: int, fault: Callable[[], None]) -> None:
        self.at, self._fault, self.count = at, fault, 0

    def wrapped(self, name: str, real: Callable) -> Callable:
        def call(*arguments, **options):
            self.count += 1
            if self.count != self.at:
                return None if name == 'fsync' else real(*arguments, **options)  # no power cut here, so no need
            if name == 'write':
                real(arguments[0], bytes(arguments[1])[:len(arguments[1]) // 2])
            return self._fault()
        return call


@contextlib.contextmanager
def faults(at: int, fault: Callable[[], None]) -> Iterator[Faults]:
    """Let the call number ``at`` within the block fail; 0: only count."""
    made, reals = Faults(at, fault), [getattr(module, name) for module, name in CALLS]
    for (module, name), real in zip(CALLS, reals, strict=True):
        setattr(module, name, made.wrapped(name, real))
    try:
        yield made
    finally:
        for (module, name), real in zip(CALLS, reals, strict=True):
            setattr(module, name, real)


def full_disk() -> None:
    """Fail as the system does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed_at(at: int, work: Callable[[], object]) -> bool:
    """Run work in a process of its own that dies at the call number ``at``; returns whether it came to that."""
    child = os.fork()
    if not child:
        status = 1
        try:
            with faults(at, lambda: os._exit(KILLED)):
                work()
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f'the work itself failed at call {at}'
    return code == KILLED
