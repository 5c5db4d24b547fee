"""Cameras of a configuration: each node has those that the next one wants, with topics and transports that can be."""

from __future__ import annotations

from typing import Any

from fpo_ros.hardware.cameras import camera_streams, entries, joined
from fpo_ros.hardware.names import camera_list
from fpo_ros.hardware.words import near
from fpo_ros.nodes.configuration import CAMERA_NODES, Configuration, GraphError


def check_cameras(config: Configuration, with_twin: bool) -> tuple[str, ...]:
    """Return the cameras of the cell.

    :raises GraphError: when one node wants a camera that the node before it does not give.
    """
    pairs = [('policy', 'proprio_ingest'), ('proprio_ingest', 'camera_ingest')]
    pairs += [('proprio_ingest', 'driver_twin')] if with_twin else []
    try:
        lists = {node: camera_list(config[node]['cameras']) for pair in pairs for node in pair}
    except ValueError as error:
        raise GraphError(str(error)) from error
    for node, source in pairs:
        lacking = [camera for camera in lists[node] if camera not in lists[source]]
        if lacking:
            raise GraphError(f"{node} wants camera '{lacking[0]}', but {source} has "
                             f'{", ".join(lists[source]) or "none"}: name the same cameras for both')
    return lists['proprio_ingest']


def fit_streams(config: Configuration, cell: dict[str, Any]) -> tuple[str, ...]:
    """Leave each node the topics and transports of the cameras that it has; return cameras with a topic of their own.

    :raises GraphError: for a camera that is not of this cell, or a stream that cannot be.
    """
    known = {name.removesuffix('_serial') for name in cell if name.endswith('_serial')}
    known.update(*(camera_list(config[node]['cameras']) for node in CAMERA_NODES))
    topics: dict[str, str] = {}
    for node in CAMERA_NODES:
        values, cameras = config[node], camera_list(config[node]['cameras'])
        try:
            for name in ('image_topics', 'image_transports'):
                found = entries(values[name], name)
                if unknown := [camera for camera in found if camera not in known]:
                    raise ValueError(f"{name} names camera '{unknown[0]}': {near(unknown[0], known)}")
                values[name] = joined(found, cameras)
            camera_streams(cameras, values['image_name'], values['image_topics'], values['image_transports'])
        except ValueError as error:
            raise GraphError(f'{node}: {error}') from error
        topics = entries(values['image_topics'], 'image_topics')
    return tuple(topics)
