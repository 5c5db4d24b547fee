"""How far two poses of both arms lie apart, grippers left out: they squeeze, or an operator's fingers decide."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import GRIPPER_COLUMNS

_GRIPPERS = list(GRIPPER_COLUMNS)


def farthest_joint(one: np.ndarray, other: np.ndarray) -> tuple[int, float]:
    """Return the column of the arm joint in which two (14,) poses differ most, and by how much [rad]."""
    distance = np.abs(one - other)
    distance[_GRIPPERS] = 0.0
    column = int(np.argmax(distance))
    return column, float(distance[column])
