"""What a process takes over from the shell that starts it.

A sourced ROS 2 distribution puts its modules and libraries in front of the ROS 2 wheels of a virtual environment, and
two releases of ROS 2 don't work in one process: :func:`isolate` leaves the distribution out. Libraries write caches
and logs to the home directory: :func:`write_below_checkout` keeps them in the clone.

``python -m fpo_ros.environment MODULE ...`` does both, then runs the module as ``python -m MODULE ...`` would.
"""

from __future__ import annotations

import os
import runpy
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import fpo_ros

#: Variables with search paths, of which only the entries of another ROS 2 are left out.
SEARCH_PATHS = ('PYTHONPATH', 'LD_LIBRARY_PATH')
#: Variables that only name prefixes of a ROS 2, or what was built on it.
PREFIXES = ('AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH')
#: Variables that a mixed environment loses: by name, or by the start of their name.
DROPPED = ('CMAKE_PREFIX_PATH', 'ROS_DISTRO', 'ROS_VERSION', 'ROS_PYTHON_VERSION', '_ROS_WHEELS_BOOTSTRAP_COMPLETE')
DROPPED_FAMILIES = ('AMENT_', 'COLCON_')
#: Holds the process that was started anew, and the prefixes that it left out.
MARK = 'FPO_ROS_ISOLATED'

#: Where libraries write unless told otherwise: variable, folder below ``.cache`` of the clone.
FOLDERS = {
    'ROS_LOG_DIR': 'ros/log',
    'MPLCONFIGDIR': 'matplotlib',
    'MESA_SHADER_CACHE_DIR': 'mesa',
    '__GL_SHADER_DISK_CACHE_PATH': 'nvidia',
    'CUDA_CACHE_PATH': 'cuda',
}


def checkout() -> Path | None:
    """Return the folder of the clone this package was imported from; None where it is installed."""
    for folder in fpo_ros.__path__:
        root = Path(folder).resolve().parent
        if (root / 'package.xml').is_file() and (root / 'pyproject.toml').is_file():
            return root
    return None


def has_wheels() -> bool:
    """Whether this Python has ROS 2 from wheels."""
    site = Path(sysconfig.get_path('platlib'))
    return all((site / name).is_dir() for name in ('rclpy', 'ros_wheels_bootstrapper'))


def _prefix_of(entry: str) -> Path | None:
    """Return the prefix of the ROS 2 packages that an entry of a search path lies in."""
    if not entry:
        return None
    folder = Path(entry).resolve()
    for prefix in (folder, *folder.parents):
        if (prefix / 'share' / 'ament_index' / 'resource_index').is_dir():
            return prefix
    return None


def _is_foreign(entry: str) -> bool:
    return _prefix_of(entry) not in (None, Path(sys.prefix).resolve())


def distributions(variables: Mapping[str, str]) -> list[str]:
    """
    Return the ROS 2 installations that variables lead to beside the wheels of this Python, each once.

    :param variables: such as ``os.environ``.
    :returns: prefixes, such as ``/opt/ros/humble``; none where this Python has no wheels, since it then uses them.
    """
    if not has_wheels():
        return []
    found: dict[str, None] = {}
    for name in (*SEARCH_PATHS, *PREFIXES):
        for entry in variables.get(name, '').split(os.pathsep):
            prefix = _prefix_of(entry)
            packages = prefix and prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
            if packages and _is_foreign(entry) and any((packages / p).is_file() for p in ('rcl', 'rclpy')):
                found[str(prefix)] = None
    return list(found)


def without_distributions(variables: Mapping[str, str]) -> dict[str, str]:
    """
    Return variables that don't lead to another ROS 2 than the wheels of this Python.

    Entries of search paths that belong to no ROS 2, such as CUDA's libraries, stay.

    :param variables: such as ``os.environ``.
    """
    kept = {
        name: value for name, value in variables.items()
        if name not in DROPPED and not name.startswith(DROPPED_FAMILIES)
    }  # fmt: skip
    for name in SEARCH_PATHS:
        entries = [entry for entry in kept.pop(name, '').split(os.pathsep) if entry and not _is_foreign(entry)]
        if entries:
            kept[name] = os.pathsep.join(entries)
    middleware = kept.get('RMW_IMPLEMENTATION')
    if middleware and not (Path(sys.prefix) / 'lib' / f'lib{middleware}.so').is_file():
        del kept['RMW_IMPLEMENTATION']
    return kept


def isolate() -> None:
    """
    Start this process anew without a ROS 2 distribution where this Python has ROS 2 wheels; else do nothing.

    Call it first, before anything imports rclpy. It does not return where it starts anew, which happens at most once.
    """
    others = distributions(os.environ)
    if not others or os.environ.get(MARK, '').startswith(f'{os.getpid()}:'):  # the process keeps its number
        return
    variables = without_distributions(os.environ)
    variables[MARK] = f'{os.getpid()}:{os.pathsep.join(others)}'
    print(f'fpo-ros: leaving out {", ".join(others)}: {sys.prefix} has a ROS 2 of its own', file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execve(sys.executable, sys.orig_argv, variables)


def left_out() -> list[str]:
    """Return the prefixes that this process, or the one it descends from, left out."""
    return [entry for entry in os.environ.get(MARK, '').partition(':')[2].split(os.pathsep) if entry]


def write_below_checkout() -> None:
    """
    Let libraries write below ``.cache`` of the clone where the package runs from one, instead of to the home directory.

    Call it before mujoco, matplotlib, onnxruntime and rclpy are imported. Variables that are set already stay.
    """
    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # onnxruntime would open a database and send it away
    root = checkout()
    if root is None or not os.access(root, os.W_OK):
        return
    for name, folder in FOLDERS.items():
        if name in os.environ or name == 'ROS_LOG_DIR' and 'ROS_HOME' in os.environ:
            continue
        try:
            (root / '.cache' / folder).mkdir(parents=True, exist_ok=True)
        except OSError:  # of another user, or the disk is full: the library's own place is as good
            continue
        os.environ[name] = str(root / '.cache' / folder)


def main() -> None:
    """Run the module that the first argument names."""
    isolate()
    write_below_checkout()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    main()
