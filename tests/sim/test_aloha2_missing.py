"""What is said where there is no model of the ALOHA 2 cell, or another one."""

from __future__ import annotations

import sys

import pytest
from aloha2_cell import PACKAGE, FakeMenagerieError, use_menagerie, write_cell

from fpo_ros.sim import model as model_module
from fpo_ros.sim.aloha2 import RobotModelError
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.model import load_model
from fpo_ros.sim.render import WorldRenderer
from fpo_ros.sim.world import World


def test_without_the_package_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    monkeypatch.setattr(model_module, '_compiled', model_module._compiled.__wrapped__)
    for use_it in (lambda: load_model('insertion', 'aloha2'), lambda: World('transfer_cube', robot='aloha2'),
                   lambda: BatchedWorlds('transfer_cube', 1, robot='aloha2'),
                   lambda: WorldRenderer('transfer_cube', 48, 64, robot='aloha2')):
        with pytest.raises(RobotModelError, match=r"'aloha2' .*not installed: pip install .*menagerie.*MENAGERIE_ROOT"):
            use_it()


@pytest.mark.parametrize('error', [FakeMenagerieError('no way to\nthe server'), PermissionError(13, 'no way to')])
def test_without_internet_one_error_says_what_to_set(monkeypatch, error):
    def fail(entry: str) -> None:
        raise error

    use_menagerie(monkeypatch, fail)
    with pytest.raises(RobotModelError, match='cannot be had: .*no way to.*MENAGERIE_ROOT') as raised:
        load_model('transfer_cube', 'aloha2')
    assert '\n' not in str(raised.value)


def test_a_checkout_without_the_model_is_named(monkeypatch, tmp_path):
    pytest.importorskip(PACKAGE, reason='needs mujoco-menagerie, whose error this is')
    monkeypatch.setenv('MENAGERIE_ROOT', str(tmp_path))
    monkeypatch.setattr(model_module, '_compiled', model_module._compiled.__wrapped__)
    with pytest.raises(RobotModelError, match=f'MENAGERIE_ROOT={tmp_path}'):
        load_model('transfer_cube', 'aloha2')


def test_an_incomplete_or_unreadable_model_is_named(monkeypatch, tmp_path):
    scene = tmp_path / 'scene.xml'
    use_menagerie(monkeypatch, lambda entry: scene)
    with pytest.raises(RobotModelError, match=f'incomplete: there is no {scene}'):
        load_model('transfer_cube', 'aloha2')
    scene.write_text('version https://git-lfs.github.com/spec/v1')
    with pytest.raises(RobotModelError, match=f'cannot read .*{scene}'):
        load_model('transfer_cube', 'aloha2')


@pytest.mark.parametrize(('before', 'after', 'missing'), [
    ('name="left/elbow" axis', 'name="left/knee" axis', "joint 'left/elbow'"), ('right/gripper_link', 'hand', 'body'),
    ('overhead_cam', 'ceiling', "camera 'overhead_cam'"), ('name="table"', 'name="desk"', "geom 'table'")])
def test_another_robot_than_the_known_one_is_refused(monkeypatch, tmp_path, before, after, missing):
    scene = write_cell(tmp_path)
    # Only the model matters here, not whether its actuators find their joints.
    scene.write_text(scene.read_text().replace(before, after))
    use_menagerie(monkeypatch, lambda entry: scene)
    with pytest.raises(RobotModelError, match=f'has no {missing}.*mujoco-menagerie 2026.10'):
        load_model('transfer_cube', 'aloha2')
