"""What the last stages need is tried before the first one."""

from __future__ import annotations

import os

import pytest

from fpo_ros.demo import machine
from fpo_ros.demo.directory import DemoError
from fpo_ros.demo.display import Display
from fpo_ros.demo.machine import demo_contract, prepare_machine, prepare_ros
from fpo_ros.trial import trial


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Let a test change the variables that are chosen here."""
    for name in ('MUJOCO_GL', 'ROS_DOMAIN_ID', 'ROS_AUTOMATIC_DISCOVERY_RANGE'):
        if name in os.environ:
            monkeypatch.setenv(name, os.environ[name])
        else:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def any_ros(monkeypatch):
    """Pass over ROS 2."""
    monkeypatch.setattr(machine, 'prepare_ros', lambda: None)


def test_the_sources_are_what_the_observation_says():
    assert demo_contract('state').cameras == () and demo_contract('pixels').cameras == ('cam_high',)
    with pytest.raises(ValueError, match='state or pixels'):
        demo_contract('smell')


def test_where_gl_works_films_are_made(any_ros, capsys):
    assert prepare_machine(demo_contract('pixels'), Display()) == ''
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('backend', ['disabled', 'nonsense'])
def test_without_gl_a_demo_from_states_goes_on_without_films(any_ros, monkeypatch, capsys, backend):
    monkeypatch.setenv('MUJOCO_GL', backend)
    problem = prepare_machine(demo_contract('state'), Display())
    out = capsys.readouterr().out
    assert backend in problem and problem in out and len(out.splitlines()) == 1 and 'apt-get install' in out
    # The nodes that are started later would fail to import mujoco with a backend that does not exist.
    assert os.environ['MUJOCO_GL'] == 'disabled'


@pytest.mark.parametrize('backend', ['disabled', 'nonsense'])
def test_without_gl_a_demo_from_pixels_does_not_start(any_ros, monkeypatch, backend):
    monkeypatch.setenv('MUJOCO_GL', backend)
    with pytest.raises(DemoError, match=f'GL.*{backend}.*apt-get install.*--observation state') as failure:
        prepare_machine(demo_contract('pixels'), Display())
    assert len(str(failure.value).splitlines()) == 1


@pytest.mark.ros
def test_the_domain_is_one_whose_ports_are_free_and_stays_on_this_machine(monkeypatch):
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    monkeypatch.delenv('ROS_AUTOMATIC_DISCOVERY_RANGE', raising=False)
    prepare_ros()
    assert 1 <= int(os.environ['ROS_DOMAIN_ID']) <= 101
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_the_choice_of_the_user_stands(monkeypatch):
    monkeypatch.setattr(machine, 'trial', lambda *code: (True, ''))
    monkeypatch.setenv('ROS_DOMAIN_ID', '7')
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SUBNET')
    prepare_ros()
    assert (os.environ['ROS_DOMAIN_ID'], os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE']) == ('7', 'SUBNET')


@pytest.mark.parametrize('pid', range(1000, 1202, 50))
def test_every_process_gets_a_domain_from_1_to_101(monkeypatch, pid):
    monkeypatch.setattr(machine, 'trial', lambda *code: (True, ''))
    monkeypatch.setattr(machine.os, 'getpid', lambda: pid)
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    prepare_ros()
    assert 1 <= int(os.environ['ROS_DOMAIN_ID']) <= 101


@pytest.mark.ros
@pytest.mark.parametrize('text', ['233', 'kitchen'])
def test_a_wrong_domain_is_refused(monkeypatch, text):
    monkeypatch.setenv('ROS_DOMAIN_ID', text)
    with pytest.raises(DemoError, match=f"^ROS_DOMAIN_ID is '{text}': use a number from 0 to 232$"):
        prepare_ros()


@pytest.mark.ros
def test_a_middleware_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_nowhere')
    with pytest.raises(DemoError, match='ROS 2.*rmw_nowhere.*fpo-ros doctor'):
        prepare_ros()


def test_missing_ros_is_said_before_the_first_stage(monkeypatch):
    monkeypatch.setattr(machine, '_NODE', 'import sys; sys.modules["rclpy"] = None\n' + machine._NODE)
    with pytest.raises(DemoError, match=r'needs ROS 2.*make setup.*source a distribution') as failure:
        prepare_ros()
    assert len(str(failure.value).splitlines()) == 1


def test_neither_mujoco_nor_torch_is_loaded_by_the_checks():
    """mujoco chooses its GL when it is imported, which comes after the check."""
    assert trial('import sys, fpo_ros.demo.machine, fpo_ros.demo.directory\n'
                 'assert not {"mujoco", "torch", "rclpy"} & set(sys.modules)')[0]
