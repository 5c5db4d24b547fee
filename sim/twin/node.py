"""The node that steps the simulated cell in real time and publishes what its drivers would."""

from __future__ import annotations

import array
import threading
from dataclasses import dataclass
from functools import partial

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, Image, JointState

from fpo_ros.hardware import xs
from fpo_ros.hardware.cameras import camera_streams
from fpo_ros.hardware.gripper import calibrations_of
from fpo_ros.hardware.modes import FOLLOWER_SETTINGS, LEADER_SETTINGS, load_modes
from fpo_ros.hardware.names import (
    FOLLOWERS,
    LEADERS,
    SIDES,
    camera_list,
    object_pose_topics,
)
from fpo_ros.msg import TaskReward
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.cameras import CameraParameters
from fpo_ros.nodes.gripper import GripperParameters
from fpo_ros.nodes.logic.health import OK, WARN, Health
from fpo_ros.nodes.logic.loop import SteadyLoop
from fpo_ros.nodes.parameters import param
from fpo_ros.policy.contract import GRIPPER_COLUMNS, JOINT_NAMES, TASKS
from fpo_ros.runtime.timing import PeriodStatistics
from fpo_ros.sim.render import RenderError, WorldRenderer
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.twin.cameras import CameraDrivers
from fpo_ros.sim.twin.driver import XsDriver
from fpo_ros.sim.twin.faults import Fault, FaultError
from fpo_ros.sim.twin.physics import PlacingError, TwinPhysics
from fpo_ros.sim.twin.schedule import FaultSchedule, load_schedule
from fpo_ros.srv import InjectFault, PlaceObjects, ResetScene

#: joint_states rate of all drivers (aloha_vx300s.yaml) [Hz].
JOINT_RATE_HZ = 100
#: Joints of ~/ground_truth.
TRUTH_NAMES = [name for column, name in enumerate(JOINT_NAMES) if column not in GRIPPER_COLUMNS]


@dataclass(frozen=True)
class DriverTwinParameters(CameraParameters, GripperParameters):
    """Parameters of ``driver_twin``."""

    task: str = param('transfer_cube', 'task whose objects lie on the table', choices=tuple(TASKS))
    seed: int = param(0, 'seed of the first start position [count]', low=0, high=2**31 - 1)
    cameras: str = param('', 'cameras rendered, comma-separated; empty for none')
    camera_rate: float = param(25.0, 'frames per camera and second [Hz]', low=0.5, high=120.0)
    image_height: int = param(72, 'rows of a frame [pixels]', low=8, high=1080)
    image_width: int = param(96, 'columns of a frame [pixels]', low=8, high=1920)
    compressed: bool = param(False, 'whether JPEG pictures are published beside the others, as image_transport does')
    jpeg_quality: int = param(80, 'quality of JPEG pictures [percent]', low=1, high=100)
    leaders: bool = param(False, 'whether both leaders are there, for a simulated operator to move')
    left_mode_configs: str = param('', "mode file of the left follower's driver; empty: position, without profile")
    right_mode_configs: str = param('', "mode file of the right follower's driver; empty: position, without profile")
    leader_left_mode_configs: str = param('', "mode file of the left leader's driver; empty: position, torque off")
    leader_right_mode_configs: str = param('', "mode file of the right leader's driver; empty: position, torque off")
    bus_time_scale: float = param(1.0, 'factor of the time that registers, reboots and modes take [1]; 1: as real',
                                  low=0.0, high=10.0)
    fault_schedule: str = param('', 'YAML file of faults and when they begin; empty for none')
    ground_truth: bool = param(False, "whether the followers' true joints are published, which no fault reaches")
    judge: bool = param(True, 'whether the twin resets the scene and judges the task; false: the operator does')
    realtime_priority: int = param(
        10, 'SCHED_FIFO priority of the physics thread, where permitted; 0 for none', low=0, high=99
    )


class DriverTwin(CellNode):
    """The arms' drivers, the cameras, a tracker of the objects, the judge of the task, and what can go wrong."""

    NAME = 'driver_twin'
    PARAMETERS = DriverTwinParameters

    def setup(self) -> None:
        """Load the model and offer the drivers' interfaces."""
        p = self.params
        cameras = camera_list(p.cameras)
        unknown = [camera for camera in cameras if camera not in VX300S.cameras]
        if unknown:
            raise ValueError(f"unknown camera '{unknown[0]}': the simulated cell has {', '.join(VX300S.cameras)}")
        self.physics = TwinPhysics(p.task, p.seed, calibrations_of(p), p.leaders, cameras)
        self.schedule = FaultSchedule([])
        if p.fault_schedule:
            load_schedule(p.fault_schedule, self.physics.faults)  # what is wrong in it shows now
        self.substeps = round(1 / JOINT_RATE_HZ / self.physics.timestep)
        self.timing = PeriodStatistics(1 / JOINT_RATE_HZ)
        self.ticks = self.frames = 0
        self.loops: list[SteadyLoop] = []
        self.reward_output = None
        self.started_s = 0.0
        if cameras:
            self._probe_renderer()
        self.drivers = [self._driver(name, side, name in LEADERS.values()) for names in (FOLLOWERS, LEADERS)
                        for side, name in names.items() if name in self.physics.arms]
        self.pose_outputs = [self.add_publisher(PoseStamped, topic, qos.DRIVER) for topic in object_pose_topics(p.task)]
        streams = camera_streams(cameras, p.image_name, p.image_topics, p.image_transports)
        self.camera_outputs = {camera: self._camera_outputs(stream.topic.removesuffix('/compressed'),
                                                            p.compressed or stream.compressed)
                               for camera, stream in streams.items()}
        self.truth_output = self.add_publisher(JointState, '~/ground_truth', qos.DRIVER) if p.ground_truth else None
        self.add_service(InjectFault, '~/inject_fault', self._on_fault)
        self.add_service(PlaceObjects, '~/place_objects', self._on_place)
        for side in SIDES if p.leaders else ():
            self.add_subscription(JointState, f'~/move_leader_{side}', partial(self._on_hand, side), qos.DRIVER)
        if p.judge:
            self.reward_output = self.add_publisher(TaskReward, 'task_reward', qos.STATUS)
            self.add_service(ResetScene, 'reset_scene', self._on_reset)

    def _driver(self, name: str, side: str, leader: bool) -> XsDriver:
        p = self.params
        file = getattr(p, f'leader_{side}_mode_configs' if leader else f'{side}_mode_configs')
        settings = load_modes(file) if file else LEADER_SETTINGS if leader else FOLLOWER_SETTINGS
        driver = XsDriver(name, self.get_namespace(), self.physics, settings, time_scale=p.bus_time_scale,
                          mode_configs=file, context=self.context)
        self.on_teardown(driver.close)
        return driver

    def _camera_outputs(self, topic: str, compressed: bool) -> tuple:
        """Return the publishers of a camera's pictures and, where wanted, of compressed ones."""
        return (self.add_publisher(Image, topic, qos.DRIVER),
                self.add_publisher(CompressedImage, f'{topic}/compressed', qos.DRIVER) if compressed else None)

    def _probe_renderer(self) -> None:
        """Draw one picture on a thread of its own, as the cameras will, so that a lack of GL shows before active.

        :raises ValueError: saying what is missing.
        """
        p, problems = self.params, []

        def draw() -> None:
            try:
                with WorldRenderer(p.task, p.image_height, p.image_width) as renderer:
                    renderer.render(self.physics.positions(), camera_list(p.cameras)[0])
            except Exception as error:  # whatever GL throws, the node must say it in its own words
                problems.append(str(error) if isinstance(error, RenderError) else repr(error))

        thread = threading.Thread(target=draw, name='camera probe')
        thread.start()
        thread.join()
        if problems:
            raise ValueError(f'no camera pictures: {problems[0]}. Or run without cameras')

    def start(self) -> None:
        """Ping all motors, which switches their torque off, and let time run.

        :raises ValueError: when a motor does not answer.
        """
        p, self.started_s = self.params, self.physics.time_s
        self.schedule = (load_schedule(p.fault_schedule, self.physics.faults) if p.fault_schedule
                         else FaultSchedule([]))
        self._strike()
        for driver in self.drivers:
            driver.ping()
        for driver in self.drivers:
            driver.serve()
        self.loops = [SteadyLoop(1 / JOINT_RATE_HZ, self._tick, self._on_failure, name='physics',
                                 realtime_priority=self.params.realtime_priority)]
        if self.camera_outputs:
            cameras = CameraDrivers(self)
            self.loops.append(SteadyLoop(1 / self.params.camera_rate, cameras.publish, self._on_failure,
                                         name='cameras', on_end=cameras.close))
        for loop in self.loops:
            loop.start()
            if loop.priority_refusal:
                self.get_logger().info(f'{loop.priority_refusal}: simulated time may stutter under load')

    def stop(self) -> None:
        """Stop time."""
        for driver in self.drivers:
            driver.rest()
        for loop in self.loops:
            loop.stop()
        self.loops = []

    def _tick(self) -> None:
        self.timing.tick(self.now_ns())
        before = self.physics.divergences
        self._strike()
        self.physics.step(self.substeps)
        if self.physics.divergences > before:
            self.get_logger().error('the physics diverged: arms and objects stand at their start again')
        stamp = self.get_clock().now()
        for driver in self.drivers:
            driver.publish(stamp)
        if self.truth_output is not None:
            positions, velocities = self.physics.ground_truth()
            truth = JointState(name=TRUTH_NAMES, position=array.array('d', positions),
                               velocity=array.array('d', velocities))
            truth.header.stamp = stamp.to_msg()
            self.truth_output.publish(truth)
        self.ticks += 1
        if self.ticks % 2:
            return
        for output, pose in zip(self.pose_outputs, convert.pose_messages(self.physics.object_pose()), strict=True):
            message = PoseStamped(pose=pose)
            message.header.stamp, message.header.frame_id = stamp.to_msg(), 'world'
            output.publish(message)
        if self.reward_output is None:
            return
        stage, success = self.physics.judge()
        reward = TaskReward(task=self.params.task, stage=stage, success=success)
        reward.header.stamp = stamp.to_msg()
        self.reward_output.publish(reward)

    def _strike(self) -> None:
        """Let the scheduled faults that are due begin."""
        for fault in self.schedule.due(self.physics.time_s - self.started_s):
            with self.physics.lock:
                self.physics.faults.inject(fault, self.physics.time_s)
            self.get_logger().warning(f'fault: {fault}')

    def _on_fault(self, request: InjectFault.Request, response: InjectFault.Response) -> InjectFault.Response:
        fault = Fault(request.fault, request.target, request.motor, request.value, request.duration)
        try:
            with self.physics.lock:
                self.physics.faults.inject(fault, self.physics.time_s)
            response.success = True
            self.get_logger().warning(f'fault: {fault}')
        except FaultError as error:
            response.message = str(error)
        return response

    def _on_place(self, request: PlaceObjects.Request, response: PlaceObjects.Response) -> PlaceObjects.Response:
        if request.task != self.params.task:
            response.message = f"task '{request.task}' is not simulated here, {self.params.task} is"
            return response
        try:
            poses = convert.poses_array(request.object_poses)
            self.physics.place(np.empty(0) if poses is None else poses)
            response.success = True
        except PlacingError as error:
            response.message = str(error)
        return response

    def _on_hand(self, side: str, message: JointState) -> None:
        """Let the simulated operator pull a leader to some joints; no names: let go."""
        values = np.asarray(message.position, np.float64)
        if len(message.name) != len(values) or not np.isfinite(values).all() or set(message.name) - set(xs.MOTORS):
            self.get_logger().error(f'a hand at leader {side} needs a finite position for each of its motors '
                                    f'({", ".join(xs.MOTORS)}), got {list(message.name)}', throttle_duration_sec=1.0)
            return
        self.physics.pull_leader(side, {xs.MOTORS.index(name): float(value)
                                        for name, value in zip(message.name, values, strict=True)})

    def _on_failure(self, error: Exception) -> None:
        self.fail(f'simulation failed: {error}' if isinstance(error, RenderError) else f'simulation failed: {error!r}')

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        if request.task != self.params.task:
            response.message = f"task '{request.task}' is not simulated here, {self.params.task} is"
            return response
        response.object_poses = convert.pose_messages(self.physics.reset(request.seed))
        response.success = True
        return response

    def health(self) -> list[Health]:
        """Return whether the simulation keeps up with the clock."""
        timing = self.timing.summary()
        with self.physics.lock:
            faults = self.physics.faults.in_force()
        slow = self.active and timing.rate_hz < 0.95 * JOINT_RATE_HZ
        return [
            Health(
                'simulation',
                WARN if slow else OK,
                'slower than real time' if slow else 'real time',
                {
                    'rate_hz': round(timing.rate_hz, 2),
                    'jitter_p99_ms': round(timing.jitter_p99_s * 1e3, 2),
                    'frames': self.frames,
                    'divergences': self.physics.divergences,
                },
            ),
            Health('faults', WARN if faults else OK, ', '.join(faults) or 'none', {}),
        ]
