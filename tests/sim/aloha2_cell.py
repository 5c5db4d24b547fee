"""A cell of boxes with the names, places and joints of MuJoCo Menagerie's ALOHA 2, for machines without that model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from fpo_ros.policy.contract import ARM_JOINTS, SIDES
from fpo_ros.sim import model as model_module

PACKAGE = 'mujoco_menagerie'
#: Axis, and offset from the joint before it [m], as in aloha.xml.
_CHAIN = {'waist': ('0 0 1', '0 0 0.079'), 'shoulder': ('0 1 0', '0 0 0.048'), 'elbow': ('0 1 0', '0.06 0 0.3'),
          'forearm_roll': ('1 0 0', '0.2 0 0'), 'wrist_angle': ('0 1 0', '0.1 0 0'),
          'wrist_rotate': ('1 0 0', '0.07 0 0')}
_BASES = {'left': 'pos="-0.469 -0.019 0.02"', 'right': 'pos="0.469 -0.019 0.02" quat="0 0 0 1"'}
_SENSOR = 'focal="0.00193 0.00193" sensorsize="0.003896 0.00214" resolution="1280 720"'


def _arm(side: str) -> str:
    fingers = ''.join(
        f'<body name="{side}/{name}_finger_link" pos="0.1 {y} 0"><joint name="{side}/{name}_finger" type="slide" '
        f'axis="0 {1 if y > 0 else -1} 0" range="0 0.041" armature="0.243" damping="40"/>'
        f'<geom type="box" size="0.03 0.005 0.01" mass="0.09"/></body>'
        for name, y in (('left', -0.005), ('right', 0.005)))
    arm = f'<camera name="wrist_cam_{side}" pos="0 0 0.08" {_SENSOR}/>{fingers}'
    for number, joint in reversed(list(enumerate(ARM_JOINTS))):
        axis, place = _CHAIN[joint]
        name = 'gripper_link' if joint == ARM_JOINTS[-1] else f'link_{number}'
        arm = (f'<body name="{side}/{name}" pos="{place}"><joint name="{side}/{joint}" axis="{axis}" range="-3.1 3.1" '
               f'armature="0.3" damping="20"/><geom type="sphere" size="0.02" mass="0.3" contype="0" conaffinity="0"/>'
               f'{arm}</body>')
    return f'<body name="{side}/base_link" {_BASES[side]}><geom type="box" size="0.05 0.05 0.02"/>{arm}</body>'


def write_cell(directory: Path) -> Path:
    """Write ``aloha/scene.xml`` below a directory; return the file."""
    actuators = ''.join(
        ''.join(f'<position name="{side}/{joint}" joint="{side}/{joint}" kp="250" ctrlrange="-3 3"/>'
                for joint in ARM_JOINTS)
        + f'<position name="{side}/gripper" joint="{side}/left_finger" kp="2000" kv="124" ctrlrange="0.002 0.037"/>'
        for side in SIDES)
    equal = ''.join(f'<joint joint1="{side}/left_finger" joint2="{side}/right_finger"/>' for side in SIDES)
    scene = directory / 'aloha' / 'scene.xml'
    scene.parent.mkdir(parents=True)
    scene.write_text(
        '<mujoco><compiler angle="radian"/><option cone="elliptic" impratio="10"/><asset>'
        '<mesh name="tabletop" vertex="0.6 0.37 0 -0.6 0.37 0 0.6 -0.37 0 -0.6 -0.37 0 0 0 -0.02"/></asset><worldbody>'
        '<light pos="0 0.1 2.5"/><geom name="table" type="box" size="0.61 0.37 0.1" pos="0 0 -0.1009"/>'
        '<geom type="mesh" mesh="tabletop" contype="0" conaffinity="0"/>'
        f'<camera name="overhead_cam" pos="0 -0.3 1.03" {_SENSOR}/><camera name="worms_eye_cam" {_SENSOR}/>'
        f'<camera name="teleoperator_pov" pos="0 -1.354 0.685"/>{"".join(map(_arm, SIDES))}</worldbody>'
        f'<equality>{equal}</equality><actuator>{actuators}</actuator>'
        f'<keyframe><key name="neutral_pose" qpos="{"0 " * 16}"/></keyframe></mujoco>')
    return scene


class FakeMenagerieError(Exception):
    """Stands for the package's own error."""


def use_menagerie(monkeypatch: pytest.MonkeyPatch, xml: Callable[[str], Path]) -> None:
    """Let the package be one whose robots resolve their entry points by ``xml``, and load models anew."""
    fake = ModuleType(PACKAGE)
    fake.MenagerieError, fake.get = FakeMenagerieError, lambda name: SimpleNamespace(xml=xml)
    monkeypatch.setitem(sys.modules, PACKAGE, fake)
    monkeypatch.setattr(model_module, '_compiled', model_module._compiled.__wrapped__)
