"""Camera ingestion beside a bare subscriber: four replayed cameras, frames lost on the way and CPU time taken."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from sensor_msgs.msg import Image

from fpo_ros.bench.graph_peers import Peer
from fpo_ros.hardware.names import resized_topic
from fpo_ros.nodes import qos
from fpo_ros.nodes.graph import GraphOptions, NodeSpec, describe
from fpo_ros.nodes.processes import NodeProcess, end_all
from fpo_ros.nodes.ros_client import RosClient
from fpo_ros.nodes.transport import profile_variables

CAMERAS = ('cam_high', 'cam_low', 'cam_left_wrist', 'cam_right_wrist')
RATE_HZ = 30.0
#: Time for frames of all cameras to come through, and for the last ones after the end [s].
_START_LIMIT_S, _LINGER_S = 30.0, 1.0


def measure(seconds: float, namespace: str, domain: int, directory: Path,
            update: Callable[[float], None], size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the share of frames lost and the shares of a core taken, for ``camera_ingest`` and the bare subscriber.

    Frames are those of four cameras of 640x480 at 30 Hz in rgb8; all cameras send at once. They count as lost where
    their resized picture does not arrive.

    :param seconds: for how long frames are counted [s].
    :param directory: where the node's parameter file goes.
    :param update: is told how long it has been [s].
    :param size: rows and columns of the pictures passed on [pixels]; None: as the packaged real cell says.
    :raises RuntimeError: when a process ends early.
    :raises fpo_ros.nodes.graph.GraphError: when no frames come through.
    """
    options = GraphOptions(mode='real', use_twin=True, cameras=','.join(CAMERAS), parameters={'camera_ingest': {
        'image_height': size[0], 'image_width': size[1]}} if size else {})
    ingest = next(spec for spec in describe(options).nodes if spec.name == 'camera_ingest')
    spec = NodeSpec(ingest.name, ingest.module, namespace, ingest.parameters)
    environment = os.environ | {'ROS_DOMAIN_ID': str(domain)}
    names, frames = ','.join(CAMERAS), round(seconds * RATE_HZ)
    process = NodeProcess(spec, directory, domain, lambda name, line: None)
    peers: list[Peer] = []
    try:
        with RosClient('bench_cameras', namespace, domain) as client:
            peers.append(Peer('copy', (namespace, names), environment))
            peers.append(Peer('cameras', (namespace, names, str(RATE_HZ), str(frames)),
                              environment | profile_variables(environment)))
            copy, cameras = peers
            counts, flowing = dict.fromkeys(CAMERAS, 0), set()

            def on_picture(camera: str, message: Image) -> None:
                flowing.add(camera)
                counts[camera] += bool(message.header.frame_id)

            for camera in CAMERAS:
                client.node.create_subscription(Image, resized_topic(camera), partial(on_picture, camera), qos.COUNTED)
            client.wait_for(lambda: len(flowing) == len(CAMERAS) or not process.running,
                            'pictures of all cameras from camera_ingest', _START_LIMIT_S)
            if not process.running:
                raise RuntimeError(process.describe_end())
            copy.ask()
            before, sent = _used(process.popen.pid, copy.pid), _ask_beside(cameras, seconds, update)
            used = [now - then for now, then in zip(_used(process.popen.pid, copy.pid), before, strict=True)]
            time.sleep(_LINGER_S)
            came = copy.ask()['came']
    finally:
        for peer in reversed(peers):
            peer.close()
        end_all([process])
    count, took = sent['sent_per_camera'] * len(CAMERAS), sent['took_s']
    return {'camera_drop_fraction': 1 - sum(counts.values()) / count, 'bare_drop_fraction': 1 - came / count,
            'ingest_cpu_fraction': used[0] / took, 'bare_subscriber_cpu_fraction': used[1] / took}


def _used(*pids: int) -> list[float]:
    """Return the CPU time that processes have used [s]."""
    return [times.user + times.system for times in (psutil.Process(pid).cpu_times() for pid in pids)]


def _ask_beside(cameras: Peer, seconds: float, update: Callable[[float], None]) -> dict[str, Any]:
    """Let the frames be sent, tell how long it has been meanwhile, and return what was sent and how long it took."""
    begun, told = time.monotonic(), []
    thread = threading.Thread(target=lambda: told.append(cameras.ask(2 * seconds + _START_LIMIT_S)), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        update(min(seconds, time.monotonic() - begun))
    if not told:
        raise RuntimeError('the replay of camera frames has ended')
    return told[0] | {'took_s': time.monotonic() - begun}
