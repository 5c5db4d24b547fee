"""Teleoperation: the leaders' drivers, the poses that followers follow, and who drives."""

from __future__ import annotations

import array
import queue
import sys
import threading
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from interbotix_xs_msgs.msg import JointGroupCommand
from sensor_msgs.msg import JointState
from std_srvs.srv import SetBool, Trigger

from fpo_ros.hardware.gripper import INTERBOTIX_LEADER, GripperCalibration
from fpo_ros.hardware.joints import JointStateError, both_sides, side_joints
from fpo_ros.hardware.modes import load_modes
from fpo_ros.hardware.names import ARM_GROUP, GRIPPER_NAME, LEADERS, SIDES
from fpo_ros.hardware.xs import LEADER, MODES
from fpo_ros.hardware.xs_client import XsClient
from fpo_ros.msg import ControllerStatus, LeaderPose
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.locate import share_path
from fpo_ros.nodes.logic.health import ERROR, OK, WARN, Health, StreamMonitor
from fpo_ros.nodes.logic.leaders import Leaders, LeaderSettings, LeaderState, Order
from fpo_ros.nodes.logic.rivals import Followed
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.running import run_node
from fpo_ros.nodes.xs_transport import RosXsTransport
from fpo_ros.policy.contract import CONTROL_RATE_HZ
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.srv import SetControllerState

#: Time given to the drivers to end what they are asked for when the node is deactivated [s].
JOIN_LIMIT_S = 5.0
#: Joint states and controller statuses that are older than this are not acted on [s].
FRESH_S = 0.25
#: Values of Operating_Mode in which goals are angles.
_ANGLES = {MODES[mode] for mode in ('position', 'ext_position', 'current_based_position')}


@dataclass(frozen=True)
class TeleopParameters:
    """Parameters of ``teleop``."""

    left_leader_joint_open: float = param(
        INTERBOTIX_LEADER.joint_open_rad, "angle of the left leader's gripper motor when open [rad]", low=-3.2,
        high=3.2)
    left_leader_joint_closed: float = param(
        INTERBOTIX_LEADER.joint_closed_rad, 'the same when closed [rad]', low=-3.2, high=3.2)
    right_leader_joint_open: float = param(
        INTERBOTIX_LEADER.joint_open_rad, "angle of the right leader's gripper motor when open [rad]", low=-3.2,
        high=3.2)
    right_leader_joint_closed: float = param(
        INTERBOTIX_LEADER.joint_closed_rad, 'the same when closed [rad]', low=-3.2, high=3.2)
    track_speed: float = param(1.0, 'largest speed with which the leaders go after the followers [rad/s]', low=0.05,
                               high=3.14)
    grab_distance: float = param(0.15, 'a leader joint held so far from where it shall be takes over from a policy '
                                 '[rad]', low=0.02, high=1.0)
    grab_time: float = param(0.1, 'for so long [s]', low=0.02, high=2.0)
    gesture_below: float = param(0.1, 'both leader grippers closed below this take over from arms that hold [0..1]; '
                                 'a negative value: no gesture', low=-1.0, high=0.9)
    gravity_compensation: bool = param(True, "whether Interbotix's gravity compensation carries the leaders, where it "
                                       'runs; otherwise their torque is switched off, and both must be grabbed')


class Teleop(CellNode):
    """Drives the leaders and publishes their pose; :class:`Leaders` decides, a thread of its own talks to drivers."""

    NAME = 'teleop'
    PARAMETERS = TeleopParameters

    def setup(self) -> None:
        """Connect to both leaders and to the controller."""
        p = self.params
        self.grippers = {side: GripperCalibration(getattr(p, f'{side}_leader_joint_open'),
                                                  getattr(p, f'{side}_leader_joint_closed')) for side in SIDES}
        self.period_s = 1 / CONTROL_RATE_HZ
        self.settings = LeaderSettings(p.track_speed, p.grab_distance, max(1, round(p.grab_time / self.period_s)),
                                       p.gesture_below)
        self.leaders = Leaders(self.settings, self.period_s)
        self.joints: dict[str, tuple[int, np.ndarray]] = {}
        self.status: ControllerStatus | None = None
        self.reported = (LeaderState.RESTING, '')
        self.monitors = {side: StreamMonitor(f'joint_states {LEADERS[side]}', 100.0, FRESH_S) for side in SIDES}
        self.commands = {side: self.add_publisher(JointGroupCommand, f'{LEADERS[side]}/commands/joint_group',
                                                  qos.COMMAND) for side in SIDES}
        self.pose_output = self.add_publisher(LeaderPose, 'leader_pose', qos.COMMAND)
        for side in SIDES:
            self.add_subscription(JointState, f'{LEADERS[side]}/joint_states', partial(self._on_joints, side),
                                  qos.SENSOR)
        self.followed = Followed()
        self.add_subscription(ControllerStatus, 'controller_status', self._on_status, qos.STATUS)
        self.controller = self.add_client(SetControllerState, 'set_controller_state')
        self.compensation = {side: self.add_client(SetBool, f'{LEADERS[side]}/gravity_compensation_enable')
                             for side in SIDES}
        self.add_service(Trigger, 'take_over', partial(self._on_wish, 'take_over'))
        self.add_service(Trigger, 'hand_back', partial(self._on_wish, 'hand_back'))
        transport = RosXsTransport(self, tuple(LEADERS.values()))
        self.on_teardown(transport.close)
        self.drivers = {side: XsClient(transport, LEADERS[side]) for side in SIDES}
        self.done: queue.Queue[tuple[Order, str]] = queue.Queue()
        self.worker: threading.Thread | None = None
        self.add_timer(self.period_s, self._tick)

    def start(self) -> None:
        """Begin with leaders at rest."""
        self.leaders = Leaders(self.settings, self.period_s)
        self.orders: queue.Queue[Order | None] = queue.Queue()
        self.worker = threading.Thread(target=self._work, name='drivers', daemon=True)
        self.worker.start()

    def stop(self) -> None:
        """Stop; the leaders keep the torque they have."""
        if self.worker is not None:
            self.orders.put(None)
            self.worker.join(JOIN_LIMIT_S)
            if self.worker.is_alive():
                self.get_logger().error(f'the drivers of the leaders did not answer within {JOIN_LIMIT_S:g} s')
            self.worker = None

    # ---- what arrives

    def _on_joints(self, side: str, message: JointState) -> None:
        self.monitors[side].arrived(self.steady_ns())
        try:
            joints = side_joints(message.name, message.position, self.grippers[side])
            joints[6] = np.clip(joints[6], 0, 1)
            implausible = LEADER.implausible(joints[:6])
            if implausible:
                raise JointStateError(implausible)
        except JointStateError as error:
            self.monitors[side].reject(str(error))
            self.error_once(f'{LEADERS[side]}: {error}')
            return
        self.joints[side] = convert.nanoseconds(message.header.stamp), joints

    def _on_status(self, message: ControllerStatus) -> None:
        if not self.followed.sent(message.ticks, self.steady_ns()):
            return
        self.status = message

    def _on_wish(self, which: str, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Take over, as by a pedal, or hand the arms back."""
        if self.active:
            response.success, response.message = getattr(self.leaders, which)()
        else:
            response.message = 'the node teleop is not active'
        return response

    # ---- once per control period

    def _tick(self) -> None:
        if not self.active:
            return
        now = self.now_ns()
        pose, stamp = self._pose(now)
        while not self.done.empty():
            self.leaders.done(*self.done.get())
        if pose is not None:
            self.pose_output.publish(convert.leader_message(pose, stamp))
        fresh = self.status is not None and now - convert.nanoseconds(self.status.header.stamp) < FRESH_S * 1e9
        state = convert.arm_state(self.status.state) if fresh else None
        has_command = state not in (None, ArmState.IDLE, ArmState.STOPPED)
        step = self.leaders.step(now, pose, np.array(self.status.command, np.float64) if has_command else None, state,
                                 all(self._compensated(side) for side in SIDES))
        if step.order is not None:
            self.orders.put(step.order)
        if step.target is not None:
            for index, side in enumerate(SIDES):
                arm = step.target[7 * index:7 * index + 6].astype(np.float32)
                self.commands[side].publish(JointGroupCommand(name=ARM_GROUP, cmd=array.array('f', arm.tobytes())))
        if step.ask is not None:
            self._ask(step.ask)
        self._report()

    def _pose(self, now: int) -> tuple[np.ndarray | None, int]:
        """Return the (14,) fresh joints of both leaders and when the older was measured, or None."""
        sides = [self.joints.get(side) for side in SIDES]
        if not all(sides):
            return None, 0
        stamp = min(stamp for stamp, _ in sides)
        return (both_sides(*(joints for _, joints in sides)), stamp) if now - stamp < FRESH_S * 1e9 else (None, stamp)

    def _ask(self, state: ArmState) -> None:
        if not self.controller.service_is_ready():
            self.leaders.refused('nobody serves set_controller_state: is arm_controller running?')
            return
        request = SetControllerState.Request(state=int(state), reason='operator', stamp=self.get_clock().now().to_msg())

        def answered(future: object) -> None:
            if not future.result().success:
                self.leaders.refused(future.result().message)

        self.controller.call_async(request).add_done_callback(answered)

    def _report(self) -> None:
        now = self.leaders.state, self.leaders.problem
        if now != self.reported:
            if now[1] and now[1] != self.reported[1]:
                self.get_logger().error(f'leaders: {now[1]}')
            if now[0] is not self.reported[0]:
                self.get_logger().info(f'leaders: {self.reported[0].value} -> {now[0].value}')
            self.reported = now

    # ---- thread of the drivers

    def _work(self) -> None:
        while (order := self.orders.get()) is not None:
            problem = ''
            try:
                if order is Order.RELEASE:
                    self._look()
                for side in SIDES:
                    self._carry_out(order, side)
            except (ValueError, RuntimeError, TimeoutError) as error:  # XsError, TransportTimeoutError
                problem = str(error)
            self.done.put((order, problem))

    def _compensated(self, side: str) -> bool:
        return self.params.gravity_compensation and self.compensation[side].service_is_ready()

    def _look(self) -> None:
        """See that leaders stand where they do by a hand: one that lost its torque has fallen, and was not grabbed.

        :raises RuntimeError: naming a motor that has shut down, has no torque, or takes no angles.
        """
        for side, driver in self.drivers.items():
            errors = {motor: ', '.join(why) for motor, why in driver.errors().items()}
            errors |= {motor: 'no torque' for motor, on in driver.torques().items()
                       if not on and motor != GRIPPER_NAME and motor not in errors}
            for motor, why in errors.items():
                raise RuntimeError(f'{LEADERS[side]} is not let go, and does not take over: {motor} has shut down '
                                   f'({why}); reboot it')
            for motor in self._without_angles(driver):
                raise RuntimeError(f'{LEADERS[side]} is not let go, and does not take over: {motor} takes no angles, '
                                   'as gravity compensation leaves it that has ended')

    @staticmethod
    def _without_angles(driver: XsClient) -> list[str]:
        """Return the motors that take goals for something else, as gravity compensation leaves them if it dies."""
        modes = driver.register(ARM_GROUP, 'Operating_Mode')
        return [motor for motor, mode in modes.items() if mode not in _ANGLES]

    def _carry_out(self, order: Order, side: str) -> None:
        """Switch one leader; what its driver answers with an empty reply is read back."""
        compensated, driver = self._compensated(side), self.drivers[side]
        if compensated:
            future = self.compensation[side].call_async(SetBool.Request(data=order is Order.RELEASE))
            driver.transport.wait_for(future.done, f'the answer of gravity compensation of {LEADERS[side]}', 5.0)
            if not future.result().success:
                raise RuntimeError(f'gravity compensation of {LEADERS[side]} refused: {future.result().message}')
        if order is Order.ENGAGE:
            if motors := self._without_angles(driver):
                own = load_modes(share_path(f'config/leader_{side}_modes.yaml'))[0]
                self.get_logger().warning(
                    f'{LEADERS[side]}: {", ".join(motors)} took no angles: set to mode {own.mode}')
                driver.set_mode(ARM_GROUP, own.mode, own.profile_type, own.profile_velocity, own.profile_acceleration)
            driver.set_torque(ARM_GROUP, True)
        elif not compensated:
            driver.set_torque(ARM_GROUP, False)
        driver.set_torque(GRIPPER_NAME, False)  # its trigger is the operator's

    def health(self) -> list[Health]:
        """Return what the leaders do, and their streams."""
        leaders = self.leaders
        line = Health('leaders', ERROR if leaders.problem else OK, leaders.problem or leaders.state.value,
                      {'state': leaders.state.value})
        streams = [monitor.health(self.steady_ns()) for monitor in self.monitors.values()]
        if leaders.state is LeaderState.RESTING:  # leaders that are switched off harm nobody
            streams = [replace(one, level=WARN) if one.level == ERROR else one for one in streams]
        return [line, *streams]


def main() -> int:
    """Run the node."""
    return run_node(Teleop)


if __name__ == '__main__':
    sys.exit(main())
