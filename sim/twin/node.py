"""The node that steps the simulated cell in real time and publishes what its drivers would."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image

from fpo_ros.hardware.gripper import calibration_of
from fpo_ros.hardware.names import IMAGE_NAMES, SIDES, camera_list, camera_topic, object_pose_topics
from fpo_ros.msg import TaskReward
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.gripper import GripperParameters
from fpo_ros.nodes.logic.health import OK, WARN, Health
from fpo_ros.nodes.logic.loop import SteadyLoop
from fpo_ros.nodes.parameters import param
from fpo_ros.policy.contract import TASKS
from fpo_ros.runtime.timing import PeriodStatistics
from fpo_ros.sim.render import RenderError, WorldRenderer
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.twin.driver import XsDriver
from fpo_ros.sim.twin.physics import TwinPhysics
from fpo_ros.srv import ResetScene

#: joint_states rate of both drivers (aloha_vx300s.yaml) [Hz].
JOINT_RATE_HZ = 100


@dataclass(frozen=True)
class DriverTwinParameters(GripperParameters):
    """Parameters of ``driver_twin``."""

    task: str = param('transfer_cube', 'task whose objects lie on the table', choices=tuple(TASKS))
    seed: int = param(0, 'seed of the first start position [count]', low=0, high=2**31 - 1)
    cameras: str = param('', 'cameras rendered, comma-separated; empty for none')
    camera_rate: float = param(25.0, 'frames per camera and second [Hz]', low=0.5, high=120.0)
    image_name: str = param(IMAGE_NAMES[0], "last part of the cameras' topic", choices=IMAGE_NAMES)
    image_height: int = param(72, 'rows of a frame [pixels]', low=8, high=1080)
    image_width: int = param(96, 'columns of a frame [pixels]', low=8, high=1920)
    judge: bool = param(True, 'whether the twin resets the scene and judges the task; false: the operator does')
    realtime_priority: int = param(
        10, 'SCHED_FIFO priority of the physics thread, where permitted; 0 for none', low=0, high=99
    )


class DriverTwin(CellNode):
    """Both followers' drivers, the cameras, a tracker of the objects and the judge of the task."""

    NAME = 'driver_twin'
    PARAMETERS = DriverTwinParameters

    def setup(self) -> None:
        """Load the model and offer the drivers' interfaces."""
        p = self.params
        cameras = camera_list(p.cameras)
        unknown = [camera for camera in cameras if camera not in VX300S.cameras]
        if unknown:
            raise ValueError(f"unknown camera '{unknown[0]}': the simulated cell has {', '.join(VX300S.cameras)}")
        self.physics = TwinPhysics(p.task, p.seed)
        self.substeps = round(1 / JOINT_RATE_HZ / self.physics.timestep)
        self.timing = PeriodStatistics(1 / JOINT_RATE_HZ)
        self.ticks = self.frames = 0
        self.loops: list[SteadyLoop] = []
        self.reward_output = None
        gripper = calibration_of(p)
        if cameras:
            self._probe_renderer()
        self.drivers = [XsDriver(side, self.get_namespace(), self.physics, gripper, context=self.context)
                        for side in SIDES]
        for driver in self.drivers:
            self.on_teardown(driver.destroy_node)
            if self.executor is not None:
                self.executor.add_node(driver)
        self.pose_outputs = [self.add_publisher(PoseStamped, topic, qos.DRIVER) for topic in object_pose_topics(p.task)]
        self.camera_outputs = {camera: self.add_publisher(Image, camera_topic(camera, p.image_name), qos.DRIVER)
                               for camera in cameras}
        if p.judge:
            self.reward_output = self.add_publisher(TaskReward, 'task_reward', qos.STATUS)
            self.add_service(ResetScene, 'reset_scene', self._on_reset)

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
        """Let time run."""
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
        for loop in self.loops:
            loop.stop()
        self.loops = []

    def _tick(self) -> None:
        self.timing.tick(self.now_ns())
        before = self.physics.divergences
        self.physics.step(self.substeps)
        if self.physics.divergences > before:
            self.get_logger().error('the physics diverged: arms and objects stand at their start again')
        stamp = self.get_clock().now()
        for driver in self.drivers:
            driver.publish(stamp)
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
            )
        ]


class CameraDrivers:
    """Renders and publishes one frame per camera and call, always on the one thread that owns the GL context.

    :param node: the twin.
    """

    def __init__(self, node: DriverTwin) -> None:
        self._node = node
        self._renderer: WorldRenderer | None = None

    def publish(self) -> None:
        """Render and publish one frame per camera."""
        node, p = self._node, self._node.params
        if self._renderer is None:
            self._renderer = WorldRenderer(p.task, p.image_height, p.image_width)
        stamp, positions = node.get_clock().now().to_msg(), node.physics.positions()
        for camera, output in node.camera_outputs.items():
            image = self._renderer.render(positions, camera)
            output.publish(convert.image_message(image, stamp, f'{camera}_color_optical_frame'))
            node.frames += 1

    def close(self) -> None:
        """Release the GL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
