"""Names the Interbotix drivers and camera drivers use (interbotix_xs_sdk, aloha_bringup.launch.py)."""

from __future__ import annotations

from fpo_ros.policy.contract import ARM_JOINTS, OBJECTS, SIDES

#: Namespace of each follower's driver.
FOLLOWERS = {side: f'follower_{side}' for side in SIDES}
#: Namespace of each leader's driver, of the arms that a person moves.
LEADERS = {side: f'leader_{side}' for side in SIDES}
#: Entries of a follower's joint_states, in order: six joints and the gripper motor [rad], two fingers [m].
JOINT_STATE_NAMES = (*ARM_JOINTS, 'gripper', 'left_finger', 'right_finger')
#: Motor group and motor that commands address.
ARM_GROUP = 'arm'
GRIPPER_NAME = 'gripper'


def joint_states_topic(side: str) -> str:
    """Return the topic of a follower's sensor_msgs/JointState."""
    return f'{FOLLOWERS[side]}/joint_states'


def group_command_topic(side: str) -> str:
    """Return the topic of a follower's interbotix_xs_msgs/JointGroupCommand."""
    return f'{FOLLOWERS[side]}/commands/joint_group'


def single_command_topic(side: str) -> str:
    """Return the topic of a follower's interbotix_xs_msgs/JointSingleCommand."""
    return f'{FOLLOWERS[side]}/commands/joint_single'


def object_pose_topics(task: str) -> tuple[str, ...]:
    """Return the topic of each object's geometry_msgs/PoseStamped, in the order of ``OBJECTS``.

    A single object is tracked on ``object_pose``, several on ``object_pose/<name>`` each.
    """
    names = OBJECTS[task]
    return ('object_pose',) if len(names) == 1 else tuple(f'object_pose/{name}' for name in names)


#: Last part of a camera's topic: rectified colour images of a D405, and plain ones of other RealSense cameras.
IMAGE_NAMES = ('image_rect_raw', 'image_raw')


def camera_topic(camera: str, image_name: str = IMAGE_NAMES[0]) -> str:
    """Return the topic on which realsense2_camera publishes a camera's colour images.

    :param image_name: one of :data:`IMAGE_NAMES`.
    """
    return f'{camera}/camera/color/{image_name}'


def resized_topic(camera: str) -> str:
    """Return the topic of the same camera's frames at the size of the policy contract."""
    return f'ingest/{camera}/image'


def camera_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of camera names; blanks around names are dropped.

    :raises ValueError: for an empty or repeated name.
    """
    if not text.strip():
        return ()
    names = tuple(part.strip() for part in text.split(','))
    if '' in names or len(set(names)) != len(names):
        raise ValueError(f"camera list '{text}' has an empty or repeated name: write it as cam_high,cam_low")
    return names
