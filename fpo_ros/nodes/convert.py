"""Between messages and the values of the core. Pure functions; a test feeds them plain messages."""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose
from sensor_msgs.msg import Image

from fpo_ros.hardware.images import rgb_image
from fpo_ros.msg import ActionChunk, LeaderPose
from fpo_ros.msg import Observation as ObservationMessage
from fpo_ros.policy.contract import OBJECT_POSE_DIM, ContractError, Observation
from fpo_ros.runtime.controller_config import ArmState


def nanoseconds(stamp: Time) -> int:
    """Return a stamp as nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def arm_state(number: int) -> ArmState | None:
    """Return a state of the controller; None for a number that is none, as a controller of another version may send."""
    try:
        return ArmState(number)
    except ValueError:
        return None


def stamp_of(nanosec: int) -> Time:
    """Return nanoseconds as a stamp."""
    return Time(sec=nanosec // 1_000_000_000, nanosec=nanosec % 1_000_000_000)


def pose_array(pose: Pose) -> np.ndarray:
    """Return (7,) float64: position [m] and quaternion (w, x, y, z)."""
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z, q.w, q.x, q.y, q.z])


def pose_message(pose: np.ndarray) -> Pose:
    """Inverse of :func:`pose_array`."""
    message = Pose()
    p, q = message.position, message.orientation
    p.x, p.y, p.z, q.w, q.x, q.y, q.z = map(float, pose)
    return message


def poses_array(poses: Sequence[Pose]) -> np.ndarray | None:
    """Return (7 * objects,) float64, the poses one after the other; None where there is none."""
    return np.concatenate([pose_array(pose) for pose in poses]) if poses else None


def pose_messages(poses: np.ndarray) -> list[Pose]:
    """Inverse of :func:`poses_array`."""
    return [pose_message(pose) for pose in poses.reshape(-1, OBJECT_POSE_DIM)]


def image_message(image: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """Return an rgb8 message of an (H, W, 3) uint8 RGB image."""
    message = Image(height=image.shape[0], width=image.shape[1], encoding='rgb8', step=3 * image.shape[1])
    message.header.stamp, message.header.frame_id = stamp, frame_id
    # rclpy copies an array.array('B') at once, and anything else element by element.
    message.data = array.array('B', np.ascontiguousarray(image).tobytes())
    return message


def image_array(message: Image) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB pixels of an image message.

    :raises fpo_ros.hardware.images.ImageError: for an unsupported encoding or a wrong size.
    """
    return rgb_image(message.data, message.encoding, message.height, message.width, message.step)


def observation_images(message: ObservationMessage) -> dict[str, np.ndarray]:
    """Return camera name → (H, W, 3) uint8 RGB of an observation.

    :raises ContractError: when names and images do not match.
    """
    if len(message.camera_names) != len(message.images):
        raise ContractError(f'observation names {len(message.camera_names)} cameras but has '
                            f'{len(message.images)} images')
    return {name: image_array(image)
            for name, image in zip(message.camera_names, message.images, strict=True)}


def observation_value(message: ObservationMessage) -> Observation:
    """Return the core's observation of a message.

    :raises ContractError: when names and images do not match.
    """
    return Observation(np.asarray(message.joint_positions, np.float32), observation_images(message),
                       poses_array(message.object_poses), nanoseconds(message.header.stamp))


def oldest_part_ns(message: ObservationMessage) -> int:
    """Return the instant the oldest part of an observation was measured [ns]."""
    age = max([message.joint_age, *message.image_ages, *message.object_pose_ages])
    return nanoseconds(message.header.stamp) - round(age * 1e9)


def chunk_message(chunk: np.ndarray, *, sequence: int, observation_ns: int, measured_ns: int, now_ns: int,
                  version: str, period_s: float, inference_s: float,
                  joining: int = ActionChunk.JOIN_AFTER) -> ActionChunk:
    """Return the message of a (horizon, 14) chunk.

    :param observation_ns: stamp of the observation that it answers [ns].
    :param measured_ns: when the oldest part of that was measured [ns].
    """
    message = ActionChunk(sequence=sequence, policy_version=version, control_period=period_s,
                          horizon=chunk.shape[0], action_dim=chunk.shape[1], inference_time=inference_s,
                          joining=int(joining))
    message.header.stamp = stamp_of(now_ns)
    message.observation_stamp = stamp_of(observation_ns)
    message.measured_stamp = stamp_of(measured_ns)
    message.actions = array.array('f', np.ascontiguousarray(chunk, np.float32).tobytes())
    return message


def leader_message(pose: np.ndarray, stamp_ns: int) -> LeaderPose:
    """Return the message of (14,) joints of both leaders measured at an instant [ns]."""
    message = LeaderPose(joint_positions=pose.astype(np.float32))
    message.header.stamp = stamp_of(stamp_ns)
    return message


def chunk_array(message: ActionChunk) -> np.ndarray:
    """Return the (horizon, action_dim) float32 rows of a chunk message.

    :raises ContractError: when the number of values is not horizon times action_dim.
    """
    values = np.asarray(message.actions, np.float32)
    if values.size != message.horizon * message.action_dim:
        raise ContractError(f'chunk {message.sequence} says {message.horizon} x {message.action_dim} values '
                            f'but has {values.size}')
    return values.reshape(message.horizon, message.action_dim)


def plain(message: Any, *names: str) -> dict[str, Any]:
    """Return some fields of a message as a dictionary of plain values, arrays as lists."""
    out = {}
    for name in names:
        value = getattr(message, name)
        out[name] = value if isinstance(value, (str, int, float, bool)) else list(value)
    return out
