"""``.ci/setup`` finds what the system lacks: installs it as root, else names the command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ('bash', 'env', 'dirname', 'grep', 'cat', 'rm')


def stub(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f'#!/bin/bash\n{body}\n')
    file.chmod(0o755)


@pytest.fixture
def machine(tmp_path) -> Path:
    """A clone and a PATH on which there is no compiler and no GL library, with a stub of each system tool."""
    (tmp_path / 'clone' / '.ci').mkdir(parents=True)
    shutil.copy2(ROOT / '.ci' / 'setup', tmp_path / 'clone' / '.ci')
    programs = tmp_path / 'bin'
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(shutil.which(tool))
    stub(programs, 'ldconfig', 'echo "libm.so.6 => /lib/libm.so.6"')
    stub(programs, 'python3.11', 'exit 0')  # a Python that has all it should have
    return tmp_path


def run_setup(machine: Path, user: int, apt: str) -> subprocess.CompletedProcess[str]:
    stub(machine / 'bin', 'id', f'echo {user}')
    stub(machine / 'bin', 'apt-get', f'echo "$*" >> {machine}/apt.log\n{apt}')
    return subprocess.run(
        [machine / 'clone' / '.ci' / 'setup'], env={'PATH': str(machine / 'bin')}, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_user_is_told_the_command(machine):
    done = run_setup(machine, 1000, 'exit 0')
    assert done.returncode == 1
    assert 'sudo apt-get install -y --no-install-recommends g++ libegl1 libopengl0' in done.stderr
    assert not (machine / 'apt.log').exists()
    assert not (machine / 'clone' / '.venv').exists()


def test_root_installs_and_is_told_when_that_fails(machine):
    done = run_setup(machine, 0, 'exit 1')
    assert done.returncode == 1
    assert 'could not install system packages: apt-get install' in done.stderr
    first, second = (machine / 'apt.log').read_text().splitlines()  # not found at first, so lists are updated
    assert first.startswith('install -y --no-install-recommends g++ libegl1')
    assert second == 'update'


def test_a_python_that_is_too_old_is_not_used(machine):
    stub(machine / 'bin', 'python3.11', 'exit 1')
    done = run_setup(machine, 1000, 'exit 0')
    assert done.returncode == 1
    assert 'python3 python3-venv python3-dev' in done.stderr


def test_make_drops_what_a_sourced_distribution_sets(tmp_path):
    sourced = {
        'ROS_DISTRO': 'humble', 'ROS_VERSION': '2', 'PYTHONPATH': '/opt/ros/humble/lib', 'LD_LIBRARY_PATH': '/opt/ros',
        'AMENT_PREFIX_PATH': '/opt/ros/humble', 'CMAKE_PREFIX_PATH': '/opt/ros/humble', 'RMW_IMPLEMENTATION': 'other',
    }  # fmt: skip
    rule = tmp_path / 'show.mk'
    rule.write_text(f'include {ROOT}/Makefile\nshow:\n\t@env\n')
    done = subprocess.run(
        ['make', '-f', rule, 'show'], env={'PATH': '/usr/bin:/bin', 'KEPT': 'yes', **sourced}, cwd=tmp_path, text=True,
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    names = {line.split('=')[0] for line in done.stdout.splitlines()}
    assert 'KEPT' in names
    assert not names & set(sourced)
