"""The ALOHA 2 cell of MuJoCo Menagerie with a task's objects on its table.

Neither model is part of this package: the cell is Menagerie's (``aloha/scene.xml``), the objects are gym-aloha's, taken
from its model of the task as it stands.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np

from fpo_ros.policy.contract import SIDES
from fpo_ros.sim.robots import ALOHA2
from fpo_ros.sim.task import Task

_INSTALL = "pip install 'mujoco-menagerie>=2026.10' (or this package with its extra [aloha2])"
_WITHOUT_INTERNET = ('without internet, set MENAGERIE_ROOT to a checkout of MuJoCo Menagerie, the directory in which '
                     'aloha/ lies')
#: What an attached object is called until it gets its own names back: names of two models may meet.
_PREFIX = 'gym-aloha/'


class RobotModelError(RuntimeError):
    """There is no model of the ALOHA 2 cell, or another one than known; the message says what to do."""


def build_scene(task: Task, task_model: Path) -> mujoco.MjSpec:
    """Return the cell with the objects of a task, at a place of no importance: each world puts them where it likes.

    Menagerie's physics stay as they are: steps of 2 ms, elliptic cones, gains and friction identified on real arms.

    :param task_model: gym-aloha's model of the task.
    :raises RobotModelError: when Menagerie, or its model, cannot be had or is another than this module knows.
    """
    scene = _scene_file()
    try:
        spec = mujoco.MjSpec.from_file(str(scene))
    except ValueError as error:
        raise RobotModelError(f"MuJoCo cannot read Menagerie's model {scene}: {_line(error)}") from error
    _check(spec, scene)
    # A keyframe holds positions of the arms alone: too few for a model with objects.
    for key in list(spec.keys):
        spec.delete(key)
    for name in ALOHA2.cameras.values():
        _crop(spec.camera(name))
    for geom in spec.geoms:
        if geom.meshname == ALOHA2.table_top:
            geom.name = ALOHA2.table_top  # nameless there
    _add_objects(spec, task, task_model)
    return spec


def _scene_file() -> Path:
    try:
        import mujoco_menagerie as menagerie
    except ModuleNotFoundError as error:
        if error.name != 'mujoco_menagerie':
            raise
        raise RobotModelError(f"robot '{ALOHA2.name}' is a model of MuJoCo Menagerie, which is not installed: "
                              f'{_INSTALL}; {_WITHOUT_INTERNET}') from error
    try:
        scene = Path(menagerie.get('aloha').xml('scene'))
    except (menagerie.MenagerieError, OSError) as error:
        raise RobotModelError(f"Menagerie's model of robot '{ALOHA2.name}' cannot be had: {_line(error)}. It is "
                              f'downloaded once; {_WITHOUT_INTERNET}') from error
    if not scene.is_file():
        raise RobotModelError(f"Menagerie's model of robot '{ALOHA2.name}' is incomplete: there is no {scene}; "
                              f'{_WITHOUT_INTERNET}')
    return scene


def _check(spec: mujoco.MjSpec, scene: Path) -> None:
    """Refuse a model that lacks what :data:`ALOHA2` names."""
    joints = [joint for side in SIDES for joint in (*ALOHA2.arm_joints(side), *ALOHA2.finger_joints(side))]
    bodies = [*ALOHA2.grasping_fingers, *(body.format(side=side) for side in SIDES
                                          for body in (ALOHA2.arm_body, ALOHA2.tool_body))]
    for kind, find, names in (('joint', spec.joint, joints), ('body', spec.body, bodies),
                              ('geom', spec.geom, [ALOHA2.table]), ('mesh', spec.mesh, [ALOHA2.table_top]),
                              ('camera', spec.camera, ALOHA2.cameras.values())):
        for name in names:
            if find(name) is None:
                raise RobotModelError(f"{scene} has no {kind} '{name}': this is not Menagerie's ALOHA 2 as of "
                                      'mujoco-menagerie 2026.10, use that version')


def _crop(camera: mujoco.MjsCamera) -> None:
    """Let pictures of any shape be cut out of a sensor's: with its width and height given, they would be squeezed.

    From top to bottom they see what the sensor does.
    """
    height, focal_length = camera.sensor_size[1], camera.focal_length[1]  # [m]
    if height and focal_length:
        camera.sensor_size, camera.focal_length = [0.0, 0.0], [0.0, 0.0]
        camera.fovy = 2 * np.rad2deg(np.arctan(height / 2 / focal_length))


def _add_objects(spec: mujoco.MjSpec, task: Task, task_model: Path) -> None:
    """Put the bodies of a task's objects into a model, under the names that they have in gym-aloha's."""
    root = ElementTree.parse(task_model).getroot()
    alone = ElementTree.Element('mujoco')
    ElementTree.SubElement(alone, 'compiler', angle='radian')  # as gym-aloha's
    bodies = ElementTree.SubElement(alone, 'worldbody')
    for name in task.objects:
        found = root.find(f".//body[@name='{name}']")
        if found is None:
            raise RobotModelError(f"{task_model} has no body '{name}': use gym-aloha 0.1.3 or newer")
        bodies.append(found)
    objects = mujoco.MjSpec.from_string(ElementTree.tostring(alone, encoding='unicode'))
    frame = spec.worldbody.add_frame()
    for name in task.objects:
        body = frame.attach_body(objects.body(name), _PREFIX, '')
        for element in (body, *body.joints, *body.geoms):
            element.name = element.name.removeprefix(_PREFIX)


def _line(error: Exception) -> str:
    """Return the message of an error in one line."""
    return ' '.join(str(error).split())
