"""The two arms of an ALOHA cell as their MuJoCo models name them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fpo_ros.policy.contract import ARM_JOINTS


class UnknownRobotError(ValueError):
    """A robot name that the simulation does not know."""

    def __init__(self, robot: str) -> None:
        super().__init__(f"unknown robot '{robot}': known robots are {', '.join(ROBOTS)}")


@dataclass(frozen=True)
class Robot:
    """Names and ranges of both arms in a model; ``{side}`` in a name stands for left or right.

    :param name: key of :data:`ROBOTS`.
    :param joint: name of an arm joint, where ``{joint}`` is one of ``ARM_JOINTS``.
    :param fingers: names of the two finger joints of a gripper.
    :param finger_signs: direction in which each finger joint travels when the gripper opens.
    :param grasping_fingers: bodies at which the rules look: left finger of the left arm, right finger of the right,
        both as seen from behind the gripper (its z axis up).
    :param arm_body: root body of an arm.
    :param tool_body: body of the gripper; its x axis points ahead.
    :param tool_offset_m: distance of the point between the fingertips ahead of ``tool_body`` [m].
    :param finger_open_m: finger position of the normalised gripper value 1 [m].
    :param finger_close_m: finger position of the normalised gripper value 0 [m].
    :param table: geom of the table that objects touch.
    :param table_top: geom of the table's top that pictures show.
    :param workspace_m: (x, y, z) of the origin of gym-aloha's "world" in the model's [m].
    :param cameras: camera of the cell → camera in the model.
    """

    name: str
    joint: str
    fingers: tuple[str, str]
    finger_signs: tuple[int, int]
    grasping_fingers: tuple[str, str]
    arm_body: str
    tool_body: str
    tool_offset_m: float
    finger_open_m: float
    finger_close_m: float
    table: str
    table_top: str
    workspace_m: tuple[float, float, float]
    cameras: dict[str, str]

    def arm_joints(self, side: str) -> tuple[str, ...]:
        """Return the names of the six joints of an arm."""
        return tuple(self.joint.format(side=side, joint=joint) for joint in ARM_JOINTS)

    def finger_joints(self, side: str) -> tuple[str, str]:
        """Return the names of the two finger joints of a gripper."""
        return self.fingers[0].format(side=side), self.fingers[1].format(side=side)

    def finger_of(self, gripper: np.ndarray) -> np.ndarray:
        """Return finger positions [m] of normalised gripper values (gym-aloha constants.py)."""
        return gripper * (self.finger_open_m - self.finger_close_m) + self.finger_close_m

    def gripper_of(self, finger: np.ndarray) -> np.ndarray:
        """Return normalised gripper values of finger positions [m]; inverse of :meth:`finger_of`."""
        return (finger - self.finger_close_m) / (self.finger_open_m - self.finger_close_m)


#: gym-aloha's arms (gym-aloha assets/vx300s_left.xml and constants.py).
VX300S = Robot(
    'vx300s', joint='vx300s_{side}/{joint}', fingers=('vx300s_{side}/left_finger', 'vx300s_{side}/right_finger'),
    finger_signs=(1, -1), grasping_fingers=('vx300s_left/left_finger_link', 'vx300s_right/right_finger_link'),
    arm_body='vx300s_{side}', tool_body='vx300s_{side}/gripper_link', tool_offset_m=0.1347,
    finger_open_m=0.05800, finger_close_m=0.01844, table='table', table_top='table', workspace_m=(0.0, 0.0, 0.0),
    cameras={'cam_high': 'top', 'cam_low': 'front_close', 'cam_angle': 'angle',
             'cam_left_wrist': 'left_wrist', 'cam_right_wrist': 'right_wrist'})

#: MuJoCo Menagerie's ALOHA 2 cell (aloha/aloha.xml, scene.xml). Its fingers' names are the other way round: its
#: left finger is at the right of the gripper. The gripper's range is that of its control, 2 to 37 mm, in which the tips
#: touch at 8 mm: an empty gripper that closes ends near 0.17. The tool is Menagerie's own site ``gripper``, 3 mm above.
#: Bases stand at (+-0.469, -0.019) m and the table's top at -0.0009 m; gym-aloha's at (+-0.469, 0.5) m and 0.
ALOHA2 = Robot(
    'aloha2', joint='{side}/{joint}', fingers=('{side}/left_finger', '{side}/right_finger'), finger_signs=(1, 1),
    grasping_fingers=('left/right_finger_link', 'right/left_finger_link'), arm_body='{side}/base_link',
    tool_body='{side}/gripper_link', tool_offset_m=0.13, finger_open_m=0.037, finger_close_m=0.002, table='table',
    table_top='tabletop', workspace_m=(0.0, -0.519, -0.0009),
    cameras={'cam_high': 'overhead_cam', 'cam_low': 'worms_eye_cam', 'cam_angle': 'teleoperator_pov',
             'cam_left_wrist': 'wrist_cam_left', 'cam_right_wrist': 'wrist_cam_right'})

ROBOTS = {robot.name: robot for robot in (VX300S, ALOHA2)}


def robot_of(name: str) -> Robot:
    """Return a robot by name.

    :raises UnknownRobotError: naming the known ones.
    """
    if name not in ROBOTS:
        raise UnknownRobotError(name)
    return ROBOTS[name]
