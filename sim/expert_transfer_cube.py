"""Scripted bimanual expert for TransferCube.

The hand-over follows ACT's script (scripted_policy.py of tonyzhaozh/act): the right gripper picks the cube from
above, both meet in the middle, the left gripper takes it with its fingers turned by 90 degrees.
"""

from __future__ import annotations

import numpy as np

from fpo_ros.sim.expert_motion import ScriptedExpert, Waypoint, rotation, with_errors

#: Height of the point between the fingertips above the table when grasping [m].
GRASP_HEIGHT_M = 0.022
#: Where the cube changes hands [m], "world".
MEETING_POINT = np.array([0.0, 0.5, 0.25])
#: Pitch of the right gripper when it picks, below the horizon [rad].
PICK_PITCH = np.deg2rad(60.0)


class TransferCubeExpert(ScriptedExpert):
    """Picks the cube with the right gripper, hands it over and takes it away with the left one."""

    TASK = 'transfer_cube'
    STEPS = 250
    ENDS = 240
    WAYPOINTS = 8
    NOISE_M = 0.02
    #: Down, where the pick is: from the start's angle the solver would end behind the wrist's singularity.
    WRIST_SEEDS = {'right': 0.8}

    def waypoints(self, object_pose: np.ndarray, noise: np.ndarray) -> dict[str, list[Waypoint]]:
        """Return side → waypoints; the left arm's last two errors of (2, 8, 3) have no waypoint."""
        pick = rotation(np.pi, PICK_PITCH, 0.0)
        level = rotation(np.pi, 0.0, 0.0)
        take = rotation(0.0, 0.0, np.pi / 2)
        grasp = np.array([*object_pose[:2], GRASP_HEIGHT_M])
        meet = MEETING_POINT
        right = [
            (45, grasp + [0, 0, 0.08], pick, 1.0), (70, grasp, pick, 1.0), (85, grasp, pick, 0.0),
            (105, grasp + [0, 0, 0.10], pick, 0.0), (145, meet, level, 0.0),
            (195, meet, level, 0.0), (210, meet, level, 1.0), (240, meet + [0.12, 0, 0], level, 1.0),
        ]
        left = [
            (70, meet + [-0.14, 0, 0], take, 1.0), (145, meet + [-0.14, 0, 0], take, 1.0),
            (172, meet, take, 1.0), (188, meet, take, 0.0), (210, meet, take, 0.0),
            (240, meet + [-0.05, 0, 0], take, 0.0),
        ]
        return with_errors({'left': left, 'right': right}, noise)
