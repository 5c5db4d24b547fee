"""YAML files of a cell, its drivers and its faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: str | Path, error: type[Exception], kind: str = '') -> Any:
    """Return what a YAML file holds.

    :param error: raised, with the file and why, where it cannot be read or is no YAML.
    :param kind: of file, for the message, such as ``'the cell file'``.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except OSError as found:
        raise error(f'cannot read {kind}{" " * bool(kind)}{path}: {found.strerror}') from found
    except (yaml.YAMLError, UnicodeDecodeError) as found:
        raise error(f'{kind}{" " * bool(kind)}{path} is no YAML file: {" ".join(str(found).split())}') from found
