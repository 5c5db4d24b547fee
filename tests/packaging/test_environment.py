"""A sourced ROS 2 distribution and the home directory stay out of what fpo-ros does in a clone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpo_ros import environment

ROOT = Path(__file__).resolve().parents[2]


def make_prefix(folder: Path, *packages: str) -> Path:
    """A prefix as a ROS 2 distribution or a workspace has it."""
    index = folder / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    for package in packages:
        (index / package).touch()
    (folder / 'lib' / 'python3' / 'site-packages').mkdir(parents=True)
    return folder


@pytest.fixture
def sourced(tmp_path) -> dict[str, str]:
    """What a shell has after sourcing a distribution, a workspace on it, and CUDA."""
    distribution = make_prefix(tmp_path / 'ros' / 'humble', 'rcl', 'rclpy')
    workspace = make_prefix(tmp_path / 'ws' / 'install' / 'things', 'things')
    prefixes = f'{workspace}:{distribution}'
    return {
        'PYTHONPATH': f'{workspace}/lib/python3/site-packages:{distribution}/lib/python3/site-packages:{tmp_path}/own',
        'LD_LIBRARY_PATH': f'{distribution}/opt/vendor/lib:{distribution}/lib:{tmp_path}/cuda/lib64',
        'AMENT_PREFIX_PATH': prefixes,
        'AMENT_CURRENT_PREFIX': str(distribution),
        'CMAKE_PREFIX_PATH': prefixes,
        'COLCON_PREFIX_PATH': str(tmp_path / 'ws' / 'install'),
        'ROS_DISTRO': 'humble',
        'ROS_VERSION': '2',
        'ROS_DOMAIN_ID': '7',
        'RMW_IMPLEMENTATION': 'rmw_of_nobody_cpp',
        '_ROS_WHEELS_BOOTSTRAP_COMPLETE': '1',
        'KEPT': 'yes',
    }


@pytest.fixture
def wheels(monkeypatch) -> None:
    monkeypatch.setattr(environment, 'has_wheels', lambda: True)


def test_a_distribution_is_found_by_whatever_leads_to_it(sourced, tmp_path, wheels):
    humble = str(tmp_path / 'ros' / 'humble')
    assert environment.distributions(sourced) == [humble]
    for name in ('PYTHONPATH', 'LD_LIBRARY_PATH', 'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH'):
        assert environment.distributions({name: sourced[name]}) == [humble], name


def test_a_distribution_is_no_stranger_where_there_are_no_wheels(sourced, monkeypatch):
    monkeypatch.setattr(environment, 'has_wheels', lambda: False)
    assert environment.distributions(sourced) == []


def test_a_workspace_built_on_the_wheels_is_no_distribution(tmp_path, wheels):
    prefix = make_prefix(tmp_path / 'install' / 'fpo_ros', 'fpo_ros')
    variables = {'AMENT_PREFIX_PATH': f'{prefix}:{sys.prefix}', 'PYTHONPATH': f'{prefix}/lib', 'LD_LIBRARY_PATH': ''}
    assert environment.distributions(variables) == []


def test_only_what_belongs_to_another_ros_is_left_out(sourced, tmp_path):
    assert environment.without_distributions(sourced) == {
        'PYTHONPATH': f'{tmp_path}/own', 'LD_LIBRARY_PATH': f'{tmp_path}/cuda/lib64', 'ROS_DOMAIN_ID': '7',
        'KEPT': 'yes',
    }  # fmt: skip


def test_the_process_starts_anew_once(sourced, monkeypatch, wheels, capsys):
    started = []
    monkeypatch.setattr(environment.os, 'execve', lambda *arguments: started.append(arguments))
    for name, value in sourced.items():
        monkeypatch.setenv(name, value)
    environment.isolate()
    (program, arguments, variables), = started
    assert (program, arguments) == (sys.executable, sys.orig_argv)
    assert variables['KEPT'] == 'yes' and not environment.distributions(variables)
    assert 'humble' in capsys.readouterr().err
    monkeypatch.setenv(environment.MARK, variables[environment.MARK])  # what the new process has: the same number
    environment.isolate()
    assert len(started) == 1
    assert environment.left_out() == [sourced['AMENT_CURRENT_PREFIX']]


def test_nothing_is_started_anew_without_a_distribution(monkeypatch, wheels):
    monkeypatch.setattr(environment.os, 'execve', lambda *arguments: pytest.fail('started anew'))
    for name in (*environment.SEARCH_PATHS, 'AMENT_PREFIX_PATH', 'CMAKE_PREFIX_PATH'):
        monkeypatch.delenv(name, raising=False)
    environment.isolate()


@pytest.mark.ros
@pytest.mark.skipif(not environment.has_wheels(), reason='ROS 2 is not from wheels')
def test_a_real_process_gets_through_with_its_arguments(sourced, tmp_path):
    broken = tmp_path / 'ros' / 'humble' / 'lib' / 'python3' / 'site-packages' / 'rclpy'
    broken.mkdir()
    (broken / '__init__.py').write_text('raise ImportError("the rclpy of another release")\n')
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / 'shows.py').write_text('import sys, rclpy\nprint(rclpy.__file__, *sys.argv[1:], sep="\\n")\n')
    done = subprocess.run(
        [sys.executable, '-m', 'fpo_ros.environment', 'shows', 'a b', '--json'], cwd=ROOT, text=True, timeout=60,
        env={'PATH': '/usr/bin:/bin', **sourced}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    module, *arguments = done.stdout.splitlines()
    assert Path(module).is_relative_to(sys.prefix)
    assert arguments == ['a b', '--json']
    assert done.stderr.count('leaving out') == 1


def test_libraries_write_below_the_clone_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, 'checkout', lambda: tmp_path)
    for name in (*environment.FOLDERS, 'ROS_HOME', 'ORT_DISABLE_TELEMETRY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MPLCONFIGDIR', '/elsewhere')
    environment.write_below_checkout()
    assert os.environ['ROS_LOG_DIR'] == str(tmp_path / '.cache' / 'ros' / 'log')
    assert Path(os.environ['MESA_SHADER_CACHE_DIR']).is_dir()
    assert os.environ['MPLCONFIGDIR'] == '/elsewhere'
    assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'


def test_an_installed_package_leaves_the_choice_to_the_libraries(monkeypatch):
    monkeypatch.setattr(environment, 'checkout', lambda: None)
    for name in (*environment.FOLDERS, 'ROS_HOME'):
        monkeypatch.delenv(name, raising=False)
    environment.write_below_checkout()
    assert not set(environment.FOLDERS) & set(os.environ)


@pytest.mark.ros
def test_nothing_gets_into_the_home_directory(tmp_path):
    code = (
        'from fpo_ros import environment as e; e.isolate(); e.write_below_checkout()\n'
        'import matplotlib.pyplot, onnxruntime, rclpy\n'
        'rclpy.init(); node = rclpy.create_node("tidy"); node.get_logger().info("hello"); rclpy.shutdown()\n'
        'from fpo_ros.doctor import RENDER\n'
        'from fpo_ros import gl\n'
        'if gl.select_backend(): exec(RENDER)\n'
    )
    known = {*environment.FOLDERS, 'ROS_HOME', 'XDG_CACHE_HOME'}
    inherited = {name: value for name, value in os.environ.items() if name not in known}
    done = subprocess.run(
        [sys.executable, '-c', code], env={**inherited, 'HOME': str(tmp_path)}, cwd=ROOT, text=True, timeout=90,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [str(path) for path in tmp_path.rglob('*') if path.is_file()] == []
