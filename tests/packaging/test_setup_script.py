"""``make`` and ``.ci/setup`` find what the system lacks, repair what is broken, and keep to the clone."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ('bash', 'cat', 'dirname', 'env', 'flock', 'mkdir', 'rm', 'tr')


def stub(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f'#!/bin/bash\n{body}\n')
    file.chmod(0o755)


@pytest.fixture
def machine(tmp_path) -> Path:
    """A clone and a PATH on which there is no compiler and no GL library, with a stub of each system tool."""
    clone = tmp_path / 'my clone'
    (clone / '.ci').mkdir(parents=True)
    shutil.copy2(ROOT / '.ci' / 'setup', clone / '.ci')
    shutil.copy2(ROOT / 'Makefile', clone)
    programs = tmp_path / 'bin'
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool))
    stub(programs, 'ldconfig', 'echo "libm.so.6 => /lib/libm.so.6"')
    stub(programs, 'python3.11', 'exit 0')  # a Python that has all it should have
    stub(programs, 'id', 'echo 1000')
    return tmp_path


def run_setup(machine: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [machine / 'my clone' / '.ci' / 'setup', *arguments], env={'PATH': str(machine / 'bin'), **variables},
        text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def with_apt(machine: Path, user: int, apt: str) -> Path:
    stub(machine / 'bin', 'id', f'echo {user}')
    stub(machine / 'bin', 'apt-get', f'echo "$*" >> {machine}/apt.log\n{apt}')
    return machine / 'apt.log'


def make_venv(machine: Path, base: str = '/usr/bin/python3.11') -> Path:
    """A virtual environment that a finished set-up left; its Python says that it was made from ``base``."""
    clone = machine / 'my clone'
    (clone / '.venv' / 'bin').mkdir(parents=True)
    stub(clone / '.venv' / 'bin', 'python', f'[[ "$*" == *_base_executable* ]] && echo {base}; exit 0')
    (clone / '.venv' / 'setup.stamp').write_text(f'{clone}\n')
    return clone


def test_a_user_is_told_the_command(machine):
    log = with_apt(machine, 1000, 'exit 0')
    done = run_setup(machine)
    assert done.returncode == 1
    assert 'sudo apt-get update && sudo apt-get ' in done.stderr
    assert 'install -y --no-install-recommends g++ libegl1 libopengl0' in done.stderr
    assert not log.exists()
    assert not (machine / 'my clone' / '.venv').exists()


def test_root_installs_and_is_told_when_that_fails(machine):
    log = with_apt(machine, 0, 'exit 1')
    done = run_setup(machine)
    assert done.returncode == 1
    assert 'could not install system packages: apt-get update && apt-get' in done.stderr
    first, second = log.read_text().splitlines()  # not found at first, so lists are updated
    assert 'install -y --no-install-recommends g++ libegl1' in first
    assert second == 'update'


def test_libraries_are_found_in_a_long_list(machine):
    # longer than a pipe holds: a reader that stops at the first hit must not end the writer
    stub(
        machine / 'bin', 'ldconfig',
        'echo libEGL.so.1; echo libOpenGL.so.0; for ((i = 0; i < 9999; i++)); do echo libx.so; done',
    )  # fmt: skip
    for _ in range(5):
        assert 'libegl1' not in run_setup(machine).stderr


def test_a_python_that_is_too_old_is_not_used(machine):
    stub(machine / 'bin', 'python3.11', 'exit 1')
    done = run_setup(machine)
    assert done.returncode == 1
    assert 'python3 python3-venv python3-dev' in done.stderr
    stub(machine / 'bin', 'python3', '[[ "$*" == *print* ]] && { echo python3.8; exit 0; }; exit 1')
    done = run_setup(machine)
    assert 'no Python 3.10 to 3.13 found (python3 is python3.8)' in done.stderr
    assert 'make setup PYTHON=' in done.stderr


def test_a_python_that_was_asked_for_and_is_unusable_is_named(machine):
    done = run_setup(machine, PYTHON='/no such/python3')
    assert done.returncode == 1
    assert 'PYTHON=/no such/python3 (which does not start) is no Python 3.10 to 3.13' in done.stderr


def test_make_repeats_a_set_up_only_where_something_changed(machine):
    clone = machine / 'my clone'
    for name in ('pyproject.toml', 'setup.py', 'constraints.txt', 'CMakeLists.txt', 'package.xml'):
        (clone / name).touch()
    stamp = make_venv(machine) / '.venv' / 'setup.stamp'

    def is_done() -> bool:
        return subprocess.run(['make', '-q', 'setup'], cwd=clone, timeout=60, check=False).returncode == 0

    assert is_done()
    os.utime(clone / 'package.xml', (stamp.stat().st_mtime + 5,) * 2)
    assert not is_done()
    os.utime(clone / 'package.xml', (0, 0))
    assert is_done()
    clone.rename(machine / 'moved')
    clone = machine / 'moved'
    assert not is_done()


def test_a_venv_that_does_not_start_is_set_up_again(machine):
    clone = make_venv(machine)
    (clone / '.venv' / 'bin' / 'python').unlink()
    (clone / '.venv' / 'bin' / 'python').symlink_to('/removed/python3')
    assert run_setup(machine, '--check').returncode != 0


def test_another_python_than_asked_for_is_set_up_again(machine):
    make_venv(machine, base='/usr/bin/python3.11')
    stub(machine / 'bin', 'asked', 'echo /usr/bin/python3.11')
    assert run_setup(machine, '--check', PYTHON='asked').returncode == 0
    stub(machine / 'bin', 'asked', 'echo /usr/bin/python3.12')
    assert run_setup(machine, '--check', PYTHON='asked').returncode != 0


def test_a_link_to_the_clone_is_the_clone(machine):
    clone = make_venv(machine)
    (machine / 'link').symlink_to(clone)
    done = subprocess.run(
        [machine / 'link' / '.ci' / 'setup', '--check'], cwd=machine / 'link', timeout=60, check=False,
        env={'PATH': str(machine / 'bin'), 'PWD': str(machine / 'link')},
    )  # fmt: skip
    assert done.returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason='root can write everywhere')
def test_folders_of_another_user_are_named(machine):
    clone = make_venv(machine)
    (clone / '.venv').chmod(0o555)
    done = run_setup(machine)
    (clone / '.venv').chmod(0o755)
    assert done.returncode == 1
    assert 'cannot write .venv' in done.stderr and 'sudo chown -R' in done.stderr


def test_two_set_ups_wait_for_each_other(machine):
    stub(machine / 'bin', 'make', 'exit 0')  # of the second: all is done
    lock = machine / 'my clone' / '.cache' / 'setup.lock'
    lock.parent.mkdir()
    with lock.open('w') as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [machine / 'my clone' / '.ci' / 'setup'], env={'PATH': str(machine / 'bin')}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert 'waiting for another set-up' in second.stdout.readline()
        assert second.poll() is None
    _, errors = second.communicate(timeout=60)
    assert (second.returncode, errors) == (0, '')


def test_make_drops_what_a_sourced_distribution_sets_and_keeps_with_whom_to_talk(tmp_path):
    sourced = {
        'ROS_DISTRO': 'humble', 'ROS_VERSION': '2', 'PYTHONPATH': '/opt/ros/humble/lib', 'LD_LIBRARY_PATH': '/opt/ros',
        'AMENT_PREFIX_PATH': '/opt/ros/humble', 'CMAKE_PREFIX_PATH': '/opt/ros/humble', 'RMW_IMPLEMENTATION': 'other',
        'PIP_TARGET': '/elsewhere', 'PIP_USER': '1',
    }  # fmt: skip
    kept = {
        'KEPT': 'yes', 'ROS_DOMAIN_ID': '7', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_LOCALHOST_ONLY': '1',
        'ROS_STATIC_PEERS': 'robot',
    }  # fmt: skip
    rule = tmp_path / 'show.mk'
    rule.write_text('show:\n\t@env\n')
    done = subprocess.run(
        ['make', '-f', ROOT / 'Makefile', '-f', rule, 'show'], env={'PATH': '/usr/bin:/bin', **kept, **sourced},
        cwd=tmp_path, text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    names = {line.split('=')[0] for line in done.stdout.splitlines()}
    assert set(kept) <= names
    assert not names & set(sourced)


def test_make_writes_below_a_clone_whose_path_has_spaces(machine):
    clone = machine / 'my clone'
    rule = machine / 'show.mk'
    rule.write_text('show:\n\t@$(RUN) env\n')
    done = subprocess.run(
        ['make', '-f', 'Makefile', '-f', rule, 'show'], env={'PATH': '/usr/bin:/bin', 'HOME': '/a home'}, cwd=clone,
        text=True, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert f'TMPDIR={clone}/.cache/tmp' in lines
    assert f'ROS_LOG_DIR={clone}/.cache/ros/log' in lines
    assert 'PIP_CACHE_DIR=/a home/.cache/pip' in lines
    assert sorted(path.name for path in machine.iterdir()) == ['bin', 'my clone', 'show.mk']


@pytest.fixture
def tests_script(tmp_path) -> Path:
    """``.ci/test`` in a clone whose pytest ends with the codes in ``$CODES``: of the first and of the serial run."""
    (tmp_path / '.ci').mkdir()
    shutil.copy2(ROOT / '.ci' / 'test', tmp_path / '.ci')
    (tmp_path / '.venv' / 'bin').mkdir(parents=True)
    stub(
        tmp_path / '.venv' / 'bin', 'python',
        'codes=($CODES); echo "$*" >>log; [[ "$*" == *"not serial"* ]] && exit ${codes[0]}; exit ${codes[1]}',
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    'codes, result, runs',
    [
        ('0 0', 0, 2),
        ('1 0', 1, 2),  # a failure hides neither the serial tests nor itself
        ('0 1', 1, 2),
        ('0 5', 0, 2),  # none of the chosen tests is serial
        ('5 0', 0, 2),
        ('5 1', 1, 2),
        ('1 5', 1, 2),
        ('5 5', 5, 2),  # no such test at all
        ('2 0', 2, 1),  # Ctrl-C ends both
        ('4 0', 4, 1),  # wrong usage
    ],
)
def test_both_runs_of_the_tests_count(tests_script, codes, result, runs):
    done = subprocess.run(
        [tests_script / '.ci' / 'test', '-k', 'a and b'], env={'PATH': os.environ['PATH'], 'CODES': codes}, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == result
    log = (tests_script / 'log').read_text().splitlines()
    assert len(log) == runs and all(line.endswith('-k a and b') for line in log)


def test_an_executable_of_colcon_starts_from_a_path_with_spaces(tmp_path):
    text = (ROOT / 'cmake' / 'executable.py.in').read_text()
    python = tmp_path / 'my venv' / 'python'
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    (tmp_path / 'module.py').write_text('import sys\ndef main(): print(*sys.argv[1:]); return 3\n')
    program = tmp_path / 'a program'
    program.write_text(text.replace('@Python3_EXECUTABLE@', str(python)).replace('@module@', 'module'))
    program.chmod(0o755)
    done = subprocess.run(
        [program, 'a b', 'c'], env={**os.environ, 'PYTHONPATH': str(tmp_path)}, text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, 'a b c\n'), done.stderr
