"""The course of one episode: home, reset, settle, follow who drives, hold. Time is an argument.

Arms that cannot reach home before the reset, for a gripper may hold the object still, home again after it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fpo_ros.runtime.controller_config import ArmState

SUCCESS, TIMEOUT, CANCELED = 'success', 'timeout', 'canceled'
CONTROLLER, STREAM, SETUP = 'controller', 'stream', 'setup'
FAILURE, RECORDING = 'failure', 'recording'
#: Pause before a refused request for homing is repeated [ns].
RETRY_NS = 200_000_000
#: Statuses received sooner after the controller granted homing may be older than its answer [ns].
SETTLED_NS = 100_000_000
#: A controller that is idle so long after it granted homing has given it up [ns].
IDLE_NS = 1_000_000_000
#: A request without an answer for so long is sent again: a server that was restarted may have missed it [ns].
REPEAT_NS = 1_000_000_000
#: Looks at the clock farther apart than this tell that this process was paused, not those it waits for [ns].
PAUSE_NS = 200_000_000
#: Time in which a server must be found [s].
SERVER_S = 5.0
#: Pause before a reset that a person has not confirmed yet is asked for again [ns].
PENDING_NS = 500_000_000
#: What an operator who shall drive is asked to do.
TAKE_OVER = ': squeeze both leader grippers, or call take_over'


class Phase(enum.Enum):
    """Where an episode is."""

    HOMING = 'homing'
    RESETTING = 'resetting'
    SETTLING = 'settling'
    TAKING_OVER = 'taking over'
    RUNNING = 'running'
    HOLDING = 'holding'
    DONE = 'done'


@dataclass(frozen=True)
class SetState:
    """Ask the controller for a state."""

    state: ArmState
    reason: str


@dataclass(frozen=True)
class SceneOrder:
    """Ask for the start position of the objects."""

    task: str
    seed: int


@dataclass(frozen=True)
class SequenceLimits:
    """Longest duration of each part [s].

    :param homing_s: moving to the start pose.
    :param reset_s: resetting the scene.
    :param settle_s: standing at home after the reset.
    :param reply_s: an answer of the controller.
    :param takeover_s: an operator taking over, where one shall drive.
    :param stream_s: silence of the controller status or the task reward.
    :param connect_s: time until the first controller status, for nodes that have just found each other.
    :param start_delay_s: rest between the confirmed reset and the next motion, for hands to leave the cell.
    """

    homing_s: float = 20.0
    reset_s: float = 10.0
    settle_s: float = 5.0
    reply_s: float = 2.0
    takeover_s: float = 60.0
    stream_s: float = 0.5
    connect_s: float = 10.0
    start_delay_s: float = 0.1


class EpisodeSequence:
    """State machine of one episode. Feed it what arrives; carry out what :meth:`step` returns.

    :param task: task of the scene.
    :param seed: seed of the scene.
    :param max_steps: time-out [control periods].
    :param limits: longest duration of each part.
    :param now_ns: this instant [ns].
    :param operated: an operator drives from the start, who takes over by the leaders; otherwise the policy.
    """

    def __init__(self, task: str, seed: int, max_steps: int, limits: SequenceLimits, now_ns: int, *,
                 operated: bool = False) -> None:
        self.task, self.seed, self.max_steps = task, seed, max_steps
        self._driver = ArmState.TELEOP if operated else ArmState.POLICY
        self._takeover_s = limits.takeover_s if operated else limits.reply_s
        self.limits = limits
        self.phase = Phase.HOMING
        self.reason = ''
        self.message = ''
        self.steps = 0
        #: Steps in which an operator drove the arms.
        self.operated = 0
        self.stage = 0
        self.max_stage = 0
        self.policy_version = ''
        #: Every release that drove the arms in this episode, in order.
        self.policy_versions: list[str] = []
        self.hold_confirmed = False
        self._since = self._rewarded = now_ns
        self._heard: int | None = None
        self._begun = self._looked = now_ns
        self._observed: int | None = None
        self._missing = ''
        self._ask_again_ns: int | None = None
        self._asked_ns: int | None = None
        self._granted_ns: int | None = None
        self._at_home = self._scene_is_reset = False
        self._scene_reset_ns = now_ns

    @property
    def by_operator(self) -> bool:
        """Whether an operator drives from the start."""
        return self._driver is ArmState.TELEOP

    @property
    def success(self) -> bool:
        """Whether the task was done."""
        return self.reason == SUCCESS

    def stop(self, reason: str, message: str = '') -> None:
        """End the episode; the first cause wins."""
        if not self.reason and self.phase is not Phase.DONE:
            self.reason, self.message = reason, message

    def on_status(self, now_ns: int, state: ArmState, why: str, at_home: bool, policy_version: str) -> bool:
        """Take a controller status received now; returns whether it belongs to the recorded episode."""
        self._heard, self._at_home = now_ns, at_home
        if self.phase is Phase.HOMING and state is ArmState.STOPPED:
            self.stop(CONTROLLER, f'the arms cannot home: {why}')
        elif self.phase is Phase.HOMING and self._granted_ns is not None and now_ns - self._granted_ns > SETTLED_NS:
            if state is ArmState.HOLD and not self._scene_is_reset:
                self._go(Phase.RESETTING, now_ns)
            elif state is ArmState.HOLD and at_home:
                self._go(Phase.SETTLING, now_ns)
            elif state is ArmState.IDLE and now_ns - self._granted_ns > IDLE_NS:
                self.stop(CONTROLLER, f'homing ended in {state.name}: {why}')
            elif state is ArmState.HOLD:
                self.stop(SETUP, f'the arms did not reach the start pose: {why}')
        elif self.phase is Phase.SETTLING:
            self._settle(now_ns, state is ArmState.HOLD and at_home)
        elif self.phase is Phase.TAKING_OVER and self._asked_ns is not None and state is self._driver:
            self._go(Phase.RUNNING, now_ns)
            self._rewarded = now_ns
        elif self.phase is Phase.TAKING_OVER and self.by_operator and state is not ArmState.HOLD:
            self.stop(CONTROLLER, f'the controller left HOLD for {state.name} before the operator took over: {why}')
        elif self.phase is Phase.RUNNING and state not in (ArmState.POLICY, ArmState.TELEOP):
            self.stop(CONTROLLER, f'the controller left {self._driver.name} for {state.name}: {why}')
        elif self.phase is Phase.HOLDING and self._asked_ns is not None:
            self.hold_confirmed = state in (ArmState.IDLE, ArmState.HOLD, ArmState.STOPPED)
        if self.phase is not Phase.RUNNING or self.reason:
            return False
        self.steps += 1
        self.operated += state is ArmState.TELEOP
        if state is ArmState.POLICY and policy_version and policy_version != self.policy_version:
            self.policy_version = policy_version
            self.policy_versions.append(policy_version)
        if self.steps >= self.max_steps:
            self.stop(TIMEOUT, f'not done within {self.max_steps} control periods')
        return True

    def _settle(self, now_ns: int, at_home: bool) -> None:
        seen = self._observed is not None and self._observed > self._since
        self._missing = '' if at_home else ': the arms are not at home'
        self._missing = self._missing if seen else ': no observation since the reset'
        if at_home and seen and self._rested(now_ns):
            self._go(Phase.TAKING_OVER, now_ns)

    def on_observation(self, now_ns: int) -> None:
        """Note that an observation was received now."""
        self._observed = now_ns

    def _rested(self, now_ns: int) -> bool:
        return (now_ns - self._scene_reset_ns) * 1e-9 >= self.limits.start_delay_s

    def on_reward(self, now_ns: int, stage: int, success: bool, failure: bool = False) -> None:
        """Take a task reward received now."""
        self._rewarded = now_ns
        if self.phase is Phase.RUNNING and not self.reason:
            self.stage = stage
            self.max_stage = max(self.max_stage, stage)
            if success:
                self.stop(SUCCESS)
            elif failure:
                self.stop(FAILURE, 'judged a failure')

    def on_controller_reply(self, now_ns: int, granted: bool, message: str) -> None:
        """Take the controller's answer to the newest :class:`SetState`.

        Homing is asked for again for a while: right after the start, joint states may not flow yet.
        """
        self._granted_ns = now_ns if granted else None
        if granted or self.phase not in (Phase.HOMING, Phase.TAKING_OVER):
            return
        if self.phase is Phase.HOMING and self._age_s(now_ns) < self.limits.connect_s:
            self._ask_again_ns = now_ns + RETRY_NS
        else:
            self.stop(CONTROLLER, f'the controller refused {self.phase.value}: {message}')

    def on_no_server(self, now_ns: int, name: str) -> None:
        """Note that nobody serves the newest order; nodes that have just started get a while to find each other."""
        if self._age_s(now_ns) > SERVER_S:
            self.stop(SETUP, f'nobody serves {name}: is the node that does running (driver_twin for simulated arms, '
                             'operator for real ones, arm_controller)?')

    def on_reset_reply(self, now_ns: int, done: bool, message: str, pending: bool = False) -> None:
        """Take the answer to :class:`SceneOrder`.

        :param pending: a person is at it: ask again.
        """
        if self.phase is not Phase.RESETTING:
            return
        if done:
            self._scene_is_reset, self._scene_reset_ns = True, now_ns
            self._go(Phase.SETTLING if self._at_home else Phase.HOMING, now_ns)
        elif pending:
            self._missing, self._ask_again_ns = f': {message}', now_ns + PENDING_NS
        else:
            self.stop(SETUP, f'the scene was not reset: {message}')

    def step(self, now_ns: int) -> SetState | SceneOrder | None:
        """Return the next thing to do now, if any. :attr:`phase` says when the episode is done."""
        if self.phase is Phase.DONE:
            return None
        self._allow_for_pause(now_ns)
        if not self.reason:
            self._watch(now_ns)
        if self.reason and self.phase is not Phase.HOLDING:
            self._go(Phase.HOLDING, now_ns)
        if self.phase is Phase.HOLDING and self._asked_ns is not None and (
                self.hold_confirmed or self._age_s(now_ns) > self.limits.reply_s):
            self._go(Phase.DONE, now_ns)
            return None
        if self._ask_again_ns is not None and now_ns >= self._ask_again_ns:
            self._asked_ns = self._ask_again_ns = None
        elif self._ask_again_ns is None and self._asked_ns is not None and self._granted_ns is None \
                and now_ns - self._asked_ns > REPEAT_NS:
            self._asked_ns = None
        if self._asked_ns is not None or (self.phase is Phase.HOMING and self._scene_is_reset
                                          and not self._rested(now_ns)):
            return None
        self._asked_ns = now_ns
        if self.phase is Phase.HOMING:
            return SetState(ArmState.HOMING, f'episode with seed {self.seed}')
        if self.phase is Phase.RESETTING:
            return SceneOrder(self.task, self.seed)
        if self.phase is Phase.TAKING_OVER and not self.by_operator:
            return SetState(ArmState.POLICY, f'episode with seed {self.seed}')
        if self.phase is Phase.HOLDING:
            return SetState(ArmState.HOLD, f'episode ended: {self.reason}')
        return None

    def _allow_for_pause(self, now_ns: int) -> None:
        """Leave a pause of this process out of the silence of others: what they sent waits to be read."""
        paused, self._looked = now_ns - self._looked, now_ns
        if paused > PAUSE_NS:
            self._heard = None if self._heard is None else self._heard + paused
            self._rewarded += paused

    def _watch(self, now_ns: int) -> None:
        limits, age = self.limits, self._age_s(now_ns)
        allowed = {Phase.HOMING: limits.homing_s, Phase.RESETTING: limits.reset_s,
                   Phase.SETTLING: limits.settle_s, Phase.TAKING_OVER: self._takeover_s}.get(self.phase)
        if allowed is not None and age > allowed:
            self.stop(SETUP, f'{self.phase.value} took longer than {allowed:g} s{self._missing}')
        elif self._heard is None:
            if (now_ns - self._begun) * 1e-9 > limits.connect_s:
                self.stop(
                    STREAM, f'no controller status within {limits.connect_s:g} s: is arm_controller running?'
                )
        elif (now_ns - self._heard) * 1e-9 > limits.stream_s:
            self.stop(STREAM, f'no controller status for {limits.stream_s:g} s: is arm_controller running?')
        elif self.phase is Phase.RUNNING and (now_ns - self._rewarded) * 1e-9 > limits.stream_s:
            self.stop(STREAM, f'no task reward for {limits.stream_s:g} s: is its source running?')

    def _go(self, phase: Phase, now_ns: int) -> None:
        awaits = phase is Phase.TAKING_OVER and self.by_operator
        self.phase, self._since, self._missing = phase, now_ns, TAKE_OVER if awaits else ''
        self._asked_ns = self._ask_again_ns = self._granted_ns = None

    def _age_s(self, now_ns: int) -> float:
        return (now_ns - self._since) * 1e-9
