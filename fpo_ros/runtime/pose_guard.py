"""TCP speed, workspace and clearances of the poses that a motion passes, looked at before any of it is sent."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from fpo_ros.runtime.geometry import Geometry, Look
from fpo_ros.runtime.safety_config import SafetyConfig

#: What is kept of poses that were looked at [count].
_REMEMBERED = 256
#: Halvings of a step between whose ends parts could meet; 1/16 of it at full speed is less than 15 mm.
_DEPTH = 4
#: Share of the TCP speed that a guess aims at.
_CLOSE = 0.98
#: Rounding of positions [m].
_ROUNDING = 1e-9


class PoseGuard:
    """Says what is wrong with a motion. Who starts outside a workspace or inside a clearance may not go farther in.

    :param geometry: model of the cell.
    :param config: TCP speed and workspace.
    :param period_s: control period [s].
    """

    def __init__(self, geometry: Geometry, config: SafetyConfig, period_s: float) -> None:
        self.geometry = geometry
        self._stride = config.tcp_speed_limit * period_s
        self._lower, self._upper = config.workspace
        self._looks: OrderedDict[bytes, Look] = OrderedDict()
        self._here = np.empty(0)
        self._floor, self._outside = np.empty(0), np.empty(0)

    def stand(self, joints: np.ndarray) -> None:
        """Note the (14,) command that motions start from."""
        self._here = joints
        look = self._look(joints)
        self._floor = np.minimum(look.gaps, 0.0)
        self._outside = self._beyond(look.tools)

    def misplaced(self, joints: np.ndarray) -> str:
        """Say why a (14,) pose is none to be in; empty when it is one."""
        look = self._look(joints)
        beyond = self._beyond(look.tools) - self._outside
        if (beyond > _ROUNDING).any():
            arm, axis = np.unravel_index(int(np.argmax(beyond)), (2, 3))
            return f'workspace: the {("left", "right")[arm]} tool would leave it in {"xyz"[axis]}'
        under = look.gaps - self._floor
        if (under < -_ROUNDING).any():
            pair = int(np.argmin(under))
            return f'clearance: {self.geometry.names[pair]} would come too close'
        return ''

    def problem(self, path: np.ndarray) -> str:
        """Say which limit is broken on the way along (K, 14) commands of the next periods; empty when none is."""
        last = self._here
        for row in path:
            if why := self._between(last, row):
                return why
            last = row
        return ''

    def pace(self, rest: np.ndarray, wanted: np.ndarray) -> float:
        """Return about which share of the way from one (14,) next command to another the TCP speed permits, 0 to 1."""
        here = self._look(self._here).tools
        slow, fast = (np.linalg.norm(self._look(row).tools - here, axis=1) for row in (rest, wanted))
        over = fast > self._stride
        if not over.any():
            return 1.0
        return float(np.clip((_CLOSE * self._stride - slow[over]) / np.maximum(fast - slow, 1e-12)[over], 0, 1).min())

    def _between(self, last: np.ndarray, row: np.ndarray) -> str:
        strides = np.linalg.norm(self._look(row).tools - self._look(last).tools, axis=1)
        if (strides > self._stride + _ROUNDING).any():
            return f'TCP speed: the {("left", "right")[int(np.argmax(strides))]} tool would be too fast'
        return self.misplaced(row) or self._swept(last, row, _DEPTH)

    def _swept(self, last: np.ndarray, row: np.ndarray, depth: int) -> str:
        """Look between two poses, where parts that keep their clearances in both could meet all the same.

        Two parts d and e apart that move by m together come no closer than (d + e - m) / 2: half the clearance, here.
        """
        moved = float((np.abs(row - last) * self.geometry.leverage).sum())
        apart = self._look(last).nearest + self._look(row).nearest
        if not depth or moved <= max(apart, 0.0) + self.geometry.smallest:
            return ''
        middle = (last + row) / 2
        return (self.misplaced(middle) or self._swept(last, middle, depth - 1)
                or self._swept(middle, row, depth - 1))

    def _beyond(self, tools: np.ndarray) -> np.ndarray:
        """Return (2, 3) how far tools are outside the workspace [m]."""
        return np.maximum(np.maximum(self._lower - tools, tools - self._upper), 0.0)

    def _look(self, joints: np.ndarray) -> Look:
        key = joints.tobytes()
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = self.geometry.look(joints)
            if len(self._looks) > _REMEMBERED:
                self._looks.popitem(last=False)
        return look
