"""Scripted bimanual expert for Insertion.

As in ACT's script (scripted_policy.py of tonyzhaozh/act), the left gripper picks the socket, the right one the peg,
and both meet in the middle, where the peg slides in along x.
"""

from __future__ import annotations

import numpy as np

from fpo_ros.sim.expert_motion import ScriptedExpert, Waypoint, rotation, with_errors

#: Height of the point between the fingertips above the table when grasping, side → height [m]. The left gripper holds
#: the socket, the right one the peg.
GRASP_HEIGHT_M = {'left': 0.030, 'right': 0.022}
#: Height of the axis of the socket's hole, and of the peg's, where they lie on the table, side → height [m].
AXIS_HEIGHT_M = {'left': 0.022, 'right': 0.010}
#: Where the axes meet [m], "world".
MEETING_POINT = np.array([0.0, 0.5, 0.15])
#: Distance of the grippers along x [m] when the axes are in line, and when the peg is in.
APART_M = 0.16
TOGETHER_M = 0.085
#: Pitch of both grippers below the horizon [rad].
PITCH = np.deg2rad(60.0)


class InsertionExpert(ScriptedExpert):
    """Picks socket and peg, brings them in line and pushes the peg in."""

    TASK = 'insertion'
    STEPS = 250
    ENDS = 240
    WAYPOINTS = 7
    NOISE_M = 0.005
    #: Down, where the picks are, as for the right arm of TransferCube.
    WRIST_SEEDS = {'left': 0.8, 'right': 0.8}

    def waypoints(self, object_pose: np.ndarray, noise: np.ndarray) -> dict[str, list[Waypoint]]:
        """Return side → waypoints for the poses of peg and socket, (14,)."""
        plans = {}
        for side, start, yaw, away in (('left', object_pose[7:9], 0.0, -1), ('right', object_pose[:2], np.pi, 1)):
            turned = rotation(yaw, PITCH, 0.0)
            grasp = np.array([*start, GRASP_HEIGHT_M[side]])
            meet = MEETING_POINT + [0, 0, GRASP_HEIGHT_M[side] - AXIS_HEIGHT_M[side]]
            apart, together = (meet + [away * gap / 2, 0, 0] for gap in (APART_M, TOGETHER_M))
            plans[side] = [
                (45, grasp + [0, 0, 0.08], turned, 1.0), (70, grasp, turned, 1.0), (90, grasp, turned, 0.0),
                (110, grasp + [0, 0, 0.08], turned, 0.0), (155, apart, turned, 0.0), (175, apart, turned, 0.0),
                (235, together, turned, 0.0),
            ]
        return with_errors(plans, noise)
