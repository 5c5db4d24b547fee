"""Where the package's launch and config files lie, in a checkout or installed."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import fpo_ros


def share_path(relative: str) -> Path:
    """Return the path of a file such as ``config/aloha_sim.yaml``.

    Looks in the checkout the package was imported from, then in the install prefix, then where ament's
    index says.

    :raises FileNotFoundError: naming every place looked at.
    """
    places = [Path(root).resolve().parent for root in fpo_ros.__path__]
    places = [place for place in places if (place / 'package.xml').is_file()]
    places.append(Path(sys.prefix) / 'share' / 'fpo_ros')
    with contextlib.suppress(ImportError, LookupError, OSError):  # no ament, no prefix, or not in its index
        from ament_index_python.packages import get_package_share_directory
        places.append(Path(get_package_share_directory('fpo_ros')))
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise FileNotFoundError(f'{relative} is neither below ' + ' nor below '.join(map(str, places))
                            + ': reinstall fpo_ros')
