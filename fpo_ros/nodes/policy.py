"""The policy: answers observations with action chunks from the release it serves."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
from std_srvs.srv import Trigger

from fpo_ros.hardware.names import camera_list
from fpo_ros.msg import ActionChunk, ControllerStatus, Observation, PolicyRelease, PolicyStatus
from fpo_ros.nodes import convert, qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.logic.chunk_gate import ChunkGate, Question
from fpo_ros.nodes.logic.health import ERROR, OK, WARN, Health
from fpo_ros.nodes.logic.pictures import check_pictures
from fpo_ros.nodes.logic.rivals import Followed
from fpo_ros.nodes.logic.waiting import Waiting, age_problem
from fpo_ros.nodes.policy_parameters import CHUNKING, PolicyParameters, contract_of
from fpo_ros.nodes.raw_chunks import write_chunk
from fpo_ros.nodes.running import run_node
from fpo_ros.releases import load_trusted_keys
from fpo_ros.runtime.admission import PromotedOnly
from fpo_ros.runtime.providers import PolicyError, ProviderOptions, tensorrt_options
from fpo_ros.runtime.swap import PolicySlot, SlotState
from fpo_ros.runtime.timeline import Joining

#: Time given to a running inference to end [s].
JOIN_LIMIT_S = 5.0


class Policy(CellNode):
    """Serves one release; inference runs on its own thread, checks of newer releases on another."""

    NAME = 'policy'
    PARAMETERS = PolicyParameters

    def setup(self) -> None:
        """Verify and load the first release, and connect."""
        p = self.params
        cell = contract_of(p)
        if not p.trusted_keys:
            raise ValueError('parameter trusted_keys is empty: name the file or directory of the public keys '
                             'releases of this cell are signed with')
        store = p.releases or (Path(p.release).resolve().parent if p.release else None)
        options = ProviderOptions(tensorrt_options(p.tensorrt_options),
                                  Path(p.engine_cache).expanduser() if p.engine_cache else None, p.cpu_fallback)
        self.slot = PolicySlot(cell, load_trusted_keys(p.trusted_keys), p.provider, p.threads,
                               PromotedOnly(store, p.trusted_keys) if p.require_promotion else None, options)
        self.on_teardown(self.slot.close)
        self.rng = np.random.default_rng(p.noise_seed) if p.noise == 'sample' else None
        self.gate = ChunkGate(cell)
        self.others = camera_list(p.other_cameras)
        self.seen = cell.cameras
        self.waiting = Waiting(p.max_observation_age)
        self.worker: threading.Thread | None = None
        self.sequence = 0
        self.chunks = self.refused = 0
        self.unread_count = 0
        self.counted = (self.steady_ns(), 0)
        self.inference_s: deque[float] = deque(maxlen=200)
        self.problem = self.apart = self.unread = ''
        self.reported: tuple = ()
        self.output = self.add_publisher(ActionChunk, 'action_chunk', qos.COMMAND)
        self.status_output = self.add_publisher(PolicyStatus, 'policy_status', qos.LATCHED)
        if p.release:
            self._load_first(p.release)
        self.add_subscription(Observation, 'observation', self._on_observation, qos.OBSERVATION)
        self.followed = Followed()
        self.add_subscription(ControllerStatus, 'controller_status', self._on_status, qos.SENSOR)
        self.add_subscription(PolicyRelease, 'policy_release', self._on_release, qos.LATCHED)
        self.add_service(Trigger, 'rollback_policy', self._on_rollback)
        self.add_timer(0.1, self._report_changes)
        self.add_timer(1.0, self._publish_status)

    def start(self) -> None:
        """Start answering."""
        self.gate = ChunkGate(self.slot.cell)
        self.waiting.clear()
        self.work: queue.Queue[tuple[Observation, Question] | None] = queue.Queue()
        self.worker = threading.Thread(target=self._answer, name='inference', daemon=True)
        self.worker.start()

    def stop(self) -> None:
        """Stop answering; a running inference ends first."""
        if self.worker is not None:
            self.work.put(None)
            self.worker.join(JOIN_LIMIT_S)
            if self.worker.is_alive():
                self.get_logger().error(f'an inference did not end within {JOIN_LIMIT_S:g} s')
            self.worker = None

    def _load_first(self, release: str) -> None:
        self.slot.offer(release, configured=True)
        if not self.slot.wait(self.params.verify_limit):
            raise ValueError(f'release {release} was not verified within {self.params.verify_limit:g} s')
        if not self.slot.at_chunk_edge():
            raise ValueError(f'cannot serve {release}: {self.slot.last_refusal}')
        self.get_logger().info(f'serving {self.slot.version}')

    def _on_status(self, message: ControllerStatus) -> None:
        if not self.followed.sent(message.ticks, self.steady_ns()):
            return
        self.gate.on_status(convert.nanoseconds(message.header.stamp),
                            message.state == ControllerStatus.STATE_POLICY, message.remaining,
                            message.chunk_sequence, message.chunk_delay)
        self._decide()

    def _on_observation(self, message: Observation) -> None:
        self.unread = age_problem(message)
        if self.unread:
            self.unread_count += 1
            self.error_once(f'no chunk: {self.unread}')
            return
        self.seen = tuple(message.camera_names)
        self.waiting.add(message, convert.oldest_part_ns(message), self._overdue)
        self._decide()

    def _overdue(self, message: Observation) -> bool:
        """Return whether an ensemble, which asks whenever the policy is free, had to do without an observation."""
        ensemble = self.active and CHUNKING[self.params.chunking] is Joining.ENSEMBLE
        return ensemble and self._question(message) is not None

    def _question(self, message: Observation) -> Question | None:
        joining, _ = self._joining(message.camera_names)
        return self.gate.question(convert.nanoseconds(message.header.stamp), convert.oldest_part_ns(message), joining)

    def _decide(self) -> None:
        """Answer an observation if it is time to."""
        if not self.active or self.work.unfinished_tasks:
            return
        asked = self.waiting.take(self._question, self.now_ns())
        if self.waiting.stale:
            self.problem = self.waiting.stale
            self.error_once(f'no chunk: {self.problem}')
        if asked:
            self.work.put(asked)

    def _joining(self, cameras: Sequence[str]) -> tuple[Joining, str]:
        """Return how chunks of the policy that serves are joined, and why not in real time where that was wanted.

        :param cameras: of the observation.
        """
        chosen, session = CHUNKING[self.params.chunking], self.slot.session
        if chosen in (Joining.AFTER, Joining.ENSEMBLE):
            return chosen, ''
        if session is None or (chosen is None and not session.goes_on):
            return Joining.AFTER, ''
        why = session.objection(cameras, self.gate.delay.periods)
        return (Joining.AFTER, why) if why else (Joining.REALTIME, '')

    def _on_release(self, message: PolicyRelease) -> None:
        try:
            parts = urlparse(message.uri)
        except ValueError:
            parts = urlparse('unreadable:')
        if parts.scheme not in ('', 'file'):
            self.get_logger().error(
                f"release {message.version}: address '{message.uri}' is not a local path: "
                'copy the release store to this machine and announce the release by its path'
            )
            return
        self.get_logger().info(f'release {message.version} announced: verifying')
        self.slot.offer(unquote(parts.path) if parts.scheme else message.uri, message.manifest_sha256, message.version)

    def _on_rollback(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Serve the policy of before again, at once; the one left is not taken again."""
        try:
            response.message = f'serving {self.slot.rollback()}'
            response.success = True
        except PolicyError as error:
            response.message = str(error)
        return response

    def _answer(self) -> None:
        work = self.work
        try:
            while True:
                try:
                    asked = work.get(timeout=0.1)
                except queue.Empty:
                    self.slot.at_chunk_edge()  # nothing to answer: a newer release may take over at once
                    continue
                if asked is None:
                    return
                self._answer_one(*asked)
                work.task_done()
        except Exception as error:
            self.fail(f'inference failed: {error!r}')

    def _answer_one(self, message: Observation, question: Question) -> None:
        started, chunk, joining = time.perf_counter(), None, question.joining
        try:
            value = convert.observation_value(message)
            check_pictures(message, self.slot.cell, self.others)
            chunk = self.slot.infer(value, rng=self.rng, leftover=question.leftover)
        except ValueError as error:  # ContractError, PolicyError and ImageError are such
            self.refused += not isinstance(error, PolicyError)
            self.problem = str(error)
            self.error_once(f'no chunk: {error}')
        else:
            self.problem, self.apart = '', self.slot.apart
            if self.apart:
                joining = Joining.AFTER
                self.warn_once(f'a chunk does not go on from the one before: {self.apart}')
            self._send(chunk, message, time.perf_counter() - started, joining)
        stamp_ns, measured_ns = convert.nanoseconds(message.header.stamp), convert.oldest_part_ns(message)
        self.gate.sent(self.now_ns(), measured_ns, self.sequence, chunk, joining, stamp_ns - measured_ns)

    def _send(self, chunk: np.ndarray, answered: Observation, elapsed_s: float, joining: Joining) -> None:
        session = self.slot.answered
        self.sequence += 1
        self.output.publish(write_chunk(
            chunk, sequence=self.sequence, observation_ns=convert.nanoseconds(answered.header.stamp),
            measured_ns=convert.oldest_part_ns(answered), now_ns=self.now_ns(), version=session.version,
            period_s=1 / session.contract.control_rate_hz, inference_s=elapsed_s, joining=joining))
        self.chunks += 1
        self.inference_s.append(elapsed_s)

    def _report_changes(self) -> None:
        now = (self.slot.state, self.slot.version, self.slot.refusals, self._fallen_back())
        if now != self.reported:
            if self.reported and now[2] != self.reported[2]:
                self.get_logger().error(f'release refused: {self.slot.last_refusal}')
            if self.reported and now[1] != self.reported[1]:
                self.get_logger().info(f'now serving {now[1]}')
            if now[3]:
                self.get_logger().error(now[3])
            self.reported = now
            self._publish_status()

    def _fallen_back(self) -> str:
        """Why the serving policy does not run on what was asked for; empty if it does."""
        session = self.slot.session
        return session.problem if session else ''

    def _publish_status(self) -> None:
        slot, session = self.slot, self.slot.session
        message = PolicyStatus(state=int(slot.state), version=slot.version, swaps=slot.swaps,
                               refusals=slot.refusals, last_refusal=slot.last_refusal, chunks=self.chunks,
                               provider=session.provider if session else '', observations_dropped=self.waiting.dropped)
        message.header.stamp = self.get_clock().now().to_msg()
        message.manifest_sha256 = session.manifest_sha256 if session else ''
        if self.inference_s:
            times = np.array(self.inference_s)
            message.inference_time_p50, message.inference_time_p99 = map(
                float, np.percentile(times, (50, 99))
            )
        self.status_output.publish(message)

    def _rate_hz(self) -> float:
        """Return chunks per second since the last report."""
        before, self.counted = self.counted, (self.steady_ns(), self.chunks)
        return round((self.counted[1] - before[1]) / max(1e-9, (self.counted[0] - before[0]) * 1e-9), 2)

    def health(self) -> list[Health]:
        """Return what is served and how fast."""
        times = np.array(self.inference_s or [0.0]) * 1e3
        joining, why = self._joining(self.seen)
        why = why or self.apart
        values = {
            'version': self.slot.version,
            'provider': self.slot.session.provider if self.slot.session else '',
            'chunking': joining.name.lower(),
            'chunks': self.chunks,
            'chunk_rate_hz': self._rate_hz(),
            'planned_delay_periods': self.gate.delay.periods,
            'observations_dropped': self.waiting.dropped,
            'observations_refused': self.refused + self.unread_count,
            'swaps': self.slot.swaps,
            'refusals': self.slot.refusals,
            'inference_p50_ms': round(float(np.percentile(times, 50)), 2),
            'inference_p99_ms': round(float(np.percentile(times, 99)), 2),
        }
        if self.unread or self.problem:
            return [Health('policy', ERROR, self.unread or self.problem, values)]
        if self.slot.state is SlotState.IDLE:
            return [Health('policy', WARN, 'no policy: announce a release', values)]
        if self._fallen_back():
            return [Health('policy', WARN, self._fallen_back(), values)]
        if why:
            return [Health('policy', WARN, f'chunks are not joined in real time: {why}', values)]
        return [Health('policy', OK, f'serving {self.slot.version}', values)]


def main() -> int:
    """Run the node."""
    return run_node(Policy)


if __name__ == '__main__':
    sys.exit(main())
