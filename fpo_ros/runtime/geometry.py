"""What the safety filter asks of a model of the cell: where tools are, and how far parts are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Look:
    """Tools and gaps of one pose.

    :param tools: (2, 3) points between the fingertips, left and right, each in the frame of its arm's base:
        x ahead, y left, z up (REP 103) [m].
    :param gaps: (P,) distance beyond the clearance of each pair of parts, or a lower bound of it [m].
    :param nearest: smallest gap of the pairs that must never touch [m].
    """

    tools: np.ndarray
    gaps: np.ndarray
    nearest: float


class Geometry(Protocol):
    """A kinematic model of the cell, such as :class:`fpo_ros.sim.clearances.CellGeometry`.

    ``names`` are those of the P pairs, ``leverage`` is (14,) how far any point of an arm moves for a joint's change at
    most [m/rad, m/stroke], and ``smallest`` the smallest positive clearance [m].
    """

    names: list[str]
    leverage: np.ndarray
    smallest: float

    def look(self, joints: np.ndarray) -> Look:
        """Return tools and gaps of (14,) joints [rad, grippers 0..1]."""
        ...
