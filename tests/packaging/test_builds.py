"""The package builds by pip, editable and by colcon; interfaces and hand-written modules import together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    'fpo_ros',
    'sim',
    'hardware',
    'msg',
    'srv',
    'action',
    'launch',
    'config',
    'cmake',
    'CMakeLists.txt',
    'package.xml',
    'setup.py',
    'pyproject.toml',
    'README.md',
    'LICENSE',
]
#: Interfaces that are built, one of each kind with fields of another package's among them: all of them are compiled
#: where this environment is made, for which several times the work is done.
KEPT = {'ActionChunk.msg', 'ResetScene.srv', 'RunEpisode.action', 'JointGroupCommand.msg', 'Reboot.srv'}
NODES = set(re.search(r'set\(nodes ([\w\s]+)\)', (ROOT / 'CMakeLists.txt').read_text()).group(1).split())
PYTHON = f'python{sys.version_info.major}.{sys.version_info.minor}'

pytestmark = [
    pytest.mark.ros,
    pytest.mark.packaging,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which('c++') and not shutil.which('g++'), reason='no C++ compiler'),
    pytest.mark.skipif(
        not Path(sys.prefix, 'share/rosidl_generator_py').is_dir(),
        reason='the interface generators are not installed in this environment',
    ),
]

# Prints where each kind of module came from, and publishes one message through the compiled type support.
IMPORTS = """
import importlib.util, sys
import fpo_ros.msg, fpo_ros.srv, fpo_ros.action, fpo_ros.policy.contract, fpo_ros.sim, fpo_ros.hardware
from fpo_ros.msg import ActionChunk
for name in ('sim', 'hardware'):
    if importlib.util.find_spec(name):
        raise SystemExit(f'{name} is importable as a top-level name')
import rclpy
rclpy.init()
node = rclpy.create_node('packaging')
node.create_publisher(ActionChunk, 'chunks', 1).publish(ActionChunk(actions=[1.0, 2.0]))
rclpy.shutdown()
for module in ('fpo_ros', 'fpo_ros.msg', 'fpo_ros.policy.contract', 'fpo_ros.sim', 'fpo_ros.hardware'):
    print(sys.modules[module].__file__)
"""


def call(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command outside of the checkout and return what it printed; fail with its output."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key not in ('PYTHONPATH', 'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH', 'FPO_ROS_INTERFACES')
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        text=True,
        capture_output=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, f'{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}'
    return done.stdout


def libraries(*prefixes: Path) -> dict[str, str]:
    """Environment in which the shared libraries of these prefixes and of the running Python are found."""
    folders = [str(prefix / 'lib') for prefix in (*prefixes, Path(sys.prefix))]
    return {
        'LD_LIBRARY_PATH': os.pathsep.join([*folders, os.environ.get('LD_LIBRARY_PATH', '')]),
        '_ROS_WHEELS_BOOTSTRAP_COMPLETE': '1',
    }


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """A copy of the sources, as a fresh clone has them, with some of the interfaces."""
    folder = tmp_path_factory.mktemp('clone')
    ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, folder / name)
    interfaces = [path for path in folder.rglob('*') if path.suffix in ('.msg', '.srv', '.action')]
    assert {path.name for path in interfaces} > KEPT
    for path in interfaces:
        if path.name not in KEPT:
            path.unlink()
    return folder


def make_environment(folder: Path) -> Path:
    """Make a virtual environment that also sees the packages of the running one, and return its Python."""
    call(sys.executable, '-m', 'venv', '--without-pip', folder, cwd=folder.parent)
    site = folder / 'lib' / PYTHON / 'site-packages'
    (site / 'parent.pth').write_text(sysconfig.get_path('platlib') + '\n')
    return folder / 'bin' / 'python'


def install(python: Path, *arguments: object, cwd: Path, **environment: str) -> None:
    call(
        sys.executable,
        '-m',
        'pip',
        '--python',
        python,
        'install',
        '--no-deps',
        '--no-build-isolation',
        '--no-index',
        *arguments,
        cwd=cwd,
        **libraries(),
        **environment,
    )


def modules(prefix: Path) -> set[str]:
    """Modules in an installation and the files that lie beside them, without what the compiler made."""
    package = prefix / 'lib' / PYTHON / 'site-packages' / 'fpo_ros'
    files = {path.relative_to(package) for path in package.rglob('*') if path.is_file()}
    return {str(file) for file in files if file.suffix not in ('.c', '.so', '.pyc')}


@pytest.fixture(scope='module')
def environment(tmp_path_factory) -> Path:
    """Prefix of a virtual environment: one for all pip installs, so that they share what they compile."""
    prefix = tmp_path_factory.mktemp('environment') / 'venv'
    make_environment(prefix)
    return prefix


@pytest.fixture(scope='module')
def pip_modules(source, environment) -> set[str]:
    """Modules that ``pip install .`` installs."""
    built = source / 'build' / f'lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}' / 'fpo_ros'
    built.mkdir(parents=True)
    (built / 'removed_since.py').touch()  # an earlier build's, of a module that is gone
    install(environment / 'bin' / 'python', source, cwd=environment)
    return modules(environment)


def test_pip_install(environment, pip_modules):
    python = environment / 'bin' / 'python'
    files = call(python, '-c', IMPORTS, cwd=environment, **libraries(environment)).splitlines()
    assert len(files) == 5
    assert all(Path(file).is_relative_to(environment) for file in files), files
    code = 'import interbotix_xs_msgs.msg as m; print(m.__file__)'
    assert Path(call(python, '-c', code, cwd=environment, **libraries(environment)).strip()).is_relative_to(
        environment
    )
    installed = {
        path.name for path in (environment / 'lib' / 'fpo_ros').iterdir() if os.access(path, os.X_OK)
    }
    assert installed == NODES | {'fpo-ros'}
    for command in (environment / 'bin' / 'fpo-ros', environment / 'lib' / 'fpo_ros' / 'fpo-ros'):
        assert 'doctor' in call(command, '--help', cwd=environment, **libraries(environment))
    assert not [name for name in pip_modules if 'removed_since' in name]
    assert 'py.typed' in pip_modules
    assert list(environment.glob('lib/*/site-packages/fpo_ros-*.dist-info/licenses/LICENSE'))
    share = environment / 'share' / 'fpo_ros'
    assert (share / 'package.xml').is_file()
    assert {p.name for p in (ROOT / 'launch').glob('*.py')} <= {p.name for p in (share / 'launch').glob('*')}
    assert (environment / 'share/ament_index/resource_index/packages/fpo_ros').is_file()


def test_pip_install_editable(source, environment, pip_modules, tmp_path):
    python = environment / 'bin' / 'python'
    install(python, '-e', source, cwd=tmp_path)
    files = call(python, '-c', IMPORTS, cwd=tmp_path, **libraries(environment)).splitlines()
    assert len(files) == 5
    assert all(Path(file).is_relative_to(source) for file in files), files
    # a module added later needs no new install
    (source / 'sim' / 'added_later.py').write_text('value = 7\n')
    code = 'import fpo_ros.sim.added_later as m; print(m.value)'
    later = call(python, '-c', code, cwd=tmp_path, **libraries(environment))
    (source / 'sim' / 'added_later.py').unlink()
    assert later.strip() == '7'
    call(
        sys.executable,
        '-m',
        'pip',
        '--python',
        python,
        'uninstall',
        '--yes',
        'fpo_ros',
        cwd=tmp_path,
        **libraries(),
    )
    assert not list(environment.rglob('*fpo_ros*'))


def test_pip_install_without_interfaces(source, tmp_path):
    prefix = tmp_path / 'venv'
    python = make_environment(prefix)
    install(python, source, cwd=tmp_path, FPO_ROS_INTERFACES='skip')
    (prefix / 'lib' / PYTHON / 'site-packages' / 'parent.pth').unlink()
    code = 'import fpo_ros, importlib.util as u; print(fpo_ros.__file__, u.find_spec("fpo_ros.msg"))'
    file, spec = call(python, '-c', code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(prefix)
    assert spec == 'None'


@pytest.fixture(scope='module')
def workspace(source, tmp_path_factory) -> Path:
    """A colcon workspace, built once with copies and once with links; both share the compiled interfaces."""
    folder = tmp_path_factory.mktemp('workspace')
    scripts = str(Path(sys.executable).parent)
    for name, option in (('copied', []), ('linked', ['--symlink-install'])):
        # a folder in the one, a link in the other
        shutil.rmtree(folder / 'build' / 'fpo_ros' / 'ament_cmake_python', ignore_errors=True)
        call(
            Path(scripts, 'colcon'),
            '--log-base',
            folder / 'log',
            'build',
            *option,
            '--base-paths',
            source,
            '--build-base',
            folder / 'build',
            '--install-base',
            folder / name,
            '--packages-select',
            'fpo_ros',
            '--cmake-args',
            f'-DPython3_EXECUTABLE={sys.executable}',
            '-DFPO_ROS_CPP_INTERFACES=OFF',
            '-DBUILD_TESTING=OFF',
            cwd=folder,  # the same command is in CONTRIBUTING.md
            PATH=scripts + os.pathsep + os.environ['PATH'],
            COLCON_HOME=str(folder / 'home'),
            AMENT_PREFIX_PATH=sys.prefix,
            CMAKE_PREFIX_PATH=sys.prefix,
        )
    return folder


@pytest.mark.parametrize('name', ['copied', 'linked'])
def test_colcon_build(workspace, source, name):
    prefix = workspace / name / 'fpo_ros'
    site = prefix / 'lib' / PYTHON / 'site-packages'
    sourced = ['bash', '-c', f'. "{prefix.parent}/setup.bash" && exec "$0" "$@"']
    # colcon's scripts start a Python whose path has no spaces; any will do
    plain = {'COLCON_PYTHON_EXECUTABLE': os.path.realpath(sys.executable)}
    files = call(*sourced, sys.executable, '-c', IMPORTS, cwd=workspace, **plain).splitlines()
    assert len(files) == 5
    assert all(Path(file).is_relative_to(prefix) for file in files), files
    contract = site / 'fpo_ros' / 'policy' / 'contract.py'
    assert contract.is_symlink() == (name == 'linked')
    assert contract.resolve().is_relative_to(source if name == 'linked' else prefix)
    assert not (site / 'sim').exists() and not (site / 'hardware').exists()
    assert not (site / 'fpo_ros' / 'hardware' / 'interbotix_xs_msgs').exists()
    installed = {path.name for path in (prefix / 'lib' / 'fpo_ros').iterdir() if os.access(path, os.X_OK)}
    assert installed == NODES | {'fpo-ros'}
    assert 'doctor' in call(*sourced, prefix / 'lib' / 'fpo_ros' / 'fpo-ros', '--help', cwd=workspace, **plain)


def test_pip_and_colcon_install_the_same_modules(pip_modules, workspace):
    assert pip_modules == modules(workspace / 'copied' / 'fpo_ros')
