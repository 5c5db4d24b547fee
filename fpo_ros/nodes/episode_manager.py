"""Runs episodes: the RunEpisode action, from homing to the stored episode."""

from __future__ import annotations

import sys
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from rclpy.action import CancelResponse, GoalResponse
from std_msgs.msg import Empty

from fpo_ros.action import RunEpisode
from fpo_ros.episodes import EpisodeStore, UnconfirmedEpisode
from fpo_ros.msg import ControllerStatus, Observation, TaskReward
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.goals import conclude
from fpo_ros.nodes.logic.episode_sequence import (
    CANCELED,
    FAILURE,
    RECORDING,
    SETUP,
    SUCCESS,
    TIMEOUT,
    EpisodeSequence,
    Phase,
    SceneOrder,
    SequenceLimits,
    SetState,
)
from fpo_ros.nodes.logic.episode_steps import StepAssembler
from fpo_ros.nodes.logic.health import ERROR, OK, WARN, Health
from fpo_ros.nodes.logic.recorder import Recorder
from fpo_ros.nodes.logic.rivals import Followed
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.running import run_node
from fpo_ros.policy.contract import CONTROL_RATE_HZ, TASKS
from fpo_ros.runtime.controller_config import ArmState
from fpo_ros.srv import ResetScene, SetControllerState

#: Time a node that is being deactivated gives the disk to store the running episode [s].
STORE_LIMIT_S = 10.0


@dataclass(frozen=True)
class EpisodeManagerParameters:
    """Parameters of ``episode_manager``."""

    record_dir: str = param('', 'episode store; empty: episodes are not recorded')
    task: str = param('transfer_cube', 'task of the cell', choices=tuple(TASKS))
    max_steps: int = param(400, 'time-out of a goal that names none [control periods]', low=1, high=1_000_000)
    image_period: int = param(10, 'frames are stored where a chunk begins and every so many steps [control periods]',
                              low=1, high=1000)
    homing_limit: float = param(20.0, 'time given to reach the start pose [s]', low=1.0, high=120.0)
    reset_limit: float = param(10.0, 'time given to reset the scene [s]', low=0.5, high=3600.0)
    settle_limit: float = param(5.0, 'time given to stand at home after the reset [s]', low=0.2, high=60.0)
    takeover_limit: float = param(60.0, 'time given to an operator who shall drive to take over [s]', low=1.0,
                                  high=3600.0)
    start_delay: float = param(0.1, 'rest between the reset and the next motion [s]', low=0.1, high=60.0)
    stream_limit: float = param(
        0.5, 'silence of status or reward that ends an episode [s]', low=0.1, high=10.0
    )


class EpisodeManager(CellNode):
    """Action server for one episode at a time; :class:`EpisodeSequence` decides, this node carries out."""

    NAME = 'episode_manager'
    PARAMETERS = EpisodeManagerParameters

    def setup(self) -> None:
        """Open the store and connect."""
        p = self.params
        self.limits = SequenceLimits(homing_s=p.homing_limit, reset_s=p.reset_limit, settle_s=p.settle_limit,
                                     stream_s=p.stream_limit, start_delay_s=p.start_delay, takeover_s=p.takeover_limit)
        if p.start_delay >= p.settle_limit:
            raise ValueError(f'start_delay ({p.start_delay} s) must be shorter than settle_limit ({p.settle_limit} s)')
        self.recorder = Recorder(EpisodeStore.create_or_open(p.record_dir)) if p.record_dir else None
        if self.recorder is not None:
            self.on_teardown(self.recorder.close)
        self.goal: Any = None
        self.sequence: EpisodeSequence | None = None
        self.steps: StepAssembler | None = None
        self.stored: Future[str] | None = None
        self.observation: Observation | None = None
        self.waiting_order: SetState | SceneOrder | None = None
        self.recording = False
        self.chunk = 0
        self.episodes = self.successes = 0
        self.newest_end = ''
        self.heartbeat = self.add_publisher(Empty, 'episode_heartbeat', qos.SENSOR)
        self.controller = self.add_client(SetControllerState, 'set_controller_state')
        self.scene = self.add_client(ResetScene, 'reset_scene')
        self.followed = Followed()
        self.add_subscription(ControllerStatus, 'controller_status', self._on_status, qos.STATUS)
        self.add_subscription(TaskReward, 'task_reward', self._on_reward, qos.STATUS)
        self.add_subscription(Observation, 'observation', self._on_observation, qos.OBSERVATION)
        self.add_timer(0.05, self._advance)
        self.keep_action_server(RunEpisode, 'run_episode', goal_callback=self._on_goal,
                                handle_accepted_callback=self._on_accepted, cancel_callback=self._on_cancel)

    def stop(self) -> None:
        """Hold the arms and store what was recorded of a running episode."""
        if self.sequence is None:
            return
        self.sequence.stop(CANCELED, 'the episode manager was deactivated')
        self._carry_out(SetState(ArmState.HOLD, 'the episode manager was deactivated'))
        if self.stored is None:
            self._conclude()
        if self.stored is not None:
            try:
                self.stored.result(timeout=STORE_LIMIT_S)
            except FutureTimeoutError:
                self.get_logger().error(f'episode not stored within {STORE_LIMIT_S:g} s: the disk is too slow; '
                                        '"fpo-ros episodes salvage" saves what reached it')
            except (ValueError, OSError) as error:
                self.get_logger().error(f'episode not stored: {error}')
        if self.sequence is not None:
            self._finish()

    # ---- the action

    def _on_goal(self, request: RunEpisode.Goal) -> GoalResponse:
        if not self.active:
            reason = 'the node is not active'
        elif self.goal is not None:
            reason = 'an episode is running'
        else:
            return GoalResponse.ACCEPT
        self.get_logger().error(f'episode refused: {reason}')
        return GoalResponse.REJECT

    def _objection(self, request: RunEpisode.Goal) -> str:
        """Say why an episode cannot be run here; empty when it can."""
        if request.task != self.params.task:
            return f"task '{request.task}' is not this cell's, which is {self.params.task}"
        if request.record and self.recorder is None:
            return 'it shall be recorded, but parameter record_dir is empty: name an episode store'
        if request.driver not in (RunEpisode.Goal.DRIVER_POLICY, RunEpisode.Goal.DRIVER_OPERATOR):
            return f'driver {request.driver} is unknown: use DRIVER_POLICY or DRIVER_OPERATOR'
        return ''

    def _on_accepted(self, goal: Any) -> None:
        # The goal stays accepted while the state machine runs; execute() at the end reports the result.
        # A coroutine would keep rclpy's executors busy while it waits.
        request = goal.request
        objection = self._objection(request)
        if objection:  # a rejection could not say why
            self.get_logger().error(f'episode refused: {objection}')
            result = RunEpisode.Result(reason=SETUP, message=objection)
            _report(goal, result)
            return
        self.goal, self.stored, self.recording = goal, None, request.record
        self.sequence = EpisodeSequence(
            request.task, request.seed, request.max_steps or self.params.max_steps, self.limits, self.steady_ns(),
            operated=request.driver == RunEpisode.Goal.DRIVER_OPERATOR
        )
        self.told: Phase | None = None
        self.steps, self.observation = StepAssembler(), None
        self._advance()

    def _on_cancel(self, goal: Any) -> CancelResponse:
        if self.sequence is None:
            return CancelResponse.REJECT
        self.sequence.stop(CANCELED, 'canceled by the client')
        return CancelResponse.ACCEPT

    # ---- what arrives

    def _on_status(self, message: ControllerStatus) -> None:
        if not self.followed.sent(message.ticks, self.steady_ns()):
            return
        sequence = self.sequence
        if sequence is None:
            return
        state = convert.arm_state(message.state)
        if state is None:
            self.error_once(f'controller_status has state {message.state}, which is unknown here: it is passed over')
            return
        if sequence.on_status(self.steady_ns(), state, message.reason, message.at_home, message.policy_version):
            self._take_step(message)
        self._advance()

    def _on_reward(self, message: TaskReward) -> None:
        if self.sequence is not None and message.task == self.sequence.task:
            self.steps.reward = float(message.stage)
            self.sequence.on_reward(self.steady_ns(), message.stage, message.success, message.failure)

    def _on_observation(self, message: Observation) -> None:
        self.observation = message
        if self.sequence is not None:
            self.sequence.on_observation(self.steady_ns())

    def _take_step(self, message: ControllerStatus) -> None:
        step = self.sequence.steps - 1
        if self.recording:
            if step == 0:
                self._begin_recording()
            if self.recorder.problem:
                self.sequence.stop(RECORDING, self.recorder.problem)
            seen, images = self.observation, {}
            begins, self.chunk = message.chunk_sequence != self.chunk, message.chunk_sequence
            try:
                if seen is not None and (begins or step % self.params.image_period == 0):
                    images = convert.observation_images(seen)
            except ValueError as error:  # ContractError, ImageError
                self.error_once(f'recording goes on without the pictures of an observation: {error}')
            pose = None if seen is None else convert.poses_array(seen.object_poses)
            self.recorder.append(self.steps.assemble(
                convert.nanoseconds(message.header.stamp), message.measured, message.command, pose,
                message.state == ControllerStatus.STATE_TELEOP), images)
        if step % 10 == 0:
            self._tell(step)

    def _tell(self, step: int = 0) -> None:
        self.told = self.sequence.phase
        self.goal.publish_feedback(
            RunEpisode.Feedback(step=step, stage=self.sequence.stage, phase=self.told.value))

    def _begin_recording(self) -> None:
        pixels = self.observation is not None and bool(self.observation.camera_names)
        self.recorder.begin({
            'task': self.sequence.task, 'prompt': TASKS[self.sequence.task],
            'observation': 'pixels' if pixels else 'state',
            'source': 'teleop' if self.sequence.by_operator else 'policy', 'seed': self.sequence.seed,
            'created': datetime.now(timezone.utc).isoformat(timespec='milliseconds'),
            'control_rate_hz': CONTROL_RATE_HZ})

    # ---- what is done

    def _advance(self) -> None:
        if self.sequence is None:
            return
        self.heartbeat.publish(Empty())
        if self.sequence.phase is not self.told:
            self._tell(self.sequence.steps)
        if self.stored is not None:
            if self.stored.done():
                self._finish()
            return
        order = self.sequence.step(self.steady_ns()) or self.waiting_order
        self.waiting_order = None if order is None or self._carry_out(order) else order
        if self.sequence.phase is Phase.DONE:
            self._conclude()

    def _carry_out(self, order: SetState | SceneOrder) -> bool:
        """Send a request; returns False while its server is not there, and the sequence's time limit runs."""
        sequence = self.sequence
        if isinstance(order, SetState):
            client, request = (
                self.controller,
                SetControllerState.Request(state=int(order.state), reason=order.reason, supervised=True,
                                           stamp=self.get_clock().now().to_msg()),
            )
        else:
            client, request = self.scene, ResetScene.Request(task=order.task, seed=order.seed)
        if not client.service_is_ready():
            sequence.on_no_server(self.steady_ns(), client.srv_name)
            return False

        def on_reply(future: Any) -> None:
            reply = future.result()
            if isinstance(order, SetState):
                sequence.on_controller_reply(self.steady_ns(), reply.success, reply.message)
            else:
                sequence.on_reset_reply(self.steady_ns(), reply.success, reply.message, reply.pending)

        client.call_async(request).add_done_callback(on_reply)
        return True

    def _conclude(self) -> None:
        if self.recording and self.sequence.steps:
            self.stored = self.recorder.commit(
                success=self.sequence.success, policy_version=self.sequence.policy_version,
                extra={'reason': self.sequence.reason, 'max_stage': self.sequence.max_stage,
                       'policy_versions': self.sequence.policy_versions})
        else:
            self._finish()

    def _finish(self) -> None:
        goal, sequence, stored = self.goal, self.sequence, self.stored
        self.goal = self.sequence = self.stored = self.steps = self.waiting_order = None
        result = RunEpisode.Result(success=sequence.success, reason=sequence.reason, message=sequence.message,
                                   max_stage=sequence.max_stage, steps=sequence.steps,
                                   policy_version=sequence.policy_version)
        if stored is not None and stored.done():
            self._tell_where(result, stored)
        self.episodes += 1
        self.successes += result.success
        self.newest_end = f'{sequence.reason} after {sequence.steps} steps {result.message}'.rstrip()
        self.get_logger().info(f'episode with seed {sequence.seed} ended: {self.newest_end}')
        _report(goal, result)

    def _tell_where(self, result: RunEpisode.Result, stored: Future[str]) -> None:
        """Enter the id of the stored episode into a result, or why there is none."""
        error = stored.exception()
        if error is None:
            result.episode_id = stored.result()
            return
        why = str(error)
        if isinstance(error, UnconfirmedEpisode):
            result.episode_id = error.episode_id
        else:
            why = f'episode not stored: {why}'
        if str(error) not in result.message:
            result.message = f'{result.message} ({why})'.lstrip()
        self.get_logger().error(why)

    def health(self) -> list[Health]:
        """Return the running episode and the recorder."""
        sequence = self.sequence
        idle = f'idle; the newest ended: {self.newest_end}' if self.newest_end else 'idle'
        text = idle if sequence is None else f'{sequence.phase.value}, seed {sequence.seed}'
        lines = [Health('episode', OK, text, {'episodes': self.episodes, 'successes': self.successes})]
        if self.recorder is not None:
            recorder, level, text = self.recorder, OK, str(self.params.record_dir)
            if recorder.problem:
                level, text = ERROR, recorder.problem
            elif recorder.refused:
                level, text = WARN, f'{recorder.refused} steps left out; newest: {recorder.newest_refusal}'
            lines.append(Health('recorder', level, text, {'refused_steps': recorder.refused}))
        return lines


def _report(goal: Any, result: RunEpisode.Result) -> None:
    conclude(goal, result, succeeded=result.reason in (SUCCESS, TIMEOUT, FAILURE), canceled=result.reason == CANCELED)


def main() -> int:
    """Run the node."""
    return run_node(EpisodeManager)


if __name__ == '__main__':
    sys.exit(main())
