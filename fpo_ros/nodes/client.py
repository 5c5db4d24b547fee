"""A client of the running graph: run episodes, announce releases, read the controller's figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionClient
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from fpo_ros.action import ArmSequence, RunEpisode
from fpo_ros.msg import ControllerStatus, LearnerStatus, PolicyStatus
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.graph import GraphError
from fpo_ros.nodes.ros_client import RosClient
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.srv import AnnounceRelease, SetControllerState, StartTraining

#: Time without an answer after which a goal is sent again [s].
REPEAT_S = 3.0


@dataclass(frozen=True)
class EpisodeOutcome:
    """How an episode ended; see action/RunEpisode.action.

    :param success: whether the task was done.
    :param reason: one of its REASON_*.
    :param message: details in words.
    :param max_stage: highest staged reward 0..4.
    :param steps: control periods under policy control.
    :param policy_version: release that drove the arms.
    :param episode_id: id in the episode store; empty if not stored.
    """

    success: bool
    reason: str
    message: str
    max_stage: int
    steps: int
    policy_version: str
    episode_id: str


@dataclass(frozen=True)
class CommandTiming:
    """Pace of the command stream, as the controller measures it.

    :param rate_hz: commands per second over the newest 500 periods [Hz].
    :param jitter_p99_ms: 99th percentile of \\|period - nominal\\| over the same [ms].
    :param ticks: control periods since activation.
    :param missed_ticks: periods that started more than half a period late, since activation.
    """

    rate_hz: float
    jitter_p99_ms: float
    ticks: int
    missed_ticks: int


class EpisodeClient(RosClient):
    """Talks to one cell.

    :param namespace: namespace of the cell.
    :param domain: ROS domain; None: that of the environment.
    """

    def __init__(self, namespace: str = '/', domain: int | None = None, name: str = 'episode_client') -> None:
        super().__init__(name, namespace, domain)

    def _connect(self) -> None:
        self._controller = self.latest(ControllerStatus, 'controller_status', qos.SENSOR)
        self._policy = self.latest(PolicyStatus, 'policy_status', qos.LATCHED)
        self._learner = self.latest(LearnerStatus, 'learner_status', qos.LATCHED)
        self._refusals: int | None = None
        self._asked_ns = 0
        self._stop = self.node.create_publisher(Bool, 'operator_stop', qos.EVENT)
        self._episodes = ActionClient(self.node, RunEpisode, 'run_episode')
        self._sequences = ActionClient(self.node, ArmSequence, 'arm_sequence')

    def _disconnect(self) -> None:
        self._episodes.destroy()
        self._sequences.destroy()

    def _send(self, actions: ActionClient, goal: Any, forward: Callable[[Any], None] | None) -> Callable[[], Any]:
        """Send a goal; the returned function gives the handle of the server's answer, or None.

        Sent on the thread that takes answers: rclpy makes the future of a goal anew after it has been sent (9.1.2,
        ``ActionClient.send_goal_async``), so that an answer that another thread took meanwhile would be lost.
        """
        sent = self._executor.create_task(actions.send_goal_async, goal, feedback_callback=forward)
        return lambda: sent.result().result() if sent.done() and sent.result().done() else None

    # ---- episodes

    def start_episode(
        self,
        seed: int,
        task: str = 'transfer_cube',
        *,
        max_steps: int = 0,
        record: bool = True,
        operated: bool = False,
        on_feedback: Callable[[int, int, str], None] | None = None,
        timeout_s: float = 10.0,
    ) -> Any:
        """Ask for an episode and return the handle of the accepted goal.

        :param operated: an operator drives, who takes over by the leaders once the scene is reset.
        :param on_feedback: called with (step, stage, phase) on another thread.
        :raises GraphError: when there is no server, or it refuses.
        """
        self.wait_for(self._episodes.server_is_ready, 'the action server run_episode', timeout_s)
        goal = RunEpisode.Goal(
            task=task, seed=seed, max_steps=max_steps, record=record,
            driver=RunEpisode.Goal.DRIVER_OPERATOR if operated else RunEpisode.Goal.DRIVER_POLICY)
        forward = None if on_feedback is None else (
            lambda message: on_feedback(message.feedback.step, message.feedback.stage, message.feedback.phase))
        replies: list[Callable[[], Any]] = []

        def answered() -> list[Any]:
            # A server that has just been restarted may miss a request: DDS still knows its predecessor.
            if time.monotonic() >= begun + REPEAT_S * len(replies):
                replies.append(self._send(self._episodes, goal, forward))
            handles = [reply() for reply in replies]
            accepted = [handle for handle in handles if handle is not None and handle.accepted]
            return accepted or ([] if None in handles else handles)

        begun = time.monotonic()
        handle = self.wait_for(answered, 'the answer of run_episode', timeout_s)[0]
        if not handle.accepted:
            raise GraphError(f'episode with seed {seed} was refused: the log of episode_manager says why')
        return handle

    def finish_episode(self, handle: Any, timeout_s: float = 60.0) -> EpisodeOutcome:
        """Wait for the end of an episode.

        :raises GraphError: on time-out.
        """
        result = self.result(handle.get_result_async(), 'the end of the episode', timeout_s).result
        return EpisodeOutcome(result.success, result.reason, result.message, result.max_stage, result.steps,
                              result.policy_version, result.episode_id)

    def run_episode(self, seed: int, task: str = 'transfer_cube', *, max_steps: int = 0, record: bool = True,
                    operated: bool = False, on_feedback: Callable[[int, int, str], None] | None = None,
                    timeout_s: float = 60.0) -> EpisodeOutcome:
        """Run one episode to its end.

        :param max_steps: time-out [control periods]; 0: as configured.
        :param timeout_s: longest wait [s].
        :raises GraphError: when it is refused or does not end in time.
        """
        handle = self.start_episode(seed, task, max_steps=max_steps, record=record, operated=operated,
                                    on_feedback=on_feedback)
        return self.finish_episode(handle, timeout_s)

    def cancel(self, handle: Any, timeout_s: float = 5.0) -> None:
        """Ask for the end of a running episode or sequence; ``finish_…`` tells how it ended."""
        self.result(handle.cancel_goal_async(), 'the answer to the cancel request', timeout_s)

    # ---- sequences of the arms

    def start_sequence(self, name: str, on_step: Callable[[str], None] | None = None, timeout_s: float = 10.0) -> Any:
        """Ask for a sequence of the arms and return the handle of the accepted goal.

        :param name: one of action/ArmSequence.action.
        :param on_step: called with what is under way, on another thread.
        :raises GraphError: when there is no server, or it refuses.
        """
        self.wait_for(self._sequences.server_is_ready, 'the action server arm_sequence: only cells of the real '
                      'configuration have it', timeout_s)
        forward = None if on_step is None else (lambda message: on_step(message.feedback.step))
        goal = ArmSequence.Goal(sequence=name)
        handle = self.wait_for(self._send(self._sequences, goal, forward), 'the answer of arm_sequence', timeout_s)
        if not handle.accepted:
            raise GraphError(f'sequence {name} was refused: the log of arms says why')
        return handle

    def finish_sequence(self, handle: Any, name: str, timeout_s: float = 120.0) -> None:
        """Wait for the end of a sequence.

        :raises GraphError: on time-out, or with the reason why it was not carried out.
        """
        result = self.result(handle.get_result_async(), f'the end of {name}', timeout_s).result
        if not result.success:
            raise GraphError(f'{name}: {result.message}')

    # ---- releases and training

    def announce(self, version: str = '', timeout_s: float = 10.0) -> str:
        """Let the learner announce a release; returns its version.

        :param version: empty: the newest promoted one.
        :raises GraphError: with the learner's reason.
        """
        status = self._policy()
        self._refusals = status.refusals if status else 0
        reply = self.call(
            AnnounceRelease, 'announce_release', AnnounceRelease.Request(version=version), timeout_s
        )
        if not reply.success:
            raise GraphError(f'release {version or "(promoted)"} was not announced: {reply.message}')
        return reply.version

    def wait_for_version(self, version: str, timeout_s: float = 30.0) -> PolicyStatus:
        """Wait until the policy node serves a release.

        :raises GraphError: on time-out, or as soon as the node refuses a release after the newest :meth:`announce`.
        """
        before = self._policy()
        refusals = (before.refusals if before else 0) if self._refusals is None else self._refusals

        def served() -> PolicyStatus | None:
            status = self._policy()
            if status is None or status.version == version:
                return status
            if status.refusals > refusals:
                self._refusals = status.refusals
                raise GraphError(f'the policy node refused a release: {status.last_refusal}')
            return None

        return self.wait_for(served, f'the policy node to serve {version}', timeout_s)

    def rollback_policy(self, timeout_s: float = 5.0) -> str:
        """Let the policy node serve the policy of before again; returns what it says.

        :raises GraphError: when there is none.
        """
        reply = self.call(Trigger, 'rollback_policy', Trigger.Request(), timeout_s)
        if not reply.success:
            raise GraphError(f'the policy was not rolled back: {reply.message}')
        return reply.message

    def start_training(self, run: str = '', iterations: int = 0, resume: bool = False) -> None:
        """Start the trainer of the learner.

        :raises GraphError: with the learner's reason.
        """
        reply = self.call(StartTraining, 'start_training',
                          StartTraining.Request(run=run, iterations=iterations, resume=resume))
        if not reply.success:
            raise GraphError(f'training was not started: {reply.message}')

    # ---- state

    def controller_status(self, timeout_s: float = 5.0) -> ControllerStatus:
        """Return the newest status of the arm controller."""
        return self.wait_for(self._controller, 'controller_status', timeout_s)

    def policy_status(self, timeout_s: float = 5.0) -> PolicyStatus:
        """Return the newest status of the policy node."""
        return self.wait_for(self._policy, 'policy_status', timeout_s)

    def learner_status(self, timeout_s: float = 5.0) -> LearnerStatus:
        """Return the newest status of the learner."""
        return self.wait_for(self._learner, 'learner_status', timeout_s)

    def command_timing(self, timeout_s: float = 5.0) -> CommandTiming:
        """Return the pace of the command stream."""
        status = self.controller_status(timeout_s)
        return CommandTiming(status.command_rate, status.jitter_p99 * 1e3, status.ticks, status.missed_ticks)

    def wait_for_state(self, state: ArmState, timeout_s: float = 10.0) -> ControllerStatus:
        """Wait until the controller is in a state; statuses from before the newest request here do not count."""
        def reached() -> ControllerStatus | None:
            status = self._controller()
            if status is None or convert.nanoseconds(status.header.stamp) <= self._asked_ns:
                return None
            return status if status.state == state else None

        return self.wait_for(reached, f'the controller to be in {state.name}', timeout_s)

    def set_state(self, state: ArmState, reason: str = 'operator', timeout_s: float = 5.0) -> None:
        """Ask the controller for a state.

        :raises GraphError: with the controller's reason.
        """
        def request() -> SetControllerState.Request:
            return SetControllerState.Request(state=int(state), reason=reason,
                                              stamp=self.node.get_clock().now().to_msg())

        reply = self.call(SetControllerState, 'set_controller_state', request, timeout_s)
        self._asked_ns = self.node.get_clock().now().nanoseconds
        if not reply.success:
            raise GraphError(f'the controller refused {state.name}: {reply.message}')

    def emergency_stop(self, pressed: bool) -> None:
        """Report the position of the emergency stop; releasing it does not end the stop, a reset does."""
        self._stop.publish(Bool(data=pressed))

    def reset_emergency_stop(self, timeout_s: float = 5.0) -> None:
        """End a latched emergency stop; the controller is IDLE then.

        :raises GraphError: with the controller's reason.
        """
        reply = self.call(Trigger, 'reset_emergency_stop', Trigger.Request(), timeout_s)
        self._asked_ns = self.node.get_clock().now().nanoseconds
        if not reply.success:
            raise GraphError(f'the emergency stop was not reset: {reply.message}')
