"""Start positions, staged reward and success of the tasks (gym-aloha utils.py, tasks/sim.py)."""

from __future__ import annotations

import numpy as np

from fpo_ros.sim.model import UnknownTaskError

#: Time-out in control steps: gym-aloha registers 300.
MAX_STEPS = {'transfer_cube': 300}
#: Success is the last stage.
SUCCESS_STAGE = 4
#: Seeds of held-out episodes start here; training seeds stay below.
HELD_OUT_SEED = 1_000_000

_BOX_LOW = np.array([0.0, 0.4, 0.05])
_BOX_HIGH = np.array([0.2, 0.6, 0.05])


def sample_object_pose(task: str, seed: int) -> np.ndarray:
    """Return the (7,) start pose of the cube: position [m] in "world", unit quaternion (w, x, y, z).

    The same draw as gym-aloha's ``sample_box_pose(seed)``.

    :raises UnknownTaskError: if there is no such task.
    """
    if task not in MAX_STEPS:
        raise UnknownTaskError(task)
    position = np.random.RandomState(seed % 2**32).uniform(_BOX_LOW, _BOX_HIGH)
    return np.concatenate([position, [1.0, 0.0, 0.0, 0.0]])


def stages_of(sensors: np.ndarray) -> np.ndarray:
    """Return (...,) stages 0..4 of (..., 3) contact sensors (left finger, right finger, table).

    1 right finger touches the cube, 2 it is lifted, 3 the left finger touches it, 4 the left finger
    touches it and the table does not.
    """
    left, right, table = (sensors[..., column] > 0 for column in range(3))
    stage = np.zeros(sensors.shape[:-1], np.int8)
    stage[right] = 1
    stage[right & ~table] = 2
    stage[left] = 3
    stage[left & ~table] = 4
    return stage


def held_by_left_alone(sensors: np.ndarray) -> np.ndarray:
    """Return (...,) bool: the left finger touches the cube, the right finger and the table do not.

    gym-aloha's own rule also holds while the right gripper still grips (gym-aloha issue #4).
    """
    return (sensors[..., 0] > 0) & ~(sensors[..., 1] > 0) & ~(sensors[..., 2] > 0)
