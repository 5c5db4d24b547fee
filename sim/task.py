"""The two tasks of gym-aloha: objects, where they start, staged reward and success (utils.py, tasks/sim.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import GRIPPER_COLUMNS, TASKS

#: Time-out in control steps: 300 as gym-aloha registers, or 400 as LeRobot and most publications use.
CAPS = (300, 400)
MAX_STEPS = CAPS[0]
#: Control steps in which the arms stay at their start while the objects, dropped from their start poses, come to rest.
REST_STEPS = 10
#: Success is the last stage.
SUCCESS_STAGE = 4
#: A gripper counts as open from half of its stroke on [0..1].
OPEN_GRIPPER = 0.5

Touching = Mapping[str, np.ndarray]


class UnknownTaskError(ValueError):
    """A task name that the simulation does not know."""

    def __init__(self, task: str) -> None:
        super().__init__(f"unknown task '{task}': known tasks are {', '.join(TASKS)}")


@dataclass(frozen=True)
class Contact:
    """Geoms of an object, and what they may touch.

    :param geoms: names in the model; the contact holds when any of them touches.
    :param partner: ``'left_finger'`` or ``'right_finger'`` (the finger the rules look at), ``'table'``,
        ``'right_arm'`` (any part of it), or the name of one geom.
    """

    geoms: tuple[str, ...]
    partner: str


@dataclass(frozen=True)
class Task:
    """One task.

    :param name: key of ``TASKS``.
    :param model: file of gym-aloha's assets.
    :param objects: bodies that move freely, in the order of the generalised positions.
    :param regions: (objects, 2, 3) lowest and highest start position of each [m], in gym-aloha's "world".
    :param contacts: what the rules look at.
    :param stage_of: contacts (...,) bool each → (...,) int8 staged reward 0..4.
    :param strict_of: contacts and (..., 14) joints → (...,) bool, the stricter success rule.
    """

    name: str
    model: str
    objects: tuple[str, ...]
    regions: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]
    contacts: dict[str, Contact]
    stage_of: Callable[[Touching], np.ndarray]
    strict_of: Callable[[Touching, np.ndarray], np.ndarray]

    def sample_object_pose(self, seed: int) -> np.ndarray:
        """Return (7 * objects,) start poses, each a position [m] in gym-aloha's "world" and a quaternion (w, x, y, z).

        The same draw as gym-aloha's ``sample_box_pose(seed)`` and ``sample_insertion_pose(seed)``.
        """
        rng = np.random.RandomState(seed % 2**32)
        return np.concatenate([np.append(rng.uniform(*region), (1.0, 0.0, 0.0, 0.0)) for region in self.regions])


def _transfer_cube_stage(touching: Touching) -> np.ndarray:
    """1 right finger touches the cube, 2 it is lifted, 3 the left finger touches it, 4 and it is off the table."""
    left, right, table = (touching[name] for name in ('box_left_finger', 'box_right_finger', 'box_table'))
    stage = np.zeros(left.shape, np.int8)
    stage[right] = 1
    stage[right & ~table] = 2
    stage[left] = 3
    stage[left & ~table] = 4
    return stage


def _transfer_cube_strict(touching: Touching, joints: np.ndarray) -> np.ndarray:
    """Return whether the left gripper alone holds the cube: no part of the right arm touches it, and it is open.

    gym-aloha's own rule also holds while the right gripper still grips (gym-aloha issue #4).
    """
    return (touching['box_left_finger'] & ~touching['box_table'] & ~touching['box_right_arm']
            & (joints[..., GRIPPER_COLUMNS[1]] >= OPEN_GRIPPER))


def _insertion_stage(touching: Touching) -> np.ndarray:
    """1 both parts are touched, 2 and off the table, 3 the peg touches the socket off the table, 4 the pin inside."""
    off_table = ~touching['peg_table'] & ~touching['socket_table']
    both = touching['socket_left_finger'] & touching['peg_right_finger']
    stage = np.zeros(both.shape, np.int8)
    stage[both] = 1
    stage[both & off_table] = 2
    stage[touching['peg_socket'] & off_table] = 3
    stage[touching['peg_pin']] = 4
    return stage


def _insertion_strict(touching: Touching, _: np.ndarray) -> np.ndarray:
    """Return whether the peg is at the pin while each gripper holds its part off the table."""
    return (touching['peg_pin'] & touching['socket_left_finger'] & touching['peg_right_finger']
            & ~touching['peg_table'] & ~touching['socket_table'])


_SOCKET = ('socket-1', 'socket-2', 'socket-3', 'socket-4')
TRANSFER_CUBE = Task(
    'transfer_cube', 'bimanual_viperx_transfer_cube.xml', ('box',), (((0.0, 0.4, 0.05), (0.2, 0.6, 0.05)),),
    {'box_left_finger': Contact(('red_box',), 'left_finger'),
     'box_right_finger': Contact(('red_box',), 'right_finger'),
     'box_table': Contact(('red_box',), 'table'),
     'box_right_arm': Contact(('red_box',), 'right_arm')},
    _transfer_cube_stage, _transfer_cube_strict)
INSERTION = Task(
    'insertion', 'bimanual_viperx_insertion.xml', ('peg', 'socket'),
    (((0.1, 0.4, 0.05), (0.2, 0.6, 0.05)), ((-0.2, 0.4, 0.05), (-0.1, 0.6, 0.05))),
    {'peg_right_finger': Contact(('red_peg',), 'right_finger'),
     'socket_left_finger': Contact(_SOCKET, 'left_finger'),
     'peg_table': Contact(('red_peg',), 'table'),
     'socket_table': Contact(_SOCKET, 'table'),
     'peg_socket': Contact(_SOCKET, 'red_peg'),
     'peg_pin': Contact(('red_peg',), 'pin')},
    _insertion_stage, _insertion_strict)
_KNOWN = {task.name: task for task in (TRANSFER_CUBE, INSERTION)}


def task_of(name: str) -> Task:
    """Return a task by name.

    :raises UnknownTaskError: naming the known ones.
    """
    if name not in _KNOWN:
        raise UnknownTaskError(name)
    return _KNOWN[name]


def sample_object_pose(task: str, seed: int) -> np.ndarray:
    """Return the (7 * objects,) start poses of a task's objects in gym-aloha's "world".

    :raises UnknownTaskError: if there is no such task.
    """
    return task_of(task).sample_object_pose(seed)
