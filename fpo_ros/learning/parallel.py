"""Several processes that train one policy, started by torch's launcher (``torchrun``), over gloo.

Every process does the same from the same random state. What costs time is dealt out: episodes, and the microbatches of
a step, whose gradients are summed before the optimiser sees them. Whatever decides how training goes on is a number
that all processes have, so all of them take the same way.

Only bytes and numbers travel, never pickles. gloo neither encrypts nor authenticates: processes of several machines
need a network that others cannot reach.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: What a process waits for another one, rollouts and checkpoints of that one included; one that has ended is noticed
#: at once [s].
TIMEOUT_S = 3600.0
#: What the launcher tells a process.
_NEEDED = ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
#: Bytes of one message.
_PIECE = 2**28


class ParallelError(RuntimeError):
    """The processes of a run cannot work together; the message says which one, why, and what to do."""


class Group:
    """The processes that train together, connected for a ``with`` block; one alone by default.

    Every method but :meth:`computes`, :meth:`share` and :meth:`threads` must be called by all processes in the same
    order. Alone, none of them does anything but return what it was given.

    :param rank: number of this process.
    :param size: processes in all.
    :param local_size: of them on this machine.
    :param timeout_s: how long to wait for another process [s].
    """

    def __init__(self, rank: int = 0, size: int = 1, local_size: int = 1, timeout_s: float = TIMEOUT_S) -> None:
        self.rank, self.size, self.local_size, self.timeout_s = rank, size, local_size, timeout_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> Group:
        """Return the group that the launcher names in the environment; one process alone where there is none.

        :raises ParallelError: for an environment that is incomplete or makes no sense.
        """
        known = os.environ if environment is None else environment
        if 'RANK' not in known and 'WORLD_SIZE' not in known:
            return cls()
        missing = [name for name in _NEEDED if name not in known]
        if missing:
            raise ParallelError(f'the environment names a process of several, but not {", ".join(missing)}: start them '
                                'with torchrun, or unset RANK and WORLD_SIZE to train in one process')
        try:
            rank, size = int(known['RANK']), int(known['WORLD_SIZE'])
            local_size = int(known.get('LOCAL_WORLD_SIZE', 1))
            int(known['MASTER_PORT'])
        except ValueError as error:
            raise ParallelError('RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and MASTER_PORT must be whole numbers '
                                f'({error}): start the processes with torchrun') from error
        if not (0 <= rank < size and 1 <= local_size <= size):
            raise ParallelError(f'RANK={rank}, WORLD_SIZE={size} and LOCAL_WORLD_SIZE={local_size} do not fit '
                                'together: start the processes with torchrun')
        return cls(rank, size, local_size, timeout_s)

    def __enter__(self) -> Group:
        if self.size > 1:
            from torch import distributed

            try:
                distributed.init_process_group('gloo', store=self._store(), rank=self.rank, world_size=self.size,
                                               timeout=timedelta(seconds=self.timeout_s))
            except (RuntimeError, ValueError) as error:
                raise ParallelError(
                    f'{self.name} on {socket.gethostname()} did not meet the others at {os.environ.get("MASTER_ADDR")}:'
                    f'{os.environ.get("MASTER_PORT")} ({_reason(error)}): see that all were started and that their '
                    'machines reach each other; GLOO_SOCKET_IFNAME names the network interface') from error
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()

    @property
    def name(self) -> str:
        """This process in words."""
        return f'process {self.rank} of {self.size}'

    def threads(self) -> int:
        """Return how many cores of this machine are this process's share, at least 1."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_size)

    def computes(self, index: int) -> bool:
        """Return whether this process computes part ``index`` of what is dealt out."""
        return index % self.size == self.rank

    def share(self, items: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """Return this process's share of the first axis: contiguous, as equal as can be, larger ones first."""
        each, more = divmod(len(items), self.size)
        start, end = (each * number + min(number, more) for number in (self.rank, self.rank + 1))
        return items[start:end]

    def computed(self, parts: Sequence[Tensor], compute: Callable[[Tensor], Tensor], width: int,
                 dtype: torch.dtype = torch.float32) -> Tensor:
        """Return what ``compute`` makes of every part, one below the other, each computed by one process.

        :param parts: (rows,) each.
        :param compute: returns (rows, width), without gradient.
        :param dtype: of what it returns.
        """
        if self.size == 1:
            return torch.cat([compute(part) for part in parts])
        found = torch.cat([compute(part) if self.computes(index) else torch.zeros(len(part), width, dtype=dtype)
                           for index, part in enumerate(parts)])
        return self._summed(found)

    def sum_gradients(self, parameters: Sequence[nn.Parameter], numbers: Sequence[float] = ()) -> list[float]:
        """Replace gradients by their sums over the processes; return the sums of some numbers.

        A parameter that has no gradient anywhere gets none, as in one process.
        """
        if self.size == 1:
            return list(numbers)
        there = [float(parameter.grad is not None) for parameter in parameters]
        flat = self._summed(torch.cat([
            *(torch.zeros(parameter.numel()) if parameter.grad is None else parameter.grad.flatten()
              for parameter in parameters), torch.tensor([*there, *numbers])]))
        *gradients, found, sums = flat.split([*(parameter.numel() for parameter in parameters), len(there),
                                              len(numbers)])
        for parameter, gradient, count in zip(parameters, gradients, found.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if count else None
        return sums.tolist()

    def broadcast(self, data: bytes = b'', source: int = 0) -> bytes:
        """Return the bytes that process ``source`` gave."""
        if self.size == 1:
            return data
        from torch import distributed

        with self._talking():
            size = torch.tensor([len(data)])
            distributed.broadcast(size, source)
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.rank == source and data \
                else torch.empty(int(size), dtype=torch.uint8)
            for piece in content.split(_PIECE) if len(content) else ():
                distributed.broadcast(piece, source)
        return data if self.rank == source else content.numpy().tobytes()

    def gather(self, data: bytes) -> list[bytes]:
        """Return what every process gave, in their order."""
        return [self.broadcast(data if source == self.rank else b'', source) for source in range(self.size)]

    def check_alike(self, tensors: Iterable[Tensor], where: str) -> None:
        """Refuse to go on where processes hold other numbers than process 0.

        :param tensors: what must be equal bit for bit.
        :param where: in the run, for the message.
        :raises ParallelError: on every process, naming those that differ.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(memoryview(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()))
        found = self.gather(digest.digest())
        other = [str(rank) for rank, theirs in enumerate(found) if theirs != found[0]]
        if other:
            raise ParallelError(f'what process {" and ".join(other)} trained differs from process 0 {where}: use '
                                'machines of one kind with the same versions, and go on from the newest checkpoint '
                                'with --resume')

    def _store(self) -> Any:
        """Return where the processes find each other's addresses."""
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        timeout = timedelta(seconds=self.timeout_s)
        store, _, _ = next(rendezvous('env://', self.rank, self.size, timeout=timeout))
        store.set_timeout(timeout)
        # A launcher that starts all processes anew keeps its store, with addresses of those that are gone. Launchers
        # of several machines do not count alike.
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if self.local_size == self.size else '0'
        return distributed.PrefixStore(f'fpo_ros/{attempt}', store)

    def _summed(self, values: Tensor) -> Tensor:
        from torch import distributed

        with self._talking():
            distributed.all_reduce(values)
        return values

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn what gloo reports within the block into one error."""
        try:
            yield
        except RuntimeError as error:
            raise ParallelError(
                f'{self.name} lost another one ({_reason(error)}): see what that one printed, and go on from the '
                'newest checkpoint with --resume') from error


def _reason(error: Exception) -> str:
    """Return the first line of an error of torch, without the place in its source."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return re.sub(r'^(\[[^\]]*\]:?\s*)+', '', line).rstrip('.') or line
