from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from fpo_ros import doctor as module
from fpo_ros import gl
from fpo_ros.doctor import FAIL, GIB, OK, WARN, Check, doctor, read_memory

MEMINFO = 'MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n'
Usage = namedtuple('Usage', 'total used free')


def test_rendering_works_here_or_says_how_to_get_it():
    check = module.check_gl()
    if check.status == FAIL:
        assert 'apt-get install' in check.advice
        pytest.skip(f'no GL on this machine: {check.found}')
    assert check.status == OK, check


def test_backend_that_does_not_render_is_replaced_by_one_that_does(monkeypatch):
    monkeypatch.setenv('MUJOCO_GL', 'egl')
    monkeypatch.setattr(module, 'trial', lambda code, MUJOCO_GL: (MUJOCO_GL == 'osmesa', 'answer'))
    check = module.check_gl()
    assert (check.status, check.advice) == (WARN, 'export MUJOCO_GL=osmesa')


def test_no_backend_renders(monkeypatch):
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    monkeypatch.setattr(module, 'trial', lambda code, MUJOCO_GL: (False, f'no {MUJOCO_GL}'))
    check = module.check_gl()
    assert check.status == FAIL
    assert 'no egl' in check.found and 'no osmesa' in check.found
    assert gl.INSTALL in check.advice


@pytest.mark.ros
def test_messages_travel_and_interfaces_are_there():
    assert module.check_ros().status == OK
    assert module.check_interfaces().status == OK


@pytest.mark.ros
def test_unknown_middleware_is_named(monkeypatch):
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_of_nobody_cpp')
    check = module.check_ros()
    assert check.status == FAIL
    assert 'unset RMW_IMPLEMENTATION (is rmw_of_nobody_cpp)' in check.advice


def test_memory_is_that_of_the_machine_or_of_its_container():
    assert read_memory(MEMINFO, '', '') == (16000000 * 1024, 8000000 * 1024)
    assert read_memory(MEMINFO, 'max\n', '123\n') == (16000000 * 1024, 8000000 * 1024)
    assert read_memory(MEMINFO, f'{4 * GIB}\n', f'{3 * GIB}\n') == (4 * GIB, GIB)
    assert read_memory(MEMINFO, f'{4 * GIB}', f'{5 * GIB}') == (4 * GIB, 0)


@pytest.mark.parametrize('free, status', [(0.5 * GIB, FAIL), (2 * GIB, WARN), (50 * GIB, OK)])
def test_disk(monkeypatch, free, status):
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda folder: Usage(100 * GIB, 0, free))
    check = module.check_disk()
    assert check.status == status
    assert bool(check.advice) == (status != OK)


@pytest.mark.parametrize('cores, status', [({0}, WARN), ({0, 1}, OK)])
def test_cores(monkeypatch, cores, status):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: cores)
    assert module.check_cores().status == status


@pytest.mark.parametrize(
    'version, status', [((3, 9, 1), FAIL), ((3, 10, 0), OK), ((3, 13, 5), OK), ((3, 14, 0), WARN)]
)
def test_python_version(monkeypatch, version, status):
    monkeypatch.setattr(module.sys, 'version_info', version)
    assert module.check_python().status == status


def test_missing_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    check = module.check_compiler()
    assert check.status == WARN
    assert 'apt-get install g++' in check.advice


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(
        module.importlib.metadata,
        'requires',
        lambda name: [
            'numpy>=1',
            'surely-not-installed>=2; python_version >= "3.9"',
            'not-for-this-python>=2; python_version < "3.9"',
            'ray>=2; extra == "scale"',
        ],
    )
    check = module.check_packages()
    assert (check.status, check.found) == (FAIL, 'missing: surely-not-installed')


def test_the_gpu_package_takes_the_place_of_onnxruntime(monkeypatch):
    monkeypatch.setattr(module.importlib.metadata, 'requires', lambda name: ['onnxruntime>=1', 'rich>=1'])
    monkeypatch.setattr(module, 'has_package', lambda name: name in ('onnxruntime-gpu', 'rich'))
    assert module.check_packages() == Check('Packages', OK, '2 required packages')


def test_a_package_that_colcon_installed_is_checked_for_what_the_robot_needs(monkeypatch):
    monkeypatch.setattr(module.importlib.metadata, 'requires', lambda name: None)
    monkeypatch.setattr(module, 'has_package', lambda name: name != 'typer')
    check = module.check_packages()
    assert (check.status, check.found) == (FAIL, 'missing: typer')
    assert 'pip install -r' in check.advice and 'requirements-robot.txt' in check.advice


def test_another_ros_in_the_environment_is_named(monkeypatch):
    monkeypatch.setattr(module.environment, 'distributions', lambda variables: ['/opt/ros/humble'])
    check = module.check_environment()
    assert check.status == WARN and '/opt/ros/humble' in check.found and check.advice
    monkeypatch.setattr(module.environment, 'distributions', lambda variables: [])
    monkeypatch.setenv(module.environment.MARK, '1:/opt/ros/humble')
    assert module.check_environment() == Check('Environment', OK, '/opt/ros/humble is sourced and left out')
    monkeypatch.delenv(module.environment.MARK)
    assert module.check_environment().status == OK


@pytest.mark.parametrize('status, code', [(OK, 0), (WARN, 0), (FAIL, 1)])
def test_exit_status_and_json(monkeypatch, capsys, status, code):
    monkeypatch.setattr(module, 'CHECKS', [lambda: Check('thing', status, 'found [1]', 'do this')])
    assert doctor(json=True) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        'ok': code == 0,
        'checks': [{'name': 'thing', 'status': status, 'found': 'found [1]', 'advice': 'do this'}],
    }
    assert doctor() == code
    assert 'do this' in capsys.readouterr().out


def test_graphics_backend_is_chosen_once_and_never_overridden(monkeypatch):
    monkeypatch.setattr(gl.ctypes.util, 'find_library', {'OSMesa': 'libOSMesa.so.8'}.get)
    monkeypatch.delenv('MUJOCO_GL', raising=False)
    assert gl.select_backend() == os.environ['MUJOCO_GL'] == 'osmesa'
    monkeypatch.setattr(gl.ctypes.util, 'find_library', lambda name: 'lib.so')
    assert gl.select_backend() == 'osmesa'
    monkeypatch.setenv('MUJOCO_GL', 'glfw')
    assert gl.select_backend() == 'glfw'


def test_no_graphics_library_leaves_the_choice_open(monkeypatch):
    monkeypatch.setattr(gl.ctypes.util, 'find_library', lambda name: None)
    monkeypatch.setenv('MUJOCO_GL', '')
    assert gl.select_backend() is None


def test_doctor_imports_neither_torch_nor_ros():
    code = 'import sys, fpo_ros.doctor; print(*{"torch", "rclpy", "mujoco"} & set(sys.modules))'
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=True, cwd=root
    )
    assert done.stdout.strip() == ''
