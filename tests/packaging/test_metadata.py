"""The three descriptions of the package (setup.py, CMakeLists.txt, package.xml) say the same."""

from __future__ import annotations

import importlib.util
import re
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
    listed = re.search(r'set\(nodes ([\w ]+)\)', CMAKE).group(1).split()
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


def test_constraints_pin_every_direct_dependency():
    project = load_toml()['project']
    wanted = project['dependencies'] + [
        r for extra in ('ros', 'dev') for r in project['optional-dependencies'][extra]
    ]
    pinned = {
        re.sub(r'[-_.]+', '-', line.split('==')[0]).lower()
        for line in (ROOT / 'constraints.txt').read_text().splitlines()
        if '==' in line
    }
    names = {re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', r).group()).lower() for r in wanted}
    assert names <= pinned


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
