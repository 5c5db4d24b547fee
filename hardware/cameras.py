"""Where the pictures of each camera come from: topic and transport, of RealSense drivers or of any other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fpo_ros.hardware.names import IMAGE_NAMES, camera_topic
from fpo_ros.hardware.words import near

#: Transports of image_transport that are read: sensor_msgs/Image, and sensor_msgs/CompressedImage below its topic.
TRANSPORTS = ('raw', 'compressed')
_TOPIC = re.compile(r'/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)


@dataclass(frozen=True)
class CameraStream:
    """What is subscribed to for a camera.

    :param topic: with ``/compressed`` where it holds compressed pictures; relative to the namespace of the cell, or
        absolute.
    :param compressed: whether it holds sensor_msgs/CompressedImage.
    """

    topic: str
    compressed: bool = False

    @property
    def type_name(self) -> str:
        """Type of its messages."""
        return 'sensor_msgs/msg/CompressedImage' if self.compressed else 'sensor_msgs/msg/Image'


def camera_streams(cameras: Collection[str], image_name: str = IMAGE_NAMES[0], topics: str = '',
                   transports: str = '') -> dict[str, CameraStream]:
    """Return camera → where its pictures come from.

    :param image_name: last part of the topics of RealSense cameras.
    :param topics: ``camera=topic``, comma-separated, of cameras with another topic than a RealSense driver's.
    :param transports: ``camera=transport``, comma-separated, of cameras that are not ``raw``.
    :raises ValueError: for a camera that is none of ``cameras``, an impossible topic or transport, or two cameras
        that would show the same.
    """
    named, ways = entries(topics, 'image_topics'), entries(transports, 'image_transports')
    for name, of in ((name, of) for values, of in ((named, 'image_topics'), (ways, 'image_transports'))
                     for name in values):
        if name not in cameras:
            raise ValueError(f"{of} names camera '{name}', which is none of cameras: {near(name, cameras)}")
    out = {camera: stream(named.get(camera) or camera_topic(camera, image_name), ways.get(camera, TRANSPORTS[0]))
           for camera in cameras}
    topics_of: dict[str, str] = {}
    for camera, one in out.items():
        if (other := topics_of.setdefault(one.topic, camera)) != camera:
            raise ValueError(f"cameras '{other}' and '{camera}' have the same topic {one.topic}: give each its own in "
                             'image_topics')
    return out


def stream(topic: str, transport: str) -> CameraStream:
    """Return what is subscribed to for a topic of pictures, as image_transport names it.

    :param topic: base topic; one that ends in ``/compressed`` already is kept.
    :param transport: one of :data:`TRANSPORTS`.
    :raises ValueError: for what cannot be.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"'{transport}' is no transport of pictures: use {' or '.join(TRANSPORTS)}")
    if not _TOPIC.fullmatch(topic):
        raise ValueError(f"'{topic}' is no topic: write it as usb_cam/image_raw, or /usb_cam/image_raw for one outside "
                         'the namespace of the cell')
    named = topic.endswith('/compressed')
    if transport == 'raw':
        if named:
            raise ValueError(f"topic '{topic}' holds compressed pictures: set the camera's transport to compressed")
        return CameraStream(topic)
    return CameraStream(topic if named else f'{topic}/compressed', compressed=True)


def entries(text: str, what: str) -> dict[str, str]:
    """Split ``name=value`` pairs, comma-separated; blanks around each are dropped.

    :param what: parameter that holds them, for the error.
    :raises ValueError: for what is no pair, or a repeated name.
    """
    out: dict[str, str] = {}
    for part in text.split(',') if text.strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition('='))
        if not (name and equals and value) or name in out:
            raise ValueError(f"{what} '{text}' has an incomplete or repeated entry: write it as "
                             'cam_high=VALUE,cam_low=VALUE')
        out[name] = value
    return out


def joined(values: Mapping[str, str], cameras: Collection[str]) -> str:
    """Return the entries of some cameras as :func:`entries` reads them."""
    return ','.join(f'{name}={value}' for name, value in values.items() if name in cameras)
