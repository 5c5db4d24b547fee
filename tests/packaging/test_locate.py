"""Files and executables are found where the package was installed."""

from __future__ import annotations

import sys

import pytest

import fpo_ros
from fpo_ros import environment
from fpo_ros.nodes import locate


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    """A prefix such as colcon's or that of ``pip install --user``, which the package was imported from."""
    package = tmp_path / 'lib' / 'python3' / 'site-packages' / 'fpo_ros'
    for folder in (package, tmp_path / 'share' / 'fpo_ros' / 'config', tmp_path / 'lib' / 'fpo_ros'):
        folder.mkdir(parents=True)
    monkeypatch.setattr(fpo_ros, '__path__', [str(package)])
    return tmp_path


def test_a_checkout_serves_its_own_files_by_this_python():
    if environment.checkout() is None:
        pytest.skip('fpo_ros is installed')
    assert locate.share_path('config/aloha_sim.yaml') == environment.checkout() / 'config' / 'aloha_sim.yaml'
    assert locate.program('fpo_ros.nodes.policy') == [sys.executable, '-m', 'fpo_ros.nodes.policy']


def test_files_come_from_the_prefix_of_the_package(prefix):
    (prefix / 'share' / 'fpo_ros' / 'config' / 'aloha_sim.yaml').touch()
    assert locate.share_path('config/aloha_sim.yaml') == prefix / 'share' / 'fpo_ros' / 'config' / 'aloha_sim.yaml'


def test_a_node_is_run_by_its_executable(prefix):
    (prefix / 'lib' / 'fpo_ros' / 'policy').touch()
    assert locate.program('fpo_ros.nodes.policy') == [str(prefix / 'lib' / 'fpo_ros' / 'policy')]


def test_a_missing_file_is_named_with_the_places(prefix):
    with pytest.raises(FileNotFoundError, match=f'config/none.yaml is not below {prefix}/share/fpo_ros.*reinstall'):
        locate.share_path('config/none.yaml')
