"""The twin's camera drivers: pictures under RealSense's names, with the faults that strike them."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from sensor_msgs.msg import CompressedImage

from fpo_ros.nodes import convert
from fpo_ros.sim.render import WorldRenderer

if TYPE_CHECKING:
    from fpo_ros.sim.twin.node import DriverTwin


class CameraDrivers:
    """Renders and publishes one frame per camera and call, always on the one thread that owns the GL context.

    :param node: the twin.
    """

    def __init__(self, node: DriverTwin) -> None:
        self._node = node
        self._renderer: WorldRenderer | None = None
        self._last: dict[str, np.ndarray] = {}

    def publish(self) -> None:
        """Render and publish one frame per camera."""
        node, p = self._node, self._node.params
        if self._renderer is None:
            self._renderer = WorldRenderer(p.task, p.image_height, p.image_width)
        now, positions = node.get_clock().now(), node.physics.positions()
        for camera, (output, compressed) in node.camera_outputs.items():
            with node.physics.lock:
                faults = {name: node.physics.faults.value(name, camera)
                          for name in ('camera_stall', 'camera_black', 'camera_frozen', 'clock_jump')}
            if faults['camera_stall'] is not None:
                continue
            image = self._picture(camera, positions, faults)
            stamp = (now + Duration(seconds=faults['clock_jump']) if faults['clock_jump'] else now).to_msg()
            frame = f'{camera}_color_optical_frame'
            output.publish(convert.image_message(image, stamp, frame))
            if compressed is not None:
                compressed.publish(jpeg_message(image, stamp, frame, p.jpeg_quality))
            node.frames += 1

    def _picture(self, camera: str, positions: np.ndarray, faults: dict[str, float | None]) -> np.ndarray:
        if faults['camera_frozen'] is not None and camera in self._last:
            return self._last[camera]
        image = self._renderer.render(positions, camera)
        if faults['camera_black'] is not None:
            image = np.zeros_like(image)
        self._last[camera] = image
        return image

    def close(self) -> None:
        """Release the GL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def jpeg_message(image: np.ndarray, stamp: Time, frame_id: str, quality: int) -> CompressedImage:
    """Return what image_transport publishes beside an (H, W, 3) uint8 RGB image.

    :param quality: of JPEG, 1 to 100.
    """
    done, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f'a picture of shape {image.shape} could not be compressed')
    message = CompressedImage(format='rgb8; jpeg compressed bgr8')
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.data = array.array('B', data.tobytes())
    return message
