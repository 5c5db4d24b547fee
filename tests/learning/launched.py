"""Programs under torch's launcher, apart from any launcher that runs the tests."""

from __future__ import annotations

import os
import sys


def environment(**more: object) -> dict[str, str]:
    """Return this process's environment without a launcher's words in it."""
    names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
    plain = {name: value for name, value in os.environ.items() if name not in names}
    return {**plain, 'OMP_NUM_THREADS': '1', **{name: str(value) for name, value in more.items()}}


def launcher(*options: object) -> list[str]:
    return [sys.executable, '-m', 'torch.distributed.run', *map(str, options), '--nproc-per-node']
