"""The three descriptions of the package (setup.py, CMakeLists.txt, package.xml) say the same."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from setuptools.errors import ExecError

import fpo_ros

ROOT = Path(__file__).resolve().parents[2]
CMAKE = (ROOT / 'CMakeLists.txt').read_text()
ARMS = ROOT / 'hardware' / 'interbotix_xs_msgs'


def load_toml() -> dict:
    """Return pyproject.toml as a dictionary."""
    try:
        import tomllib
    except ImportError:  # Python 3.10
        from pip._vendor import tomli as tomllib
    return tomllib.loads((ROOT / 'pyproject.toml').read_text())


@pytest.fixture(scope='module')
def setup_py() -> ModuleType:
    """setup.py as a module, without running it."""
    spec = importlib.util.spec_from_file_location('setup_of_fpo_ros', ROOT / 'setup.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_same_version_everywhere():
    project = re.search(r'project\(fpo_ros VERSION ([\d.]+)\)', CMAKE).group(1)
    manifest = ElementTree.parse(ROOT / 'package.xml').findtext('version')
    assert project == manifest == fpo_ros.__version__
    assert load_toml()['tool']['setuptools']['dynamic']['version'] == {'attr': 'fpo_ros.__version__'}


def test_same_executables_and_each_has_a_main(setup_py):
    listed = re.search(r'set\(nodes ([\w\s]+)\)', CMAKE).group(1).split()
    assert listed == setup_py.NODES
    for node in listed:
        code = (ROOT / 'fpo_ros' / 'nodes' / f'{node}.py').read_text()
        assert re.search(r'^def main\(', code, re.MULTILINE), f'fpo_ros/nodes/{node}.py has no main()'
        assert "if __name__ == '__main__':" in code, f'python -m fpo_ros.nodes.{node} would do nothing'


def test_setup_lists_every_folder_that_cmake_installs(setup_py):
    folders = {'fpo_ros': 'fpo_ros', **setup_py.INSIDE}
    for package, folder in folders.items():
        assert (
            f'install(DIRECTORY {folder}/ DESTINATION ${{PYTHON_INSTALL_DIR}}/{package.replace(".", "/")} '
            in CMAKE
        )
    expected = set()
    for package, folder in folders.items():
        for file in (ROOT / folder).rglob('*.py'):
            inner = file.parent.relative_to(ROOT / folder).parts
            if ARMS not in file.parents:
                expected.add('.'.join((package, *inner)))
    assert set(setup_py.packages()) == expected, 'a folder with Python files lacks its __init__.py'


def name_of(requirement: str) -> str:
    """Return the name in a requirement, as indexes spell it."""
    return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', requirement).group()).lower()


def requirements(file: str) -> list[str]:
    """Return the lines of a requirements file that are no comment."""
    return [line for line in (ROOT / file).read_text().splitlines() if line.strip() and not line.startswith('#')]


def test_constraints_pin_every_direct_dependency():
    toml = load_toml()
    wanted = toml['project']['dependencies'] + toml['build-system']['requires'] + ['pip']
    for extra in ('ros', 'scale', 'aloha2', 'dev'):
        wanted += toml['project']['optional-dependencies'][extra]
    pinned = {name_of(line) for line in requirements('constraints.txt') if '==' in line}
    assert {name_of(requirement) for requirement in wanted} <= pinned


def test_the_robot_needs_a_part_of_what_the_package_needs_and_no_torch():
    # >= bounds by name, markers left out
    ours = {name_of(r): re.search(r'>=[\d.]+', r).group() for r in load_toml()['project']['dependencies']}
    robot = requirements('config/requirements-robot.txt')
    for requirement in robot:
        assert re.search(r'>=[\d.]+', requirement).group() == ours[name_of(requirement)], requirement
    assert not {name_of(r) for r in robot} & {'torch', 'onnx', 'onnxscript', 'safetensors', 'matplotlib'}
    wanted = {'numpy', 'onnxruntime', 'opencv-python-headless', 'cryptography', 'numcodecs', 'pyyaml', 'typer', 'rich'}
    assert wanted <= {name_of(r) for r in robot}


def test_manifest_names_what_a_cell_starts_and_a_valid_maintainer():
    from catkin_pkg.package import parse_package

    for folder in (ROOT, ARMS):
        warnings: list[str] = []
        package = parse_package(str(folder / 'package.xml'), warnings=warnings)
        package.validate()
        assert not warnings
        assert [person.email.split('@')[1] for person in package.maintainers] == ['example.org']
    names = {depend.name for depend in parse_package(str(ROOT / 'package.xml')).exec_depends}
    assert names >= {
        'interbotix_xs_msgs', 'interbotix_xs_sdk', 'interbotix_xsarm_control', 'realsense2_camera', 'ros2launch',
        'ament_index_python', 'joy',
    }  # fmt: skip


def test_launch_files_need_nothing_that_only_pip_installs(tmp_path):
    # ros2 launch runs them with the system's Python, which has numpy, yaml and cryptography (package.xml)
    code = (
        'import sys\n'
        'for name in "onnxruntime cv2 numcodecs typer rich torch mujoco av".split():\n'
        '    sys.modules[name] = None  # as if it were not installed\n'
        'from fpo_ros.nodes.graph import GraphOptions, describe, of_release\n'
        'from fpo_ros.policy.contract import PolicyContract\n'
        'import pathlib\n'
        'contract = PolicyContract(observation="state", cameras=())\n'
        'pathlib.Path("contract.json").write_text(contract.to_json())\n'
        'describe(of_release(GraphOptions(mode="sim", policy=".")))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], env={'PATH': '/usr/bin:/bin', 'PYTHONPATH': str(ROOT)}, cwd=tmp_path, text=True,
        timeout=60, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_no_folder_shadows_the_launch_library():
    for folder in ('launch', 'msg', 'srv', 'action', 'config'):
        assert not (ROOT / folder / '__init__.py').exists()


SELF_EXPLAINING = ('std_msgs/Header header', 'bool success', 'string message', 'uint8 state')


@pytest.mark.parametrize(
    'file',
    sorted(
        path
        for folder in (ROOT, ARMS)
        for kind in ('msg', 'srv', 'action')
        for path in (folder / kind).glob(f'*.{kind}')
    ),
    ids=lambda path: path.stem,
)
def test_every_field_of_an_interface_is_explained(file):
    for number, line in enumerate(file.read_text().splitlines(), 1):
        field = line.strip()
        if not field or field.startswith(('#', '---')) or re.match(r'[\w/\[\]]+ \w+ ?=', field):
            continue
        explained = '#' in field or field in SELF_EXPLAINING
        assert explained, f'{file.name}:{number}: say what it is, with its unit: {field}'


def test_missing_generators_are_named_with_a_way_out(setup_py, monkeypatch):
    monkeypatch.setattr(sys, 'path', [])
    with pytest.raises(ExecError, match='rosidl_generator_py.*FPO_ROS_INTERFACES=skip'):
        setup_py.find_generator()


def test_missing_compiler_is_named_with_the_command_that_installs_it(setup_py, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(ExecError, match=r'apt-get install g\+\+'):
        setup_py.require_compiler()


def test_generators_of_another_python_are_not_taken(setup_py, monkeypatch, tmp_path):
    site = tmp_path / 'lib' / 'python3.8' / 'site-packages' / 'rosidl_generator_py'
    site.mkdir(parents=True)
    (site / '__init__.py').touch()
    (tmp_path / 'share' / 'rosidl_generator_py' / 'cmake').mkdir(parents=True)
    monkeypatch.setattr(sys, 'path', [str(site.parent)])
    with pytest.raises(ExecError):
        setup_py.find_generator()


def test_generators_of_the_wheels_are_not_taken_beside_a_sourced_distribution(setup_py, monkeypatch, tmp_path):
    for prefix in ('wheels', 'humble'):
        site = tmp_path / prefix / 'lib' / setup_py.PYTHON / 'site-packages' / 'rosidl_generator_py'
        index = tmp_path / prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
        for folder in (site, index, tmp_path / prefix / 'share' / 'rosidl_generator_py' / 'cmake'):
            folder.mkdir(parents=True)
        (site / '__init__.py').touch()
        (index / 'rcl').touch()
        monkeypatch.setattr(sys, 'path', [str(site.parent)])
        if prefix == 'wheels':
            monkeypatch.setenv('AMENT_PREFIX_PATH', '')
            assert setup_py.find_generator() == tmp_path / 'wheels'
            monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'humble'))
    assert setup_py.find_generator() == tmp_path / 'humble'
    monkeypatch.setattr(sys, 'path', [str(tmp_path / 'wheels' / 'lib' / setup_py.PYTHON / 'site-packages')])
    with pytest.raises(ExecError, match='humble is sourced, but .*colcon'):
        setup_py.find_generator()
