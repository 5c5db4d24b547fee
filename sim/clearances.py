"""Where the tools of both followers are, and how far the arms are from each other, the table and themselves.

Forward kinematics and distances between convex hulls (``mj_kinematics``, ``mj_geomDistance``) on gym-aloha's model of
the cell, without its objects: one look takes tens of microseconds. Nothing is stepped.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from fpo_ros.policy.contract import ARM_JOINTS, SIDES
from fpo_ros.runtime.geometry import Look
from fpo_ros.sim.model import load_model

#: Distance of the arms' bases in gym-aloha's model (assets/vx300s_left.xml, vx300s_right.xml) [m].
BASE_DISTANCE_M = 0.938
#: So thick is the table taken to be, since its slab has a side below [m].
_DEPTH_M = 1.0
#: Beyond the clearance, distances are not told apart [m].
HORIZON_M = 0.05

#: Geoms of an arm (gym-aloha assets/vx300s_left.xml), from the base to the fingers.
_TRUNK = ('1_base', '2_shoulder', '3_upper_arm')
_FOREARM = ('4_upper_forearm', '5_lower_forearm', '6_wrist')
_HAND = ('7_gripper', '9_gripper_bar', '8_gripper_prop')
_FINGERS = ('10_left_gripper_finger', '10_right_gripper_finger')


@dataclass(frozen=True)
class Clearances:
    """Least distances between commanded poses of convex parts [m].

    Fingers of different arms may touch: they hand objects over.

    :param arm: between parts of different arms, where neither is a finger.
    :param hand: between a finger and any part of the other arm that is none; negative, since the convex hull of the
        gripper's bar fills what is between the fingers: 12 mm of it are used by the scripted hand-over.
    :param table: between the table and forearm, wrist or gripper.
    :param finger: between the table and a finger; negative: so deep may a finger be sent into the table, to press.
    :param self: between base, shoulder or upper arm and what is behind the elbow's own link of the same arm.
    """

    arm: float = 0.02
    hand: float = -0.02
    table: float = 0.01
    finger: float = -0.025
    self: float = 0.01

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not -0.1 <= value <= 0.2:
                raise ValueError(f'clearance {name} must be -0.1 to 0.2 m, got {value}')


class CellGeometry:
    """Looks at poses of both arms; not thread-safe.

    :param clearances: least distances.
    :param base_distance_m: distance of the two bases, which face each other [m].
    :param table_height_m: height of the table's top over the plane that the bases stand on [m].
    :raises ModuleNotFoundError: without gym-aloha, whose model this is.
    """

    def __init__(self, clearances: Clearances | None = None, base_distance_m: float = BASE_DISTANCE_M,
                 table_height_m: float = 0.0) -> None:
        self.clearances = clearances or Clearances()
        shared = load_model('transfer_cube')
        self._robot, self._arm_qpos, self._finger_qpos = shared.robot, shared.arm_qpos, shared.finger_qpos
        self._signs = np.array(shared.robot.finger_signs)
        self._mj = shared.mj.__copy__()
        self._bases = [self._mj.body(self._robot.arm_body.format(side=side)).id for side in SIDES]
        for base, sign in zip(self._bases, (-1, 1), strict=True):
            self._mj.body_pos[base, 0] = sign * base_distance_m / 2
        self._table = self._mj.geom(self._robot.table).id
        self._data = mujoco.MjData(self._mj)
        mujoco.mj_kinematics(self._mj, self._data)
        #: Top of the table [m]: a part's height over it is a bound of its distance.
        self._top = self._thicken_table(table_height_m)
        mujoco.mj_kinematics(self._mj, self._data)
        self._origin = self._data.xpos[self._bases].copy()
        self._turn = self._data.xmat[self._bases].reshape(2, 3, 3).copy()
        self._tools = [self._mj.site(f'{side}/tool').id for side in SIDES]
        self._pairs, least, self.names = self._choose()
        #: (P,) least distance of each pair [m].
        self.least = np.array(least)
        self._first, self._second = self._pairs.T
        self._narrow = [(int(one), int(other), least, max(least, 0.0) + HORIZON_M)
                        for (one, other), least in zip(self._pairs, least, strict=True)]
        on_table = self._second == self._table
        self._on_table, self._over_table = np.flatnonzero(on_table), self._first[on_table]
        radius = self._mj.geom_rbound
        #: (P,) distance of the centres at which bounding spheres keep the clearance; of a centre over the table.
        self._spheres = self.least + radius[self._first] + np.where(on_table, 0.0, radius[self._second])
        #: (14,) how far any point of an arm moves for a joint's change, at most [m/rad, m/stroke].
        self.leverage = self._leverage()
        #: Smallest positive clearance [m]: between two poses that keep it, parts that move less than twice it
        #: cannot meet.
        self.smallest = float(self.least[self.least > 0].min(initial=np.inf))
        self._bodily = np.flatnonzero(self.least > 0)

    def look(self, joints: np.ndarray) -> Look:
        """Return tools and gaps of a pose.

        :param joints: (14,) [rad, grippers 0..1].
        """
        data, mj, qpos = self._data, self._mj, self._data.qpos
        for index in (0, 1):
            qpos[self._arm_qpos[index]] = joints[7 * index:7 * index + 6]
            qpos[self._finger_qpos[index]] = self._robot.finger_of(joints[7 * index + 6]) * self._signs
        mujoco.mj_kinematics(mj, data)
        where = data.geom_xpos
        apart = where.take(self._first, 0)
        apart -= where.take(self._second, 0)
        apart *= apart
        gaps = np.sqrt(apart.sum(1))
        gaps[self._on_table] = where[self._over_table, 2] - self._top
        gaps -= self._spheres
        for pair in np.flatnonzero(gaps < HORIZON_M).tolist():
            one, other, least, far = self._narrow[pair]
            gaps[pair] = mujoco.mj_geomDistance(mj, data, one, other, far, None) - least
        left, right = self._tools
        tools = np.stack([(data.site_xpos[left] - self._origin[0]) @ self._turn[0],
                          (data.site_xpos[right] - self._origin[1]) @ self._turn[1]])
        return Look(tools, gaps, float(gaps[self._bodily].min()))

    def _thicken_table(self, height_m: float) -> float:
        """Make the slab of the table a block, under which nothing is free, and return the height of its top [m]."""
        mj, table = self._mj, self._table
        turn = np.abs(self._data.geom_xmat[table].reshape(3, 3))
        half = turn @ mj.geom_aabb[table, 3:]
        top = self._data.geom_xpos[table, 2] + half[2] + height_m
        half[2] = _DEPTH_M / 2
        mj.geom_type[table], mj.geom_dataid[table], mj.geom_size[table] = mujoco.mjtGeom.mjGEOM_BOX, -1, half
        mj.geom_rbound[table] = np.linalg.norm(half)
        body = mj.geom_bodyid[table]
        mj.geom_pos[table] = [0.0, 0.0, top - half[2] - mj.body_pos[body, 2]]
        mj.geom_quat[table] = [1.0, 0.0, 0.0, 0.0]
        return float(top)

    def _choose(self) -> tuple[np.ndarray, list[float], list[str]]:
        """Return (P, 2) geoms of the pairs, their clearances and their names."""
        found: list[tuple[int, int]] = []
        least, names, c = [], [], self.clearances

        def add(one: str, other: str, clearance: float) -> None:
            found.append((self._mj.geom(one).id, self._mj.geom(other).id))
            least.append(clearance)
            names.append(f'{_plain(one)} and {_plain(other)}')

        arms = [[f'{self._robot.arm_body.format(side=side)}/{part}'
                 for part in (*_TRUNK, *_FOREARM, *_HAND, *_FINGERS)] for side in SIDES]
        for one in arms[0]:
            for other in arms[1]:
                fingers = one.endswith(_FINGERS) + other.endswith(_FINGERS)
                if fingers < 2:
                    add(one, other, c.hand if fingers else c.arm)
        for arm in arms:
            for part in arm:
                if part.endswith((*_FOREARM, *_HAND, *_FINGERS)):
                    add(part, self._robot.table, c.finger if part.endswith(_FINGERS) else c.table)
                if part.endswith((*_FOREARM[1:], *_HAND, *_FINGERS)):
                    for own in arm[:len(_TRUNK)]:
                        add(part, own, c.self)
        return np.array(found), least, names

    def _leverage(self) -> np.ndarray:
        """Return (14,) distances from each joint to the farthest point behind it: lengths of links and tool added."""
        mj, out = self._mj, np.empty(7)
        bodies = [mj.jnt_bodyid[mj.joint(name).id] for name in self._robot.arm_joints(SIDES[0])]
        # From the fingertips back: the tool, and half of the fingers' stroke beside it.
        reach = self._robot.tool_offset_m + self._robot.finger_open_m
        for number in reversed(range(len(ARM_JOINTS))):
            out[number] = reach
            reach += float(np.linalg.norm(mj.body_pos[bodies[number]]))
        out[6] = self._robot.finger_open_m - self._robot.finger_close_m
        return np.tile(out, 2)


def _plain(geom: str) -> str:
    """Return the name of a geom in words: ``vx300s_left/6_wrist`` is the left wrist."""
    arm, _, part = geom.rpartition('/')
    return ' '.join([*arm.split('_')[1:], *part.lstrip('0123456789').strip('_').split('_')])
