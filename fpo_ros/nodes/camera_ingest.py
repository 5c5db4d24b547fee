"""Camera frames brought to the size of the policy contract, padded to its aspect, with every stream's health."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from sensor_msgs.msg import CompressedImage, Image

from fpo_ros.hardware.cameras import CameraStream, camera_streams
from fpo_ros.hardware.images import ImageError
from fpo_ros.hardware.names import camera_list, resized_topic
from fpo_ros.nodes import qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.cameras import CameraParameters
from fpo_ros.nodes.logic.health import ERROR, Health, StreamMonitor
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.raw_images import RawImage, read_compressed, read_image, write_image
from fpo_ros.nodes.running import run_node
from fpo_ros.policy.transforms import resize_with_pad

#: Message type and reader of a raw and of a compressed stream.
_READERS = {False: (Image, read_image), True: (CompressedImage, read_compressed)}


@dataclass(frozen=True)
class CameraIngestParameters(CameraParameters):
    """Parameters of ``camera_ingest``."""

    cameras: str = param('cam_high', 'camera names, comma-separated')
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
        p = self.params
        cameras = camera_list(p.cameras)
        if not cameras:
            raise ValueError('parameter cameras is empty: name at least one camera, or leave this node out')
        self.streams = camera_streams(cameras, p.image_name, p.image_topics, p.image_transports)
        self.monitors = {camera: StreamMonitor(camera, p.expected_rate, p.max_age) for camera in cameras}
        self.outputs = {camera: self.add_publisher(Image, resized_topic(camera), qos.SENSOR)
                        for camera in cameras}
        for camera, stream in self.streams.items():
            kind, reader = _READERS[stream.compressed]
            self.add_subscription(kind, stream.topic, partial(self._on_frame, camera, reader), qos.SENSOR, raw=True)

    def _on_frame(self, camera: str, reader: Callable[[bytes], RawImage], data: bytes) -> None:
        if not self.active:
            return
        monitor, now = self.monitors[camera], self.steady_ns()
        try:
            frame = reader(data)
            small = resize_with_pad(frame.pixels, self.params.image_height, self.params.image_width)
        except ImageError as error:
            monitor.arrived(now)
            monitor.reject(str(error))
            self.error_once(f'{camera}, topic {self.streams[camera].topic}: {error}')
            return
        monitor.arrived(now, frame.stamp_ns)
        self.outputs[camera].publish(write_image(replace(frame, pixels=small)))

    def health(self) -> list[Health]:
        """Return one line per camera; one that is silent says what its topic lacks."""
        lines = [monitor.health(self.steady_ns()) for monitor in self.monitors.values()]
        return [replace(line, message=f'{line.message}{self._lacks(self.streams[line.part])}')
                if line.level == ERROR else line for line in lines]

    def _lacks(self, stream: CameraStream) -> str:
        """Return what a silent stream suffers from, as far as the graph of topics shows it."""
        found = {info.topic_type for info in self.get_publishers_info_by_topic(stream.topic)}
        if stream.type_name in found:
            return f' on {stream.topic}'
        if found:
            return f' on {stream.topic}, which holds {", ".join(sorted(found))} and not {stream.type_name}'
        other = stream.topic.removesuffix('/compressed') if stream.compressed else f'{stream.topic}/compressed'
        if self.get_publishers_info_by_topic(other):
            way = 'raw' if stream.compressed else 'compressed'
            return f': nobody publishes {stream.topic}, but {other} is there: set image_transports to {way} for it'
        return f': nobody publishes {stream.topic}: start its driver, or name its topic in image_topics'


def main() -> int:
    """Run the node."""
    return run_node(CameraIngest)


if __name__ == '__main__':
    sys.exit(main())
