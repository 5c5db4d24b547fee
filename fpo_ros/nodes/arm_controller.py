"""The arms' controller: one command per control period from chunks, limits and watchdogs."""

from __future__ import annotations

import gc
import sys
import threading
from functools import partial

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty
from std_srvs.srv import Trigger

from fpo_ros.hardware.currents import ERROR_REGISTER, TEMPERATURE_REGISTER, error_words, side_currents
from fpo_ros.hardware.gripper import calibrations_of
from fpo_ros.hardware.joints import JointStateError, both_sides, side_joints
from fpo_ros.hardware.names import SIDES, joint_states_topic
from fpo_ros.msg import ActionChunk, ControllerStatus, LeaderPose
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.arm_parameters import ArmControllerParameters, controller_config
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.commands import commands_of
from fpo_ros.nodes.logic.health import ERROR, OK, WARN, Health, StreamMonitor
from fpo_ros.nodes.logic.loop import SteadyLoop
from fpo_ros.nodes.logic.rivals import Rivals
from fpo_ros.nodes.logic.silence import Silence
from fpo_ros.nodes.registers import RegisterReadings
from fpo_ros.nodes.running import run_node
from fpo_ros.nodes.safety import geometry_of, safety_health
from fpo_ros.policy.contract import ACTION_DIM, CONTROL_RATE_HZ, ContractError, PolicyContract
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.controller import PATHS, ArmControllerCore
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.runtime.motor_watch import MotorReadings
from fpo_ros.runtime.safety import per_column
from fpo_ros.srv import SetControllerState

#: States in which the arms may move.
MOTIONS = (ArmState.HOMING, ArmState.POLICY, ArmState.TELEOP, ArmState.PARKING)
#: Time in which nodes mostly find each other, and a controller that was just activated only listens [ns].
LISTEN_NS = 500_000_000
#: Least time between two words on a state that lasts [ns].
LOG_PERIOD_NS = 1_000_000_000
#: A motion that was asked for longer ago is refused [s].
REQUEST_LIMIT_S = 1.0


class ArmController(CellNode):
    """Ticks :class:`ArmControllerCore` at 50 Hz on its own thread and sends what it returns."""

    NAME = 'arm_controller'
    PARAMETERS = ArmControllerParameters
    core: ArmControllerCore | None = None

    def setup(self) -> None:
        """Make the core from the parameters and connect to both followers."""
        p = self.params
        self.contract = PolicyContract(horizon=p.horizon, execute=p.execute)
        self.limits = JointLimits(speed=per_column(p.joint_speed, p.gripper_speed))
        self.config = controller_config(p)
        self.geometry = geometry_of(p)
        self.temperatures, self.errors = (RegisterReadings(self, register, p.temperature_period) if p.temperature_period
                                          else None for register in (TEMPERATURE_REGISTER, ERROR_REGISTER))
        self.grippers = calibrations_of(p)
        self.lock = threading.Lock()
        first, self.core = self.core is None, self._new_core()
        if first and p.start_stopped:
            self.core.request(ArmState.STOPPED, 'just started')
        self.loop: SteadyLoop | None = None
        self.supervisor, self.stop_device = Silence(self.steady_ns()), Silence(self.steady_ns())
        self.held_ns: int | None = None
        self.supervised = False
        self.joints: dict[str, tuple[int, np.ndarray, np.ndarray]] = {}
        #: Why the newest joint states of a side were refused; empty where they were not.
        self.refused = dict.fromkeys(SIDES, '')
        self.rivals = Rivals()
        self.monitors = {
            side: StreamMonitor(f'joint_states {side}', 100.0, p.max_joint_age) for side in SIDES
        }
        self.send = commands_of(self, p.commands, self.grippers)
        self.status = ControllerStatus()
        self.status_output = self.add_publisher(ControllerStatus, 'controller_status', qos.STATUS)
        for side in SIDES:
            self.add_subscription(
                JointState, joint_states_topic(side), partial(self._on_joints, side), qos.SENSOR
            )
        self.add_subscription(ActionChunk, 'action_chunk', self._on_chunk, qos.COMMAND)
        self.add_subscription(LeaderPose, 'leader_pose', self._on_leaders, qos.COMMAND)
        self.add_subscription(ControllerStatus, 'controller_status', self._on_controller, qos.SENSOR)
        self.add_subscription(Bool, 'emergency_stop', self._on_emergency_stop, qos.EVENT)
        self.add_subscription(Bool, 'operator_stop', self._on_operator_stop, qos.EVENT)
        self.add_subscription(Bool, 'hold_to_run', self._on_hold_to_run, qos.SENSOR)
        self.add_subscription(Empty, 'episode_heartbeat', self._on_heartbeat, qos.SENSOR)
        self.add_service(SetControllerState, 'set_controller_state', self._on_request)
        self.add_service(Trigger, 'reset_emergency_stop', self._on_reset)

    def start(self) -> None:
        """Start the control loop in IDLE: nothing is sent until a state is asked for."""
        with self.lock:
            self.core = self._new_core()
        self.logged = self.core.state, self.core.reason
        self.logged_ns = self.steady_ns()
        self.supervisor, self.stop_device = Silence(self.steady_ns()), Silence(self.steady_ns())
        self.speaks_ns = self.steady_ns() + LISTEN_NS
        gc.collect()
        gc.freeze()  # what setup made is never searched for garbage again, which would pause the loop
        sys.setswitchinterval(0.0005)  # the control thread waits for the interpreter at most this long [s]
        self.loop = SteadyLoop(1 / CONTROL_RATE_HZ, self._tick, self._on_failure, name='control',
                               realtime_priority=self.params.realtime_priority)
        self.loop.start()
        if self.loop.priority_refusal:
            self.get_logger().warning(f'{self.loop.priority_refusal}: give the user an rtprio limit, '
                                      'or set realtime_priority to 0')

    def _new_core(self) -> ArmControllerCore:
        """Return a fresh core; an emergency stop of the one before stays latched, whatever the lifecycle does."""
        core = ArmControllerCore(self.contract, self.limits, self.config, self.geometry)
        if self.core is not None:
            core.inherit_emergency_stop(self.core)
        return core

    def stop(self) -> None:
        """End the loop. The servos keep their last position goal: the arms hold."""
        if self.loop is not None:
            self.loop.stop()
            self.loop = None

    def _on_joints(self, side: str, message: JointState) -> None:
        self.monitors[side].arrived(self.steady_ns())
        try:
            joints = side_joints(message.name, message.position, self.grippers[side])
        except JointStateError as error:
            self.monitors[side].reject(str(error))
            self.refused[side] = f'follower {side}: {error}'
            self.error_once(f'follower {side}: {error}')
            return
        self.refused[side] = ''
        self.joints[side] = (convert.nanoseconds(message.header.stamp), joints,
                             side_currents(message.name, message.effort))

    def _on_chunk(self, message: ActionChunk) -> None:
        if not self.active:
            return
        try:
            chunk = convert.chunk_array(message)
        except ContractError as error:
            chunk, reason = None, str(error)
        with self.lock:
            if chunk is None:
                accepted = self.core.chunks.refuse(reason)
            else:
                accepted = self.core.accept_chunk(
                    chunk, message.sequence, convert.nanoseconds(message.measured_stamp), self.now_ns(),
                    policy_version=message.policy_version, control_period_s=message.control_period,
                    joining=message.joining)
            refusal = self.core.chunks.last_refusal
        if not accepted:
            self.warn_once(f'chunk refused: {refusal}')

    def _on_leaders(self, message: LeaderPose) -> None:
        with self.lock:
            taken = self.core.teleoperation.offer(message.joint_positions, convert.nanoseconds(message.header.stamp))
            refusal = self.core.teleoperation.last_refusal
        if not taken:
            self.warn_once(f'leaders refused: {refusal}')

    def _on_controller(self, message: ControllerStatus) -> None:
        if not self.active or self.failure:
            return
        with self.lock:
            objection = self.rivals.objection(convert.nanoseconds(message.header.stamp), message.ticks,
                                              self.core.timing.ticks)
            if objection:
                self.core.request(ArmState.STOPPED, objection)
        if objection:
            self.fail(objection)

    def _on_heartbeat(self, message: Empty) -> None:
        self.supervisor.heard(self.steady_ns())

    def _on_hold_to_run(self, message: Bool) -> None:
        self.held_ns = self.steady_ns() if message.data else None

    def _on_emergency_stop(self, message: Bool) -> None:
        self.stop_device.heard(self.steady_ns())
        with self.lock:  # also while inactive: a stop pressed then holds after activation
            self.core.emergency_stop(message.data)

    def _on_operator_stop(self, message: Bool) -> None:
        """Take the stop of keyboards and gamepads: no word of theirs stands for the emergency stop's device."""
        with self.lock:
            self.core.emergency_stop(message.data, 'emergency stop (keys, gamepad or program)')

    def _on_request(self, request: SetControllerState.Request,
                    response: SetControllerState.Response) -> SetControllerState.Response:
        if not self.active:
            response.message = 'the arm controller is not active'
            return response
        asked_ns = convert.nanoseconds(request.stamp)
        age_s = (self.now_ns() - asked_ns) * 1e-9
        if asked_ns and age_s > REQUEST_LIMIT_S and request.state in MOTIONS:
            response.message = f'the request is {age_s:.1f} s old, the limit is {REQUEST_LIMIT_S:g} s: ask again'
            return response
        with self.lock:
            self.supervisor.heard(self.steady_ns())
            response.success, response.message = self.core.request(request.state, request.reason)
            if response.success:
                self.supervised = request.supervised
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """End a latched emergency stop: a deliberate act, apart from every other request."""
        with self.lock:
            response.success, response.message = self.core.reset_emergency_stop()
        return response

    def _tick(self) -> None:
        if self.steady_ns() < self.speaks_ns:  # another controller would be heard first
            return
        sides = [self.joints.get(side) for side in SIDES]
        measured = stamp = currents = None
        if all(sides):
            stamp = min(side[0] for side in sides)
            measured = both_sides(*(side[1] for side in sides))
            currents = both_sides(*(side[2] for side in sides))
        temperatures = None if self.temperatures is None else self.temperatures.newest()
        errors = None if self.errors is None else error_words(self.errors.newest())
        with self.lock:
            now = self.now_ns()
            self._watch_others()
            self.core.joints.refused = next(filter(None, self.refused.values()), '')
            command = self.core.tick(now, measured, stamp, MotorReadings(currents, temperatures, errors))
            if command is not None:
                self.send(command)
            self._publish_status(now)
            new, fault = (self.core.state, self.core.reason), self.core.fault
        if new != self.logged:
            self._log(*new, fault)

    def _log(self, state: ArmState, reason: str, fault: str) -> None:
        """Say what the arms do now and why, once; what goes wrong while they hold, at most every second."""
        before, now = self.logged[0], self.steady_ns()
        if state is before and now - self.logged_ns < LOG_PERIOD_NS:
            return
        words = f'{before.name} -> {state.name}: {reason}'
        if fault:
            self.get_logger().warning(words)
        else:  # a line of its own: rclpy's loggers refuse another severity in the same one
            self.get_logger().info(words)
        self.logged, self.logged_ns = (state, reason), now

    def _watch_others(self) -> None:
        """Hold when who asked for a motion has gone; stop when the emergency stop's device has."""
        steady, core, p = self.steady_ns(), self.core, self.params
        silence_s = self.supervisor.lasts_s(steady)
        watched = core.state is ArmState.POLICY or (core.state in PATHS and self.supervised)
        if watched and silence_s > p.supervisor_limit:
            who = 'the episode manager' if core.state is ArmState.POLICY else 'who asked for the motion'
            core.request(ArmState.HOLD, f'no sign of {who} for {silence_s:.2f} s', fault=True)
        if p.hold_to_run_limit and core.state in MOTIONS and (
                self.held_ns is None or (steady - self.held_ns) * 1e-9 > p.hold_to_run_limit):
            core.request(ArmState.HOLD, 'hold-to-run is let go')
        silence_s = self.stop_device.lasts_s(steady)
        if p.emergency_stop_limit and silence_s > p.emergency_stop_limit:
            core.request(ArmState.STOPPED, f"no sign of the emergency stop's device for {silence_s:.2f} s")

    def _publish_status(self, now: int) -> None:
        core, status, timing = self.core, self.status, self.core.summary()
        status.header.stamp = convert.stamp_of(now)
        self.rivals.sent(now)
        status.state, status.reason, status.at_home = int(core.state), self.send.reason(core.reason), core.at_home
        status.policy_version = core.chunks.policy_version
        status.chunk_sequence = core.chunks.sequence or 0
        status.remaining, status.chunk_delay = core.remaining, core.chunks.delay
        zeros = np.zeros(ACTION_DIM, np.float32)
        status.command = zeros if core.filter.command is None else core.filter.command.astype(np.float32)
        status.measured = zeros if core.joints.value is None else core.joints.value.astype(np.float32)
        status.ticks, status.missed_ticks = timing.ticks, timing.missed
        status.command_rate, status.jitter_p99 = timing.rate_hz, timing.jitter_p99_s
        status.refused_inputs = core.chunks.refused + core.teleoperation.refused
        status.projected_targets = core.filter.projected
        status.last_refusal = core.chunks.last_refusal
        self.status_output.publish(status)

    def _on_failure(self, error: Exception) -> None:
        self.fail(f'control loop failed, the arms keep their last target: {error!r}')

    def health(self) -> list[Health]:
        """Return the state of the controller, its timing, and the joint streams."""
        with self.lock:
            core, timing = self.core, self.core.summary()
            state = Health(
                'state',
                ERROR if core.state is ArmState.STOPPED else WARN if core.fault else OK,
                f'{core.state.name}: {self.send.reason(core.reason)}',
                {'refused_chunks': core.chunks.refused, 'projected_targets': core.filter.projected},
            )
            safety = safety_health(core)
        late = timing.rate_hz < 0.98 * CONTROL_RATE_HZ
        values = {'rate_hz': round(timing.rate_hz, 3), 'jitter_p50_ms': round(timing.jitter_p50_s * 1e3, 3),
                  'jitter_p99_ms': round(timing.jitter_p99_s * 1e3, 3), 'missed_ticks': timing.missed}
        pace = Health('control loop', WARN if late else OK, 'slow' if late else 'on time', values)
        streams = (monitor.health(self.steady_ns()) for monitor in self.monitors.values())
        return [state, *self.send.health(), safety, pace, *streams]


def main() -> int:
    """Run the node."""
    return run_node(ArmController)


if __name__ == '__main__':
    sys.exit(main())
