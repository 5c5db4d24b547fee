"""Exports that are made once and copied from then on, for tests of what is done with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.runtime import export


def keeping(folder: Path) -> Callable[..., None]:
    """Return what writes as :func:`fpo_ros.runtime.export.write` does, without the guided step.

    :param folder: keeps the export of every policy.
    """
    plain = export.write

    def write(policy: FlowPolicy, directory: Path, *, precision: str = 'float32') -> None:
        kept = folder / f'{policy.digest()}-{precision}'
        if not kept.exists():
            plain(policy, directory, precision=precision, guided=False)
            shutil.copytree(directory, kept)
        shutil.copytree(kept, directory, dirs_exist_ok=True)

    return write
