"""How many camera frames arrive: ``python benchmarks/camera_traffic.py`` with default transports and with our profile.

One process sends the frames of four cameras as their drivers do, another receives them as ``camera_ingest`` does.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import platform
import subprocess
import sys
import time

CAMERAS = ('cam_high', 'cam_low', 'cam_left_wrist', 'cam_right_wrist')
HEIGHT, WIDTH = 480, 640
#: Time for discovery before counting starts, and for the last frames after it ends [s].
WARM_UP_S, LINGER_S = 2.0, 1.0


def send(rate_hz: float, duration_s: float) -> None:
    """Publish all cameras at one rate; the sequence number is in frame_id."""
    import rclpy
    from sensor_msgs.msg import Image

    from fpo_ros.hardware.names import camera_topic
    from fpo_ros.nodes import qos

    rclpy.init(args=[])
    node = rclpy.create_node('cameras')
    outputs = [node.create_publisher(Image, camera_topic(camera), qos.DRIVER) for camera in CAMERAS]
    data = array.array('B', os.urandom(HEIGHT * WIDTH * 3))
    message = Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=3 * WIDTH, data=data)
    begun = time.monotonic()
    for number in range(round(rate_hz * (duration_s + WARM_UP_S))):
        time.sleep(max(0.0, begun + number / rate_hz - time.monotonic()))
        for output in outputs:
            counted = number >= rate_hz * WARM_UP_S
            message.header.frame_id = str(number) if counted else ''
            message.header.stamp = node.get_clock().now().to_msg()
            output.publish(message)
    time.sleep(LINGER_S)
    rclpy.shutdown()


def receive(rate_hz: float, duration_s: float) -> None:
    """Count the frames of each camera and their latency; prints one JSON object."""
    import rclpy
    from sensor_msgs.msg import Image

    from fpo_ros.hardware.names import camera_topic
    from fpo_ros.nodes import convert, qos
    from fpo_ros.nodes.running import make_executor

    rclpy.init(args=[])
    node = rclpy.create_node('ingest')
    arrived = dict.fromkeys(CAMERAS, 0)
    latencies: list[float] = []

    def on_frame(camera: str, message: Image) -> None:
        if message.header.frame_id:
            arrived[camera] += 1
            latencies.append((node.get_clock().now().nanoseconds - convert.nanoseconds(message.header.stamp)) * 1e-6)

    for camera in CAMERAS:
        node.create_subscription(Image, camera_topic(camera), lambda m, camera=camera: on_frame(camera, m), qos.SENSOR)
    executor = make_executor()
    executor.add_node(node)
    until = time.monotonic() + WARM_UP_S + duration_s + 2 * LINGER_S
    while time.monotonic() < until:
        executor.spin_once(timeout_sec=0.1)
    latencies.sort()
    sent = round(rate_hz * duration_s)
    print(json.dumps({
        'sent_per_camera': sent, 'arrived': arrived,
        'lost_percent': round(100 - 100 * sum(arrived.values()) / (sent * len(CAMERAS)), 1),
        'latency_p50_ms': round(latencies[len(latencies) // 2], 2) if latencies else None,
        'latency_p99_ms': round(latencies[int(0.99 * len(latencies))], 2) if latencies else None}))
    rclpy.shutdown()


def measure(profile: str, rate_hz: float, duration_s: float) -> dict:
    """Run both processes with a Fast DDS profile, '' for default transports, and return what was received."""
    environment = {name: value for name, value in os.environ.items() if name != 'FASTDDS_DEFAULT_PROFILES_FILE'}
    if profile:
        environment['FASTDDS_DEFAULT_PROFILES_FILE'] = profile
    command = [sys.executable, __file__, '--rate', str(rate_hz), '--seconds', str(duration_s), '--role']
    receiver = subprocess.Popen([*command, 'receive'], env=environment, stdout=subprocess.PIPE, text=True)
    subprocess.run([*command, 'send'], env=environment, check=True)
    return json.loads(receiver.communicate(timeout=60)[0].splitlines()[-1])


def main() -> None:
    """Measure default transports and the profile of this package, one after the other, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rate', type=float, default=30.0, help='frames per camera and second [Hz]')
    parser.add_argument('--seconds', type=float, default=10.0, help='duration of one measurement [s]')
    parser.add_argument('--rounds', type=int, default=3, help='measurements of each kind, in turn')
    parser.add_argument('--profile', default='', help='Fast DDS profile compared; empty: config/fastdds.xml')
    parser.add_argument('--role', choices=('send', 'receive'), help='what this process does; none: measure')
    options = parser.parse_args()
    if options.role:
        (send if options.role == 'send' else receive)(options.rate, options.seconds)
        return
    from fpo_ros.nodes.locate import share_path

    profile = options.profile or str(share_path('config/fastdds.xml'))
    rounds = [{kind: measure(file, options.rate, options.seconds) for kind, file in
               (('default', ''), ('profile', profile))} for _ in range(options.rounds)]
    print(json.dumps({'machine': platform.platform(), 'cores': os.cpu_count(), 'cameras': len(CAMERAS),
                      'rate_hz': options.rate, 'seconds': options.seconds, 'rounds': rounds}, indent=2))


if __name__ == '__main__':
    main()
