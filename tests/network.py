"""A network of two sides that can be parted, apart from the machine's own: two network namespaces and a link."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from unittest import mock

_CLONE_NEWNET = 0x40000000


class Network:
    """Two sides that talk by UDP over a link. Make it by :func:`network`.

    :param name: the sides are this with ``a`` and ``b`` behind it, in /run/netns, and so are the ends of the link.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @contextlib.contextmanager
    def inside(self, side: str) -> Iterator[None]:
        """Processes and threads that this thread starts meanwhile are on side ``a`` or ``b``.

        :raises OSError: where the kernel refuses.
        """
        libc = ctypes.CDLL(None, use_errno=True)

        def enter(namespace: int) -> None:
            if libc.setns(namespace, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f'cannot enter a namespace of {self.name}')

        with contextlib.ExitStack() as stack:
            here, there = (stack.enter_context(open(path)).fileno()
                           for path in ('/proc/thread-self/ns/net', f'/run/netns/{self.name}{side}'))
            enter(there)
            stack.callback(enter, here)
            # Both sides share this machine's memory: only what goes by UDP takes the link.
            with mock.patch.dict(os.environ, ROS_AUTOMATIC_DISCOVERY_RANGE='SUBNET', ROS_LOCALHOST_ONLY='0',
                                 FASTDDS_BUILTIN_TRANSPORTS='UDPv4'):
                yield

    def part(self) -> None:
        """Nothing comes through any more."""
        _ip(f'-n {self.name}a link set {self.name}a down')

    def join(self) -> None:
        """Everything comes through again."""
        _ip(f'-n {self.name}a link set {self.name}a up')


@contextlib.contextmanager
def network() -> Iterator[Network | str]:
    """Make a network while a ``with`` block runs; or say why it cannot be."""
    name = f'fpo{os.getpid() % 1_000_000}'
    problem = _make(name)
    try:
        yield problem or Network(name)
    finally:
        if not problem:
            _remove(name)


def _make(name: str) -> str:
    if shutil.which('ip') is None:
        return 'no command ip: apt-get install iproute2'
    try:
        for side in 'ab':
            _ip(f'netns add {name}{side}')
        _ip(f'-n {name}a link add {name}a type veth peer name {name}b netns {name}b')
        for number, side in enumerate('ab', 1):
            _ip(f'-n {name}{side} addr add 10.213.7.{number}/24 dev {name}{side}')
            for link in (f'{name}{side}', 'lo'):
                _ip(f'-n {name}{side} link set {link} up')
    except RuntimeError as error:
        _remove(name)
        return f'network namespaces are not allowed here: {error}'
    return ''


def _remove(name: str) -> None:
    for side in 'ab':
        if os.path.exists(f'/run/netns/{name}{side}'):
            _ip(f'netns del {name}{side}')  # takes its end of the link with it


def _ip(arguments: str) -> None:
    done = subprocess.run(['ip', *arguments.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f'ip {arguments}: {done.stderr.strip()}')
