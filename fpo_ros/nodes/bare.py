"""Bare nodes to measure the graph against: ``python -m fpo_ros.nodes.bare ROLE NAMESPACE …``.

``loop`` wakes in an rclpy timer and sends an observation, ``echo`` answers it with a chunk, ``loop`` that with a
command: the messages of the graph's path without its work. ``cameras`` replays frames, ``copy`` copies their pixels.
A line on standard input asks for what was seen since the line before; the end of the input ends the process.
"""

from __future__ import annotations

import array
import json
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fpo_ros.policy.contract import CONTROL_RATE_HZ, START_JOINTS, PolicyContract

#: Frames of a camera in a replay [pixels], and how many different ones.
HEIGHT, WIDTH, FRAMES = 480, 640, 8


def _serve(node: Any, answer: Callable[[], Any]) -> None:
    """Spin a node until standard input ends, and answer its lines, on this thread."""
    from fpo_ros.nodes.running import make_executor

    executor, lock = make_executor(), threading.Lock()
    executor.add_node(node)
    asked = 0

    def listen() -> None:
        nonlocal asked
        for _ in sys.stdin:
            with lock:
                asked += 1
        with lock:
            asked = -1

    threading.Thread(target=listen, daemon=True).start()
    while True:
        executor.spin_once(timeout_sec=0.05)
        with lock:
            now, asked = asked, min(asked, 0)
        if now < 0:
            return
        for _ in range(now):
            print(json.dumps(answer()), flush=True)


def loop(node: Any) -> Callable[[], Any]:
    """Wake at the control rate; tell [ticks, stamp [ns], missed ticks] of each time."""
    from interbotix_xs_msgs.msg import JointGroupCommand

    from fpo_ros.msg import ActionChunk, Observation
    from fpo_ros.nodes import convert, qos
    from fpo_ros.runtime.timing import PeriodStatistics

    observations = node.create_publisher(Observation, 'bare/observation', qos.OBSERVATION)
    commands = node.create_publisher(JointGroupCommand, 'bare/command', qos.COMMAND)
    timing, seen = PeriodStatistics(1 / CONTROL_RATE_HZ), []
    message = Observation(joint_positions=START_JOINTS.astype('f4'), object_pose_ages=[0.0])
    message.object_poses = convert.pose_messages(np.array([0.0, 0.5, 0.05, 1.0, 0.0, 0.0, 0.0]))
    cmd = array.array('f', START_JOINTS[:6])

    def on_timer() -> None:
        now = node.get_clock().now()
        timing.tick(now.nanoseconds)
        seen.append((timing.ticks, now.nanoseconds, timing.missed))
        message.header.stamp = now.to_msg()
        observations.publish(message)

    def on_chunk(chunk: Any) -> None:
        stamp = convert.nanoseconds(chunk.observation_stamp)
        commands.publish(JointGroupCommand(name=str(stamp), cmd=cmd))

    def answer() -> list:
        told, seen[:] = list(seen), []
        return told

    node.create_subscription(ActionChunk, 'bare/action_chunk', on_chunk, qos.COMMAND)
    node.create_timer(1 / CONTROL_RATE_HZ, on_timer)
    return answer


def echo(node: Any) -> Callable[[], Any]:
    """Answer observations with chunks at once; tell the times from observations to the commands that came [ms]."""
    from interbotix_xs_msgs.msg import JointGroupCommand

    from fpo_ros.msg import ActionChunk, Observation
    from fpo_ros.nodes import convert, qos

    chunks = node.create_publisher(ActionChunk, 'bare/action_chunk', qos.COMMAND)
    rows, seen = np.tile(START_JOINTS, (PolicyContract().horizon, 1)), []
    message = convert.chunk_message(rows, sequence=1, observation_ns=0, measured_ns=0, now_ns=0, version='v000001',
                                    period_s=0.02, inference_s=0.0)

    def on_observation(observation: Any) -> None:
        message.observation_stamp = message.measured_stamp = observation.header.stamp
        chunks.publish(message)

    def answer() -> list:
        told, seen[:] = list(seen), []
        return told

    node.create_subscription(Observation, 'bare/observation', on_observation, qos.OBSERVATION)
    node.create_subscription(JointGroupCommand, 'bare/command', lambda command: seen.append(
        (node.get_clock().now().nanoseconds - int(command.name)) * 1e-6), qos.COMMAND)
    return answer


def cameras(node: Any, names: str, rate_hz: str, frames: str) -> Callable[[], Any]:
    """Replay frames of all cameras at once, at a rate; tell when the numbered ones have been sent.

    Those before the first line carry no number in ``frame_id``, so that whoever receives them can find the topics.
    """
    from sensor_msgs.msg import Image

    from fpo_ros.hardware.names import camera_topic
    from fpo_ros.nodes import qos

    outputs = [node.create_publisher(Image, camera_topic(name), qos.DRIVER) for name in names.split(',')]
    rng = np.random.default_rng(0)
    messages = [Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH,
                      data=array.array('B', rng.bytes(HEIGHT * WIDTH * 3))) for _ in range(FRAMES)]
    number, done, stopped = 0, threading.Event(), threading.Event()
    wanted = threading.Event()

    def send() -> None:
        nonlocal number
        due = time.monotonic()
        for count in range(sys.maxsize):
            message = messages[count % FRAMES]
            message.header.frame_id = str(number) if wanted.is_set() else ''
            for output in outputs:
                message.header.stamp = node.get_clock().now().to_msg()
                output.publish(message)
            number += wanted.is_set()
            if number >= int(frames) or stopped.is_set():
                done.set()
                return
            due += 1 / float(rate_hz)
            time.sleep(max(0.0, due - time.monotonic()))

    def answer() -> dict:
        wanted.set()
        done.wait()
        return {'sent_per_camera': number}

    threading.Thread(target=send, daemon=True).start()
    return answer


def copy(node: Any, names: str) -> Callable[[], Any]:
    """Copy the pixels of every frame; tell how many numbered ones came."""
    from sensor_msgs.msg import Image

    from fpo_ros.hardware.names import camera_topic
    from fpo_ros.nodes import convert, qos

    kept: dict[str, np.ndarray] = {}
    came = 0

    def on_frame(name: str, message: Any) -> None:
        nonlocal came
        kept[name] = convert.image_array(message).copy()
        came += bool(message.header.frame_id)

    for name in names.split(','):
        node.create_subscription(Image, camera_topic(name), partial(on_frame, name), qos.SENSOR)
    return lambda: {'came': came}


ROLES = {'loop': loop, 'echo': echo, 'cameras': cameras, 'copy': copy}


def main(role: str, namespace: str, *arguments: str) -> None:
    """Run one role until standard input ends."""
    import rclpy

    rclpy.init(args=[])
    node = rclpy.create_node(f'bare_{role}', namespace=namespace, start_parameter_services=False, enable_rosout=False)
    _serve(node, ROLES[role](node, *arguments))
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == '__main__':
    main(*sys.argv[1:])
