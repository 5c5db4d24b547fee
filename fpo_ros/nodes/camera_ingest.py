"""Camera frames brought to the size of the policy contract, padded to its aspect, with every stream's health."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial

from sensor_msgs.msg import Image

from fpo_ros.hardware.images import ImageError
from fpo_ros.hardware.names import IMAGE_NAMES, camera_list, camera_topic, resized_topic
from fpo_ros.nodes import qos
from fpo_ros.nodes.base import CellNode, run_node
from fpo_ros.nodes.logic.health import Health, StreamMonitor
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.raw_images import read_image, write_image
from fpo_ros.policy.transforms import resize_with_pad


@dataclass(frozen=True)
class CameraIngestParameters:
    """Parameters of ``camera_ingest``."""

    cameras: str = param('cam_high', 'camera names, comma-separated')
    image_name: str = param(IMAGE_NAMES[0], "last part of the cameras' topic", choices=IMAGE_NAMES)
    image_height: int = param(96, 'rows of every frame passed on [pixels]', low=8, high=2160)
    image_width: int = param(96, 'columns of every frame passed on [pixels]', low=8, high=3840)
    expected_rate: float = param(
        25.0, 'frame rate below 80 % of which health warns [Hz]', low=0.1, high=240.0
    )
    max_age: float = param(0.3, 'age without a frame that health calls an error [s]', low=0.01, high=10.0)


class CameraIngest(CellNode):
    """Subscribes each camera driver and publishes its frames, resized and padded, with the driver's stamp."""

    NAME = 'camera_ingest'
    PARAMETERS = CameraIngestParameters

    def setup(self) -> None:
        """Connect one input and one output per camera."""
        cameras = camera_list(self.params.cameras)
        if not cameras:
            raise ValueError('parameter cameras is empty: name at least one camera, or leave this node out')
        self.monitors = {camera: StreamMonitor(camera, self.params.expected_rate, self.params.max_age)
                         for camera in cameras}
        self.outputs = {camera: self.add_publisher(Image, resized_topic(camera), qos.SENSOR)
                        for camera in cameras}
        for camera in cameras:
            self.add_subscription(Image, camera_topic(camera, self.params.image_name),
                                  partial(self._on_frame, camera), qos.SENSOR, raw=True)

    def _on_frame(self, camera: str, data: bytes) -> None:
        if not self.active:
            return
        monitor = self.monitors[camera]
        monitor.arrived(self.steady_ns())
        try:
            frame = read_image(data)
            small = resize_with_pad(frame.pixels, self.params.image_height, self.params.image_width)
        except ImageError as error:
            monitor.reject(str(error))
            self.error_once(f'{camera}: {error}')
            return
        self.outputs[camera].publish(write_image(replace(frame, pixels=small)))

    def health(self) -> list[Health]:
        """Return one line per camera."""
        return [monitor.health(self.steady_ns()) for monitor in self.monitors.values()]


def main() -> int:
    """Run the node."""
    return run_node(CameraIngest)


if __name__ == '__main__':
    sys.exit(main())
