"""Parameters that say where the pictures of cameras come from, for their driver's twin and for who reads them."""

from __future__ import annotations

from dataclasses import dataclass

from fpo_ros.hardware.names import IMAGE_NAMES
from fpo_ros.nodes.parameters import param


@dataclass(frozen=True)
class CameraParameters:
    """Base of the parameters of a node with cameras; ``hardware.cameras.camera_streams`` reads them.

    The configuration files hold them once, under ``/**``, for every node that has them.
    """

    image_name: str = param(IMAGE_NAMES[0], 'last part of the topics of RealSense cameras, <camera>/camera/color/…',
                            choices=IMAGE_NAMES)
    image_topics: str = param('', 'other topics, of other drivers, such as cam_high=/usb_cam/image_raw, '
                              'comma-separated')
    image_transports: str = param('', 'cameras read as JPEG or PNG from <topic>/compressed, such as '
                                  'cam_high=compressed, comma-separated; the others are raw')
