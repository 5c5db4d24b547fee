"""State machine of the arm controller: what is sent to the arms in each control period, and why.

The caller ticks it once per control period and sends what it returns. It reads no clock, so a test can make
time do anything. Not thread-safe: call every method from one thread, or under one lock.
"""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import GRIPPER_COLUMNS, JOINT_NAMES, PolicyContract
from fpo_ros.policy.limits import JointLimits
from fpo_ros.runtime.apart import farthest_joint
from fpo_ros.runtime.believed_joints import BelievedJoints
from fpo_ros.runtime.chunks import ChunkExecutor
from fpo_ros.runtime.controller_config import ArmState, ControllerConfig
from fpo_ros.runtime.geometry import Geometry
from fpo_ros.runtime.homing import ARRIVED, Approach
from fpo_ros.runtime.motor_watch import MotorReadings, MotorWatch
from fpo_ros.runtime.safety import SafetyFilter
from fpo_ros.runtime.teleoperation import Teleoperation
from fpo_ros.runtime.timing import PeriodStatistics, TimingSummary

#: States that follow a path to a pose.
PATHS = (ArmState.HOMING, ArmState.PARKING)
#: States that a hot motor ends; it must be possible to park it.
_WORK = (ArmState.HOMING, ArmState.POLICY, ArmState.TELEOP)


class ArmControllerCore:
    """Turns chunks and requests into one safe command per control period for both arms.

    :param contract: what policies of this cell send.
    :param limits: position and speed limits of the arms.
    :param config: settings.
    :param geometry: model of the cell; None: TCP speed, workspace and clearances are not looked at.
    """

    def __init__(self, contract: PolicyContract, limits: JointLimits | None = None,
                 config: ControllerConfig | None = None, geometry: Geometry | None = None) -> None:
        self.contract = contract
        self.config = config or ControllerConfig()
        self.period_s = 1 / contract.control_rate_hz
        self.filter = SafetyFilter(limits or JointLimits(), self.period_s, self.config.safety, geometry)
        self.motors = MotorWatch(self.config.motors, self.period_s)
        self.chunks = ChunkExecutor(contract, self.config.observation_age_limit_s)
        self.teleoperation = Teleoperation(self.config, self.period_s)
        self.timing = PeriodStatistics(self.period_s)
        self.state = ArmState.IDLE
        #: Why the state was entered, or what has gone wrong in it since.
        self.reason = 'activated'
        #: What made the arms hold; empty where they were asked to, or have arrived.
        self.fault = ''
        self.joints = BelievedJoints(self.config, self.filter.implausible)
        #: Times the arms were taken over, where they stand or at their target [count].
        self.takeovers = 0
        self._takeover_due = False
        self._blind = False
        self._starved_ticks = 0
        self._driving_version: str | None = None
        self._pressed: frozenset[str] = frozenset()
        self._now_ns = 0
        self._approach = Approach(self.config, self.filter.limits, self.period_s)

    # ---- what the operator and other nodes ask for

    def request(self, state: ArmState | int, reason: str = '', fault: bool = False) -> tuple[bool, str]:
        """Ask for a state; it takes effect at the next tick.

        :param fault: whether the reason is that something has gone wrong.
        :returns: whether it was granted, and why not.
        """
        try:
            wanted = ArmState(state)
        except ValueError:
            return False, f'unknown state {state}: use {", ".join(f"{s.value} {s.name}" for s in ArmState)}'
        if wanted is ArmState.STOPPED:
            self._latch_stop(reason or 'requested')
            return True, ''
        if self.state is ArmState.STOPPED:
            return False, f'emergency stop is latched ({self.reason}): reset it first'
        if wanted is self.state:
            return True, ''
        if wanted is ArmState.IDLE:
            self.filter.let_go()
            self._enter(wanted, reason or 'requested')
            return True, ''
        if self.joints.problem and not (wanted is ArmState.HOLD and self.filter.command is not None):
            return False, f'cannot enter {wanted.name}: {self.joints.problem}'
        if wanted is ArmState.TELEOP:
            objection = self.teleoperation.objection(self._now_ns, self._stands_at())
            if objection:
                return False, f'cannot enter {wanted.name}: {objection}'
        self._enter(wanted, reason or 'requested', fault)
        return True, ''

    def emergency_stop(self, pressed: bool, device: str = 'emergency stop') -> None:
        """Report an emergency stop: pressing one latches STOPPED; releasing it alone changes nothing.

        :param device: which one; each that is pressed must be released before a reset.
        """
        self._pressed = self._pressed | {device} if pressed else self._pressed - {device}
        if pressed:
            self._latch_stop(f'{device} pressed')

    def reset_emergency_stop(self) -> tuple[bool, str]:
        """Leave STOPPED for IDLE: the deliberate reset.

        :returns: whether it was granted, and why not.
        """
        if self.state is not ArmState.STOPPED:
            return False, 'emergency stop is not latched'
        if self._pressed:
            return False, f'{" and ".join(sorted(self._pressed))} still pressed: release it first'
        self._enter(ArmState.IDLE, 'emergency stop reset')
        return True, ''

    def inherit_emergency_stop(self, former: ArmControllerCore) -> None:
        """Take over the emergency stop of a core that this one replaces: a restart is no reset."""
        self._pressed = former._pressed
        if former.state is ArmState.STOPPED:
            self._latch_stop(former.reason)

    def accept_chunk(self, chunk: np.ndarray, sequence: int, observation_stamp_ns: int, now_ns: int, *,
                     policy_version: str = '', control_period_s: float | None = None, joining: int = 0) -> bool:
        """Offer a chunk; parameters as :meth:`ChunkExecutor.accept`. Refused, too, outside POLICY."""
        if self.state is not ArmState.POLICY or self._takeover_due:
            why = 'it has not taken the arms over yet' if self._takeover_due else f'state {self.state.name}'
            return self.chunks.refuse(f'chunk {sequence} came while the controller is not following a policy '
                                      f'({why})')
        return self.chunks.accept(chunk, sequence, observation_stamp_ns, now_ns,
                                  policy_version=policy_version, control_period_s=control_period_s, joining=joining)

    # ---- once per control period

    def tick(self, now_ns: int, measured: np.ndarray | None, measured_stamp_ns: int | None,
             readings: MotorReadings | None = None) -> np.ndarray | None:
        """Decide what to send in this control period.

        :param now_ns: this instant [ns].
        :param measured: (14,) newest measured joints [rad, grippers 0..1], or None when there are none yet.
        :param measured_stamp_ns: instant they were measured (of the oldest part) [ns].
        :param readings: currents and temperatures of the motors, where they are known.
        :returns: (14,) read-only float64 command, or None: send nothing.
        """
        elapsed, self._now_ns = self.timing.tick(now_ns), now_ns
        self._look(now_ns, measured, measured_stamp_ns, elapsed)
        self._watch_motors(readings or MotorReadings())
        if self.state in (ArmState.IDLE, ArmState.STOPPED):
            return None
        self._watch(elapsed)
        if self._takeover_due:
            self._take_over(now_ns)
        elif self.state in PATHS:
            self._approach_step()
        elif self.state is ArmState.TELEOP:
            self._teleop_step()
        elif self.state is ArmState.POLICY:
            self._policy_step(now_ns, elapsed)
        if self._blind:
            return None
        command = self.filter.finish()
        if self.state in (*PATHS, ArmState.POLICY) and (
                self.filter.blocked * self.period_s > self.config.blocked_limit_s):
            self._enter(ArmState.HOLD, f'{self.filter.block}; it kept the arms for {self.config.blocked_limit_s:g} s',
                        fault=True)
        return command

    @property
    def at_home(self) -> bool:
        """Fresh measured joints stand at the start pose."""
        return not self.joints.problem and self._approach.at_home(self._arms)

    @property
    def remaining(self) -> int:
        """Periods to come that a chunk has a row for [control periods]."""
        return self.chunks.remaining

    def summary(self) -> TimingSummary:
        """Return rate, jitter and missed ticks so far."""
        return self.timing.summary()

    # ---- inside

    def _latch_stop(self, reason: str) -> None:
        if self.state is not ArmState.STOPPED:
            self.filter.let_go()
            self._enter(ArmState.STOPPED, reason)

    def _enter(self, state: ArmState, reason: str, fault: bool = False) -> None:
        self.chunks.drop()
        holds_on = state is ArmState.HOLD and self.filter.command is not None and not self._takeover_due
        self._takeover_due = state not in (ArmState.IDLE, ArmState.STOPPED) and not holds_on
        self._blind = self._blind and holds_on
        self.state, self.reason, self.fault = state, reason, reason if fault else ''

    def _look(self, now_ns: int, measured: np.ndarray | None, stamp_ns: int | None, elapsed_ns: int | None) -> None:
        jump = '' if not self._stalled(elapsed_ns) else (
            f'; the control loop paused or the clock jumped ({elapsed_ns * 1e-9:.2f} s between two ticks)')
        self.joints.look(now_ns, measured, stamp_ns, self.filter.command, jump)

    def _stalled(self, elapsed_ns: int | None) -> bool:
        """Return whether this tick came much later than the one before, or before it, by the clock."""
        return elapsed_ns is not None and not 0 < elapsed_ns <= self.config.stall_limit_s * 1e9

    @property
    def _arms(self) -> np.ndarray | None:
        """Where the arms stand, (14,): as measured, but at their command in a dry run, which they cannot follow."""
        command = self.filter.command if self.config.log_only else None
        return self.joints.value if command is None else command

    def _watch(self, elapsed_ns: int | None) -> None:
        """Hold where joint states are lost, the clock stands, or the arms are far from their target.

        Without joint states nothing is sent: the servos hold by themselves, and a driver that comes back, whose
        arms may have fallen in between, must not find an old goal waiting. Once they are back the arms are
        taken over anew.
        """
        if self.joints.problem and not self._takeover_due:
            if self.state is not ArmState.HOLD:
                self._enter(ArmState.HOLD, self.joints.problem, True)
            elif not self._blind:
                self.reason = self.fault = self.joints.problem
            self._blind = True
            return
        if self._blind:
            self._blind, self._takeover_due = False, True
        elif self.state in PATHS and elapsed_ns is not None and elapsed_ns <= 0:
            self._enter(ArmState.HOLD, 'the clock stands still or jumped back', True)
        elif not self._takeover_due and (lead := self._lead()):
            self._enter(ArmState.HOLD, lead, True)
            self._takeover_due = True

    def _watch_motors(self, readings: MotorReadings) -> None:
        """Stop or hold for hot or overloaded motors, and ease grippers that squeeze too hard for too long."""
        watch, grippers, command = self.motors, list(GRIPPER_COLUMNS), self.filter.command
        where = None if self._arms is None else self._arms[grippers]
        watch.look(readings, None if command is None else command[grippers], where)
        if watch.hot and self.state in _WORK:
            self._latch_stop(watch.hot)
        elif watch.powerless and self.state in (*_WORK, ArmState.PARKING, ArmState.HOLD):
            # In HOLD, too, again and again: rebooted, it would leap to a target that it fell away from.
            self._enter(ArmState.HOLD, watch.powerless, True)
            self._takeover_due = True
        elif watch.warm and self.state in _WORK:
            self._enter(ArmState.HOLD, watch.warm, True)
            self._takeover_due = True
        self.filter.keep_grippers(watch.lower, watch.upper)

    def _send_to(self, target: np.ndarray, ahead: np.ndarray | None = None) -> np.ndarray:
        """Send the arms to a target under all limits; grippers that it opens again are eased no longer."""
        self.motors.wanted(target[list(GRIPPER_COLUMNS)])
        self.filter.keep_grippers(self.motors.lower, self.motors.upper)
        return self.filter.step(target, ahead)

    def _lead(self) -> str:
        """Say which joint is too far from its target; empty when none is. Grippers squeeze and are left out."""
        column, distance = farthest_joint(self.filter.command, self._arms)
        if distance <= self.config.lead_limit:
            return ''
        return (f'{JOINT_NAMES[column]} stands {distance:.2f} rad from its target, the limit is '
                f'{self.config.lead_limit:g} rad: it is blocked, or its motor was off; the arms hold where they stand')

    def _take_over(self, now_ns: int) -> None:
        """First tick of a state: command what is measured, or the current target where the arms follow it."""
        if self.joints.problem:
            lost, self._takeover_due = f'takeover failed: {self.joints.problem}', False
            self._enter(ArmState.IDLE if self.filter.command is None else ArmState.HOLD, lost, True)
            self._blind = self.state is ArmState.HOLD
            return
        start, grippers = np.array(self._arms), list(GRIPPER_COLUMNS)
        if self.filter.command is not None:
            start[grippers] = self.filter.command[grippers]
            if self._near(self.filter.command) and not self.motors.powerless:
                start = self.filter.command
        self.filter.start(start, self.config.ramp_periods)
        self.joints.taken_over()
        if not self.motors.powerless:
            self.motors.forget()
        self.filter.keep_grippers(self.motors.lower, self.motors.upper)
        self.takeovers += 1
        self._takeover_due = False
        self._starved_ticks = 0
        self._driving_version = None
        if self.state is ArmState.POLICY:
            self.chunks.reset(now_ns)
        elif self.state is ArmState.TELEOP:
            self.teleoperation.begin(self.filter.command)
        elif self.state in PATHS:
            self._approach.begin(self.filter.command, parking=self.state is ArmState.PARKING)

    def _approach_step(self) -> None:
        command = self._send_to(self._approach.next())
        outcome = self._approach.outcome(command, self._arms)
        if outcome:
            self._enter(ArmState.HOLD, outcome, outcome not in ARRIVED)

    def _stands_at(self) -> np.ndarray:
        """Return the (14,) pose that a takeover would start from, but for the grippers."""
        command = self.filter.command
        near = command is not None and self._near(command)
        return command if near else self._arms

    def _near(self, command: np.ndarray) -> bool:
        """Return whether the arms are near enough to a command to go on from it; grippers squeeze, and are left out."""
        return farthest_joint(command, self._arms)[1] <= self.config.takeover_joint_tolerance

    def _teleop_step(self) -> None:
        silent = self.teleoperation.silence(self._now_ns)
        if silent:
            self._enter(ArmState.HOLD, silent, True)
        else:
            self._send_to(self.teleoperation.next())

    def _policy_step(self, now_ns: int, elapsed_ns: int | None) -> None:
        if self._stalled(elapsed_ns) and self.chunks.remaining:
            dropped = self.chunks.drop()
            self.chunks.refuse(f'control loop paused or the clock jumped ({elapsed_ns * 1e-9:.3f} s between '
                               f'two ticks): {dropped} rows of chunk {self.chunks.sequence} abandoned')
        if self.chunks.remaining and self.chunks.policy_version != self._driving_version:
            if self._driving_version is not None:
                self.filter.ramp(self.config.ramp_periods)
                self._driving_version = self.chunks.policy_version
                self.chunks.wait(now_ns)
                return
            self._driving_version = self.chunks.policy_version
        target = self.chunks.next_target(now_ns)
        if target is not None:
            self._starved_ticks = 0
            self._send_to(target, self.chunks.upcoming(self.config.safety.look_ahead))
            return
        self._starved_ticks += 1
        if self._starved_ticks * self.period_s > self.config.starve_limit_s:
            sequence = self.chunks.sequence
            newest = 'none since the takeover' if sequence is None else f'newest {sequence}'
            why = f'; newest refusal: {self.chunks.refusal}' if self.chunks.refusal else ''
            self._enter(ArmState.HOLD, f'no chunk for {self.config.starve_limit_s:.1f} s ({newest}){why}', True)
