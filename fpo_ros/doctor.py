"""``fpo-ros doctor``: checks the machine and says for each finding what to do."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json as json_module
import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fpo_ros import environment, gl
from fpo_ros.nodes import locate
from fpo_ros.trial import trial

GIB = 1 << 30
OLDEST, NEWEST = (3, 10), (3, 13)  # Python versions that are tested

OK, WARN, FAIL = 'ok', 'warn', 'fail'

# Tried in processes of their own.
RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/>'
    '<geom type="box" size=".2 .2 .2" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 48, 64) as renderer:
    renderer.update_scene(data)
    image = renderer.render()
    from OpenGL import GL
    name = GL.glGetString(GL.GL_RENDERER)
if image.shape != (48, 64, 3) or image.min() == image.max():
    raise SystemExit('the rendered image is empty')
print(name.decode() if name else 'unnamed renderer')
"""

ROS = """
import rclpy
from rclpy.utilities import get_rmw_implementation_identifier
from std_msgs.msg import Empty
rclpy.init()
node = rclpy.create_node('fpo_ros_doctor')
seen = []
node.create_subscription(Empty, '~/ping', seen.append, 1)
publisher = node.create_publisher(Empty, '~/ping', 1)
for _ in range(100):
    publisher.publish(Empty())
    rclpy.spin_once(node, timeout_sec=0.1)
    if seen:
        break
else:
    raise SystemExit('no message came back within 10 s')
print(get_rmw_implementation_identifier())
rclpy.shutdown()
"""

INTERFACES = """
from rclpy.type_support import check_for_type_support
from fpo_ros.action import RunEpisode
from fpo_ros.msg import ActionChunk
from fpo_ros.srv import ResetScene
from interbotix_xs_msgs.msg import JointGroupCommand
for kind in (ActionChunk, JointGroupCommand, RunEpisode, ResetScene):
    check_for_type_support(kind)
print('fpo_ros, interbotix_xs_msgs')
"""


@dataclass(frozen=True)
class Check:
    """
    One finding.

    :param name: what was checked.
    :param status: ``ok``, ``warn`` (works, but not for everything) or ``fail``.
    :param found: what there is.
    :param advice: what to do; empty where nothing is.
    """

    name: str
    status: str
    found: str
    advice: str = ''


def check_python() -> Check:
    """Python's version: 3.10 or newer, tested to 3.13."""
    found = f'{platform.python_version()} at {sys.executable}'
    if sys.version_info[:2] < OLDEST:
        return Check('Python', FAIL, found, 'use Python 3.10 to 3.13: make setup PYTHON=/path/to/python3')
    if sys.version_info[:2] > NEWEST:
        return Check(
            'Python', WARN, found, 'newer than tested, and ROS 2 wheels end at 3.13: prefer 3.10 to 3.13'
        )
    return Check('Python', OK, found)


def check_environment() -> Check:
    """A sourced ROS 2 distribution beside the ROS 2 wheels: only one of them may reach a process."""
    others = environment.distributions(os.environ)
    if others:
        return Check(
            'Environment', WARN, f'{", ".join(others)} is sourced and mixes with the wheels in {sys.prefix}',
            'use fpo-ros or make, which leave it out, or a shell without it',
        )  # fmt: skip
    out = environment.left_out()
    return Check('Environment', OK, f'{", ".join(out)} is sourced and left out' if out else 'one ROS 2 at most')


def find_requirements() -> tuple[list[str], str]:
    """Return what the installation asks for, without extras, and the command that installs it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        requirements = importlib.metadata.requires('fpo_ros')
        if requirements:
            return [r for r in requirements if 'extra ==' not in r], 'make setup'
    # built by colcon, which knows of no Python packages
    file = locate.share_path('config/requirements-robot.txt')
    lines = [line.split('#')[0].strip() for line in file.read_text().splitlines()]
    return [line for line in lines if line], f'{sys.executable} -m pip install -r {file}'


def applies(requirement: str) -> bool:
    """Whether a requirement is meant for this Python; only ``python_version`` is looked at."""
    marker = re.search(r"python_version\s*(<|>=)\s*['\"](\d+)\.(\d+)['\"]", requirement)
    if marker is None:
        return True
    older = sys.version_info[:2] < (int(marker[2]), int(marker[3]))
    return older == (marker[1] == '<')


def check_packages() -> Check:
    """Python packages that the installation asks for."""
    try:
        requirements, advice = find_requirements()
    except FileNotFoundError as error:
        return Check('Packages', WARN, str(error), 'make setup')
    names = [re.split(r'[ <>=!~;\[(]', r, maxsplit=1)[0] for r in requirements if applies(r)]
    missing = []
    for name in names:
        # onnxruntime-gpu takes the place of onnxruntime
        if not any(has_package(other) for other in (name, *(['onnxruntime-gpu'] * (name == 'onnxruntime')))):
            missing.append(name)
    if missing:
        return Check('Packages', FAIL, 'missing: ' + ', '.join(missing), advice)
    return Check('Packages', OK, f'{len(names)} required packages')


def has_package(name: str) -> bool:
    """Whether a Python package is installed."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def check_gl() -> Check:
    """Rendering: one frame, by the chosen backend or else by any other that needs no display."""
    chosen = os.environ.get('MUJOCO_GL')
    problems = []
    for backend in dict.fromkeys([*([chosen] if chosen else []), *gl.HEADLESS]):
        good, answer = trial(RENDER, MUJOCO_GL=backend)
        if good and (not chosen or backend == chosen):
            return Check('GL', OK, f'{backend}: {answer}')
        if good:
            return Check(
                'GL', WARN, f'{"; ".join(problems)}; {backend} works: {answer}', f'export MUJOCO_GL={backend}'
            )
        problems.append(f'{backend}: {answer}')
    return Check('GL', FAIL, '; '.join(problems),
                 f'{gl.INSTALL} (without it: state observations only, and no films in the demo report)')


def check_ros() -> Check:
    """ROS 2: a message goes out and comes back."""
    good, answer = trial(ROS)
    if good:
        return Check('ROS 2', OK, f'{os.environ.get("ROS_DISTRO", "wheels")}, {answer}')
    advice = "make setup, pip install '.[ros]', or build by colcon with a ROS 2 distribution (learning works without)"
    if 'rmw' in answer and os.environ.get('RMW_IMPLEMENTATION'):
        advice = (
            f'unset RMW_IMPLEMENTATION (is {os.environ["RMW_IMPLEMENTATION"]}), or install that middleware'
        )
    return Check('ROS 2', FAIL, answer, advice)


def check_interfaces() -> Check:
    """Messages, services and actions of this package and of the arm driver."""
    good, answer = trial(INTERFACES)
    if good:
        return Check('Interfaces', OK, answer)
    return Check('Interfaces', FAIL, answer, 'make setup, or build the workspace with colcon and source it')


def check_compiler() -> Check:
    """C++ compiler and Python's headers, which building the interfaces needs."""
    advice = 'only needed to build the interfaces: apt-get install '
    compiler = shutil.which(os.environ.get('CXX', 'c++')) or shutil.which('g++')
    if compiler is None:
        return Check('Compiler', WARN, 'no C++ compiler', f'{advice}g++')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    if not header.is_file():
        name = f'python{sys.version_info[0]}.{sys.version_info[1]}-dev'
        return Check('Compiler', WARN, f'{compiler}, no {header}', f'{advice}{name}')
    return Check('Compiler', OK, compiler)


def check_cores() -> Check:
    """CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return Check(
            'Cores', WARN, f'{cores}', 'give it 2 or more: a running graph misses control periods on one'
        )
    return Check('Cores', OK, f'{cores}')


def read_memory(meminfo: str, limit: str, used: str) -> tuple[int, int]:
    """
    Memory from the kernel's files.

    :param meminfo: text of /proc/meminfo.
    :param limit: text of the control group's memory.max; empty where there is none.
    :param used: text of the control group's memory.current; empty where there is none.
    :returns: total and available memory [bytes].
    """
    values = {line.split(':')[0]: int(line.split()[1]) * 1024 for line in meminfo.splitlines() if ':' in line}
    total, available = values['MemTotal'], values['MemAvailable']
    if limit.strip().isdigit() and used.strip().isdigit():
        total = min(total, int(limit))
        available = min(available, max(int(limit) - int(used), 0))
    return total, available


def check_memory() -> Check:
    """Memory: the demo needs up to 6 GiB."""
    files = [Path(p) for p in ('/proc/meminfo', '/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current')]
    total, available = read_memory(*(file.read_text() if file.is_file() else '' for file in files))
    found = f'{available / GIB:.1f} of {total / GIB:.1f} GiB available'
    if available < 6 * GIB:
        return Check(
            'Memory', WARN, found, 'the demo needs up to 6 GiB: close programs, or run it with --quick'
        )
    return Check('Memory', OK, found)


def check_disk() -> Check:
    """Disk space where runs and episodes are written."""
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free
    found = f'{free / GIB:.1f} GiB free in {folder}'
    if free < GIB:
        return Check('Disk', FAIL, found, 'free at least 5 GiB: recording stops when the disk is full')
    return Check(
        'Disk', OK if free >= 5 * GIB else WARN, found, '' if free >= 5 * GIB else 'free at least 5 GiB'
    )


def check_shared_memory() -> Check:
    """Shared memory, through which images travel between processes."""
    folder = Path('/dev/shm')
    if not folder.is_dir():
        return Check(
            'Shared memory', WARN, 'no /dev/shm', 'mount a tmpfs on /dev/shm: images are slow without'
        )
    free = shutil.disk_usage(folder).free
    found = f'{free / (1 << 20):.0f} MiB free in /dev/shm'
    if free < 256 << 20:
        return Check('Shared memory', WARN, found, 'give it 256 MiB or more (containers: --shm-size=512m)')
    return Check('Shared memory', OK, found)


def check_onnxruntime() -> Check:
    """Where a policy can run."""
    good, answer = trial('import onnxruntime as o; print(o.__version__, *o.get_available_providers())')
    if not good:
        return Check('ONNX Runtime', FAIL, answer, 'make setup')
    gpu = shutil.which('nvidia-smi') is not None
    if gpu and 'CUDAExecutionProvider' not in answer:
        return Check('ONNX Runtime', WARN, answer, 'the GPU is not used: see docs/dependencies.md, "GPU"')
    return Check('ONNX Runtime', OK, answer)


CHECKS: list[Callable[[], Check]] = [
    check_python,
    check_environment,
    check_packages,
    check_gl,
    check_ros,
    check_interfaces,
    check_compiler,
    check_cores,
    check_memory,
    check_disk,
    check_shared_memory,
    check_onnxruntime,
]


def report(checks: list[Check]) -> None:
    """Print findings as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title='fpo-ros doctor', title_justify='left')
    for heading in ('check', 'status', 'found', 'what to do'):
        table.add_column(heading, overflow='fold')
    colours = {OK: 'green', WARN: 'yellow', FAIL: 'red'}
    for check in checks:
        table.add_row(
            check.name, Text(check.status, style=colours[check.status]), Text(check.found), Text(check.advice)
        )
    Console().print(table)


def doctor(json: bool = False) -> int:
    """
    Check the machine and print the findings.

    :param json: print one JSON object instead of a table.
    :returns: exit status: 1 where a check failed, else 0.
    """
    checks = [check() for check in CHECKS]
    good = all(check.status != FAIL for check in checks)
    if json:
        print(json_module.dumps({'ok': good, 'checks': [asdict(check) for check in checks]}))
    else:
        report(checks)
    return 0 if good else 1
