"""Joint states, object poses and resized frames aligned to one instant: the Observation, at policy rate.

This node, not ``camera_ingest``, publishes the Observation: joints decide its rate, cameras are slower
and may be absent, and resizing stays in another process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState

from fpo_ros.hardware.alignment import Aligned, Aligner
from fpo_ros.hardware.gripper import calibrations_of
from fpo_ros.hardware.joints import JointStateError, both_sides, side_joints
from fpo_ros.hardware.names import SIDES, camera_list, joint_states_topic, object_pose_topics, resized_topic
from fpo_ros.msg import ActionChunk, ControllerStatus, Observation
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.gripper import GripperParameters
from fpo_ros.nodes.logic.frozen_pictures import FrozenPictures
from fpo_ros.nodes.logic.health import ERROR, OK, Health, StreamMonitor
from fpo_ros.nodes.logic.joints_of_then import depth_for, with_joints_of_then
from fpo_ros.nodes.logic.phase import PhaseLock
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.running import run_node
from fpo_ros.policy.contract import CONTROL_RATE_HZ, TASKS

#: Rate of a tag tracker [Hz]; health warns below 80 % of it.
POSE_RATE_HZ = 25.0
#: Time in which nodes find each other after the start [ns].
STARTUP_NS = 3_000_000_000


@dataclass(frozen=True)
class ProprioIngestParameters(GripperParameters):
    """Parameters of ``proprio_ingest``."""

    cameras: str = param(
        'cam_high', 'camera names in the order of the contract, comma-separated; empty for none'
    )
    optional_cameras: str = param('', 'those of them that observations go on without, comma-separated')
    task: str = param('transfer_cube', 'task of the cell, whose objects are tracked', choices=tuple(TASKS))
    object_pose: bool = param(True, 'whether a tracker publishes the poses of the objects')
    rate: float = param(50.0, 'observations published per second [Hz]', low=1.0, high=200.0)
    joint_rate: float = param(100.0, "rate of the drivers' joint_states [Hz]", low=10.0, high=1000.0)
    camera_rate: float = param(25.0, 'frame rate of the cameras [Hz]', low=0.1, high=240.0)
    max_joint_age: float = param(
        0.1, 'joint states older than this stop the observations [s]', low=0.005, high=1.0
    )
    max_image_age: float = param(0.3, 'frames older than this stop the observations [s]', low=0.01, high=5.0)
    max_pose_age: float = param(0.2, 'an object pose older than this leaves the poses out [s]', low=0.005, high=5.0)


class ProprioIngest(CellNode):
    """Publishes the newest object poses and frames, with the joints of their instant."""

    NAME = 'proprio_ingest'
    PARAMETERS = ProprioIngestParameters

    def setup(self) -> None:
        """Connect the streams and the aligner."""
        p = self.params
        self.cameras = camera_list(p.cameras)
        self.grippers = calibrations_of(p)
        self.spared = spared = camera_list(p.optional_cameras)
        if not set(spared) <= set(self.cameras):
            raise ValueError(f"optional_cameras '{p.optional_cameras}' must be some of the cameras '{p.cameras}'")
        required = dict.fromkeys(SIDES, p.max_joint_age) | dict.fromkeys(
            (camera for camera in self.cameras if camera not in spared), p.max_image_age)
        #: Topic of each object's pose, in the order of the task's objects; empty without a tracker.
        self.poses = object_pose_topics(p.task) if p.object_pose else ()
        optional = dict.fromkeys(self.poses, p.max_pose_age) | dict.fromkeys(spared, p.max_image_age)
        self.aligner = Aligner(required, optional, depth_for(p.joint_rate, (required | optional).values()))
        self.monitors = {side: StreamMonitor(f'joint_states {side}', p.joint_rate, p.max_joint_age)
                         for side in SIDES}
        self.monitors |= {camera: StreamMonitor(camera, p.camera_rate, p.max_image_age)
                          for camera in self.cameras}
        self.monitors |= {pose: StreamMonitor(pose, POSE_RATE_HZ, p.max_pose_age) for pose in self.poses}
        self.frozen = FrozenPictures()
        self.sequence = 0
        self.reason = 'not active'
        self.output = self.add_publisher(Observation, 'observation', qos.OBSERVATION)
        for side in SIDES:
            self.add_subscription(
                JointState, joint_states_topic(side), partial(self._on_joints, side), qos.SENSOR
            )
        for camera in self.cameras:
            self.add_subscription(Image, resized_topic(camera), partial(self._on_frame, camera), qos.SENSOR)
        for pose in self.poses:
            self.add_subscription(PoseStamped, pose, partial(self._on_pose, pose), qos.SENSOR)
        self.timer = self.add_timer(1 / p.rate, self._publish)
        self.period_ns = round(1e9 / p.rate)
        #: None where control periods have no fixed phase in the rate of the observations.
        self.phase = None if p.rate % CONTROL_RATE_HZ else PhaseLock(self.period_ns)
        if self.phase is not None:
            self.add_subscription(ControllerStatus, 'controller_status', self._on_status, qos.SENSOR)
            self.add_subscription(ActionChunk, 'action_chunk', self._on_chunk, qos.SENSOR)

    def start(self) -> None:
        """Start publishing; streams get a few seconds to appear before their absence is logged."""
        self.quiet_until = self.steady_ns() + STARTUP_NS

    def _on_joints(self, side: str, message: JointState) -> None:
        self.monitors[side].arrived(self.steady_ns(), convert.nanoseconds(message.header.stamp))
        try:
            joints = side_joints(message.name, message.position, self.grippers[side])
        except JointStateError as error:
            self.monitors[side].reject(str(error))
            self.error_once(f'follower {side}: {error}')
            return
        self._take(side, message.header.stamp, joints)

    def _on_frame(self, camera: str, message: Image) -> None:
        stamp_ns = convert.nanoseconds(message.header.stamp)
        self.monitors[camera].arrived(self.steady_ns(), stamp_ns)
        self._take(camera, message.header.stamp, message)
        then = [self.aligner.streams[side].at(stamp_ns) for side in SIDES]
        self.frozen.look(camera, message.data, stamp_ns,
                         None if None in then else both_sides(*(sample.value for sample in then)))

    def _on_pose(self, pose: str, message: PoseStamped) -> None:
        self.monitors[pose].arrived(self.steady_ns(), convert.nanoseconds(message.header.stamp))
        self._take(pose, message.header.stamp, message.pose)

    def _on_status(self, message: ControllerStatus) -> None:
        self.phase.control_period(convert.nanoseconds(message.header.stamp))

    def _on_chunk(self, message: ActionChunk) -> None:
        self.phase.answered(convert.nanoseconds(message.observation_stamp), self.now_ns())

    def _take(self, name: str, stamp: Time, value: Any) -> None:
        """Give a sample to the aligner; health tells of a clock that runs ahead."""
        stream, ahead = self.aligner.streams[name], self.aligner.streams[name].ahead
        self.aligner.push(name, convert.nanoseconds(stamp), value, self.now_ns())
        if stream.ahead > ahead:
            self.monitors[name].reject(stream.refusal)

    def _publish(self) -> None:
        if not self.active:
            return
        now = self.now_ns()
        if self.phase is not None:
            self.timer.timer_period_ns = self.period_ns + self.phase.change(now)
        aligned, self.reason = self.aligner.align(now)
        needed = [camera for camera in self.frozen.problems if camera not in self.spared]
        self.reason = self.reason or (self.frozen.problems[needed[0]] if needed else '')
        if self.reason:
            if self.steady_ns() > self.quiet_until:
                self.warn_once(f'no observation: {self.reason}')
            return
        self.output.publish(self._message(with_joints_of_then(self.aligner, aligned, SIDES)))
        self.sequence += 1

    def _message(self, aligned: Aligned) -> Observation:
        message = Observation(sequence=self.sequence)
        message.header.stamp = convert.stamp_of(aligned.stamp_ns)
        message.header.frame_id = 'world'
        message.joint_positions = both_sides(*(aligned.values[side] for side in SIDES)).astype('f4')
        message.joint_age = max(aligned.ages_s[side] for side in SIDES)
        message.camera_names = seen = [
            camera for camera in self.cameras if camera in aligned.values and camera not in self.frozen.problems]
        message.images = [aligned.values[camera] for camera in seen]
        message.image_ages = [aligned.ages_s[camera] for camera in seen]
        # They have no names in the message, so there are all of them or none.
        if all(pose in aligned.values for pose in self.poses):
            message.object_poses = [aligned.values[pose] for pose in self.poses]
            message.object_pose_ages = [aligned.ages_s[pose] for pose in self.poses]
        return message

    def health(self) -> list[Health]:
        """Return one line per stream and one for the observation."""
        now = self.steady_ns()
        line = Health('observation', ERROR if self.reason else OK, self.reason or 'published',
                      {'observations': self.sequence})
        return [line, *(self._stream_health(name, now) for name in self.monitors)]

    def _stream_health(self, name: str, now: int) -> Health:
        found, stream = self.monitors[name].health(now), self.aligner.streams[name]
        return replace(found, values=found.values | {
            counted: getattr(stream, counted) for counted in ('out_of_order', 'ahead', 'restarts')})


def main() -> int:
    """Run the node."""
    return run_node(ProprioIngest)


if __name__ == '__main__':
    sys.exit(main())
