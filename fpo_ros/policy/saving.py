"""Tensors and other files on disk: written whole and synced, with one error that says what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fpo_ros.files import explain


class SaveError(RuntimeError):
    """A file could not be written; the message names the path and says what to do."""


@contextmanager
def saving(path: Path, stands: str = '') -> Iterator[None]:
    """Turn what the disk refuses within the block into one error.

    :param path: what is being written.
    :param stands: what is still there all the same, for the message.
    :raises SaveError: for a full disk and everything else the system reports.
    """
    try:
        yield
    except (OSError, SafetensorError, SaveError) as error:
        system = _system_error(error) if isinstance(error, SafetensorError) else error
        text = explain(system, path) if isinstance(system, OSError) else str(error)
        raise SaveError(f'{text} ({stands})' if stands else text) from error


def _system_error(error: SafetensorError) -> OSError:
    """Return the system's error of which safetensors reports the text alone."""
    found = re.search(r'os error (\d+)', str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, os.strerror(number) if found else ' '.join(str(error).split()))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file beside ``path``, wait until the disk has it, and move it into place.

    :raises OSError: as the system reports it, or SafetensorError; what was there stands then.
    """
    staging = path.with_name(f'.{path.name}.new')
    try:
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, staging)
        with open(staging, 'rb') as file:
            os.fsync(file.fileno())
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
