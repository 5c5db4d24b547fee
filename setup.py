"""
Packages of fpo_ros and the build of its interfaces; everything static is in pyproject.toml.

``msg/``, ``srv/`` and ``action/`` become Python modules by ROS 2's generators, which run under CMake.
This file runs the same CMakeLists.txt that colcon uses and hands the result to pip:

* ``pip install .``    generated modules beside the hand-written ones, shared libraries in ``<prefix>/lib``
* ``pip install -e .`` generated modules in ``build/editable-*``, found through ``fpo_ros.pkg`` (pkgutil)

The environment variable FPO_ROS_INTERFACES=skip leaves the interfaces out: learning, simulation, episodes and
releases work without them, the ROS 2 nodes don't.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.build import build
from setuptools.errors import ExecError, SetupError

ROOT = Path(__file__).resolve().parent
ABI = sysconfig.get_config_var('SOABI') or sys.implementation.cache_tag
WORK = ROOT / 'build' / f'interfaces-{ABI}'
EDITABLE = ROOT / 'build' / f'editable-{ABI}'
PYTHON = f'python{sys.version_info.major}.{sys.version_info.minor}'

# Executables of `ros2 run fpo_ros ...`; CMakeLists.txt holds the same list.
NODES = [
    'driver_twin',
    'camera_ingest',
    'proprio_ingest',
    'policy',
    'arm_controller',
    'episode_manager',
    'operator',
    'learner',
    'teleop',
    'gamepad',
    'arms',
]

# sim/ and hardware/ are installed inside the namespace, never as top-level names.
INSIDE = {'fpo_ros.sim': 'sim', 'fpo_ros.hardware': 'hardware'}

HELP = (
    'Ways out: install with build isolation (leave out --no-build-isolation) in a shell without a ROS 2 distribution; '
    'with a distribution, build by colcon (see CONTRIBUTING.md); '
    'or set FPO_ROS_INTERFACES=skip to install without the ROS 2 nodes.'
)


def packages() -> list[str]:
    """Names of all hand-written packages, those of sim/ and hardware/ under fpo_ros."""
    names = find_packages(str(ROOT), include=['fpo_ros', 'fpo_ros.*'])
    names = [name for name in names if name.split('.')[1:2] not in (['msg'], ['srv'], ['action'])]
    for folder in INSIDE.values():
        names += [f'fpo_ros.{name}' for name in find_packages(str(ROOT), include=[folder, f'{folder}.*'])]
    return names


def tree(folder: Path, target: str) -> list[tuple[str, list[str]]]:
    """Entries of data_files that put the files below a folder under ``target``, as setuptools wants them."""
    entries: dict[str, list[str]] = {}
    for file in sorted(folder.rglob('*')):
        if file.is_file() and '__pycache__' not in file.parts:
            to = Path(target, file.parent.relative_to(folder)).as_posix()
            entries.setdefault(to, []).append(file.relative_to(ROOT).as_posix())
    return list(entries.items())


def sourced_distributions() -> list[Path]:
    """Prefixes of ROS 2 that AMENT_PREFIX_PATH names, this Python's own left out."""
    prefixes = [Path(p).resolve() for p in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
    index = Path('share', 'ament_index', 'resource_index', 'packages', 'rcl')
    return [p for p in prefixes if (p / index).is_file() and p != Path(sys.prefix).resolve()]


def find_generator() -> Path:
    """
    Prefix of the ROS 2 interface generators for this Python: of the wheels or of a sourced distribution.

    :raises ExecError: where there is none, or where a distribution is sourced beside the wheels: interfaces that one
        release of ROS 2 generates don't load in another.
    """
    sourced = sourced_distributions()
    for entry in sys.path:
        module = Path(entry or '.').resolve() / 'rosidl_generator_py' / '__init__.py'
        if PYTHON not in module.parts or not module.is_file():
            continue
        for prefix in module.parents:
            if (prefix / 'share' / 'rosidl_generator_py' / 'cmake').is_dir():
                if sourced and prefix not in sourced:
                    raise ExecError(f'{sourced[0]} is sourced, but the generators found are those of {prefix}. {HELP}')
                return prefix
    raise ExecError(f'ROS 2 interface generators (rosidl_generator_py) not found for {PYTHON}. {HELP}')


def find_cmake() -> str:
    """
    CMake of the wheel, else the system's.

    :raises ExecError: where there is none.
    """
    spec = importlib.util.find_spec('cmake')
    if spec and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            program = Path(folder) / 'data' / 'bin' / 'cmake'
            if program.is_file():
                return str(program)
    program = shutil.which('cmake')
    if program is None:
        raise ExecError(f'cmake not found (apt-get install cmake). {HELP}')
    return program


def require_compiler() -> None:
    """
    Check for a C++ compiler and Python's headers.

    :raises ExecError: where one is missing, with the command that installs it.
    """
    if not any(
        shutil.which(name) for name in (os.environ.get('CXX', '').split() or ['c++'])[:1] + ['g++', 'clang++']
    ):
        raise ExecError(f'no C++ compiler found (apt-get install g++). {HELP}')
    header = Path(sysconfig.get_path('include')) / 'Python.h'
    if not header.is_file():
        raise ExecError(f'{header} not found (apt-get install {PYTHON}-dev). {HELP}')


def compile_interfaces(source: Path, stage: Path, prefix: Path) -> None:
    """Configure, build and install one interface package into ``stage`` by CMake."""
    tree_of_build = WORK / 'cmake' / source.name
    origin = tree_of_build / 'origin.txt'
    described = f'{source}\n{prefix}\n{sys.executable}\n'
    if tree_of_build.exists() and (not origin.is_file() or origin.read_text() != described):
        shutil.rmtree(tree_of_build)
    tree_of_build.mkdir(parents=True, exist_ok=True)
    origin.write_text(described)

    environment = {key: value for key, value in os.environ.items() if key != 'DESTDIR'}
    if str(prefix) not in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        environment |= {'AMENT_PREFIX_PATH': str(prefix), 'CMAKE_PREFIX_PATH': str(prefix)}
    cmake = find_cmake()
    for arguments in (
        [
            '-S',
            source,
            '-B',
            tree_of_build,
            f'-DPython3_EXECUTABLE={sys.executable}',
            '-DBUILD_TESTING=OFF',
            '-DFPO_ROS_INTERFACES_ONLY=ON',
            '-DFPO_ROS_CPP_INTERFACES=OFF',
            '--no-warn-unused-cli',
        ],
        ['--build', tree_of_build, '--parallel', str(os.cpu_count() or 1)],
        ['--install', tree_of_build, '--prefix', stage],
    ):
        done = subprocess.run(
            [cmake, *map(str, arguments)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(done.stdout)
            raise ExecError(f'building the interfaces of {source.name} failed (CMake output above). {HELP}')


class BuildInterfaces(Command):
    """Generate and compile the interfaces, and hand them to the wheel that is being built."""

    description = 'build msg/, srv/ and action/ by CMake'
    user_options: list = []

    def initialize_options(self):
        """Set by setuptools: whether the install is editable, and where the modules go."""
        self.editable_mode = False
        self.build_lib = None

    def finalize_options(self):
        """Take the folder of the modules from ``build``."""
        self.set_undefined_options('build', ('build_lib', 'build_lib'))

    def get_source_files(self):
        """Files that belong into the source distribution for this command."""
        folders = ('msg', 'srv', 'action', 'cmake', 'launch', 'config', 'hardware/interbotix_xs_msgs')
        files = [path for folder in folders for path in (ROOT / folder).rglob('*') if path.is_file()]
        return [
            str(path.relative_to(ROOT)) for path in [*files, ROOT / 'CMakeLists.txt', ROOT / 'package.xml']
        ]

    def get_outputs(self):
        """Nothing that setuptools would have to link in an editable install."""
        return []

    def get_output_mapping(self):
        """Nothing that setuptools would have to link in an editable install."""
        return {}

    def run(self):
        """Build, then place modules, shared libraries and package index entries."""
        switch = os.environ.get('FPO_ROS_INTERFACES', 'build')
        if switch == 'skip':
            self.announce('FPO_ROS_INTERFACES=skip: installing without interfaces and ROS 2 nodes', level=3)
            return
        if switch != 'build':
            raise SetupError(f'FPO_ROS_INTERFACES={switch}: must be "build" or "skip"')
        prefix = find_generator()
        require_compiler()
        sources = [ROOT]
        if not self.system_has('interbotix_xs_msgs', prefix):
            sources.append(ROOT / 'hardware' / 'interbotix_xs_msgs')
        stage = WORK / 'stage'
        shutil.rmtree(stage, ignore_errors=True)
        for source in sources:
            compile_interfaces(source, stage, prefix)
        self.place_modules(stage)
        self.place_data(stage)

    def system_has(self, package: str, own: Path) -> bool:
        """Whether a sourced ROS 2 system, other than the generators' wheels, has the package."""
        prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
        index = Path('share', 'ament_index', 'resource_index', 'packages', package)
        wheels = {own.resolve(), Path(sys.prefix).resolve()}
        return any(Path(p, index).is_file() for p in prefixes if p and Path(p).resolve() not in wheels)

    def place_modules(self, stage: Path) -> None:
        """Put the generated modules into the wheel, or into ``build/editable-*`` for an editable install."""
        ignore = shutil.ignore_patterns('*.c', '__pycache__', '*.egg-info')
        for init in stage.rglob('msg/__init__.py'):
            package = init.parent.parent
            name = package.name
            if name != 'fpo_ros':
                target = Path(
                    self.get_finalized_command('install').install_lib
                    if self.editable_mode
                    else self.build_lib
                )
                shutil.copytree(package, target / name, ignore=ignore, dirs_exist_ok=True)
                continue
            (package / '__init__.py').unlink(missing_ok=True)
            if self.editable_mode:
                self.place_editable(package, ignore)
            else:
                shutil.copytree(package, Path(self.build_lib) / name, ignore=ignore, dirs_exist_ok=True)

    def place_editable(self, package: Path, ignore) -> None:
        """Replace ``build/editable-*`` at once, since running processes may hold the old libraries open."""
        fresh, old = EDITABLE.with_suffix('.new'), EDITABLE.with_suffix('.old')
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(package, fresh / 'fpo_ros', ignore=ignore)
        if EDITABLE.exists():
            EDITABLE.rename(old)
        fresh.rename(EDITABLE)
        shutil.rmtree(old, ignore_errors=True)
        site = Path(self.get_finalized_command('install').install_lib)
        site.mkdir(parents=True, exist_ok=True)
        (site / 'fpo_ros.pkg').write_text(f'{EDITABLE / "fpo_ros"}\n')

    def place_data(self, stage: Path) -> None:
        """Add libraries, index entries, launch files and executables, relative to the prefix."""
        for entry in ('cmake', 'environment', 'local_setup.*', 'package.dsv'):
            for path in list((stage / 'share').glob(f'*/{entry}')):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(stage / 'share/ament_index/resource_index/parent_prefix_path', ignore_errors=True)
        nodes = stage / 'lib' / 'fpo_ros'
        nodes.mkdir(parents=True, exist_ok=True)
        for name, module in {'fpo-ros': 'cli', **{node: f'nodes.{node}' for node in NODES}}.items():
            script = nodes / name
            script.write_text(
                '#!/bin/sh\n'
                'python=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)/bin/python3\n'
                '[ -x "$python" ] || python=python3  # installed for a user, who has no Python of their own\n'
                f'exec "$python" -m fpo_ros.environment fpo_ros.{module} "$@"\n'
            )
            script.chmod(0o755)
        files = [('lib', [p.relative_to(ROOT).as_posix() for p in sorted(stage.glob('lib/*.so'))])]
        files += tree(nodes, 'lib/fpo_ros') + tree(stage / 'share', 'share')
        for folder in ('launch', 'config'):
            files += tree(ROOT / folder, f'share/fpo_ros/{folder}')
        self.distribution.data_files = files
        if self.editable_mode:  # setuptools places data files by itself in normal installs only
            target = Path(self.get_finalized_command('install').install_data)
            for folder, names in files:
                (target / folder).mkdir(parents=True, exist_ok=True)
                for name in names:
                    shutil.copy2(ROOT / name, target / folder)


class Build(build):
    """``build`` with the interfaces as one more part."""

    sub_commands = [*build.sub_commands, ('build_interfaces', None)]

    def run(self):
        """Build a wheel in an empty folder: what an earlier build left there would get into it."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class PlatformDistribution(Distribution):
    """A distribution whose wheel is bound to this platform, since it holds compiled type support."""

    def has_ext_modules(self):
        """Whether the wheel is bound to a platform: only with interfaces."""
        return os.environ.get('FPO_ROS_INTERFACES', 'build') != 'skip'


if __name__ == '__main__':
    setup(
        distclass=PlatformDistribution,
        cmdclass={'build': Build, 'build_interfaces': BuildInterfaces},
        packages=packages(),
        package_dir=INSIDE,
        package_data={'': ['py.typed', '*.j2', '*.html', '*.css', '*.js', '*.xml', '*.yaml', '*.json', '*.txt'],
                      'fpo_ros.policies': ['*/policy.json', '*/policy.safetensors', '*/start.json']},
    )
