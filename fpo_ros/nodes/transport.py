"""Which processes get the transports of ``config/fastdds.xml``: those that send pictures."""

from __future__ import annotations

from collections.abc import Mapping

from fpo_ros.nodes.graph import NodeSpec
from fpo_ros.nodes.locate import share_path

#: Variables that name a profile to Fast DDS 3 and to Fast DDS 2. Other middleware reads neither.
VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
#: Distributions with Fast DDS 2; version 3 complains about its variable.
FAST_DDS_2 = ('humble', 'iron', 'jazzy')
#: Nodes that publish images.
SENDERS = ('driver_twin', 'camera_ingest', 'proprio_ingest')


def sends_images(spec: NodeSpec) -> bool:
    """Return whether a node publishes images."""
    return spec.name in SENDERS and bool(spec.parameters.get('cameras'))


def profile_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that a process that sends images gets; none where the user named a profile of their own."""
    if any(environment.get(name) for name in VARIABLES):
        return {}
    return {VARIABLES[environment.get('ROS_DISTRO') in FAST_DDS_2]: str(share_path('config/fastdds.xml'))}
