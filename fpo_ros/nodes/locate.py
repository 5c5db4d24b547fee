"""Where the package's launch and config files and executables lie, in a checkout or installed."""

from __future__ import annotations

import contextlib
import site
import sys
import sysconfig
from pathlib import Path

import fpo_ros
from fpo_ros import environment


def _prefixes() -> list[Path]:
    """Return the prefixes that the package may be installed in, where it was imported from first."""
    above = [prefix for folder in fpo_ros.__path__ for prefix in Path(folder).resolve().parents]
    return [*above, *map(Path, (sys.prefix, sysconfig.get_path('data'), site.getuserbase()))]


def program(module: str) -> list[str]:
    """Return the command that runs a module of ``fpo_ros.nodes``.

    That is the installed executable of the same name, which starts the Python it was installed for: the one that has
    what the nodes import, unlike the Python of ``ros2 launch``. Where there is none, it is this Python.

    :param module: such as ``fpo_ros.nodes.policy``.
    """
    name = module.rpartition('.')[2]
    if environment.checkout() is None:
        for prefix in _prefixes():
            if (prefix / 'lib' / 'fpo_ros' / name).is_file():
                return [str(prefix / 'lib' / 'fpo_ros' / name)]
    return [sys.executable, '-m', module]


def share_path(relative: str) -> Path:
    """Return the path of a file such as ``config/aloha_sim.yaml``.

    Looks in the checkout the package was imported from, then in the prefix it was installed in (by colcon, or by
    pip for an environment, the system or a user), then where ament's index says.

    :raises FileNotFoundError: naming every place looked at.
    """
    root = environment.checkout()
    places = [root] if root else []
    places += [place for place in (prefix / 'share' / 'fpo_ros' for prefix in _prefixes()) if place.is_dir()]
    with contextlib.suppress(ImportError, LookupError, OSError):  # no ament, no prefix, or not in its index
        from ament_index_python.packages import get_package_share_directory
        places.append(Path(get_package_share_directory('fpo_ros')))
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise FileNotFoundError(f'{relative} is not below {" or ".join(dict.fromkeys(map(str, places))) or "any prefix"}: '
                            'reinstall fpo_ros')
