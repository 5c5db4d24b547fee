"""The learner: runs the trainer beside the graph, reports its progress, announces releases."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from fpo_ros.msg import LearnerStatus, PolicyRelease
from fpo_ros.nodes import qos
from fpo_ros.nodes.base import CellNode
from fpo_ros.nodes.logic.health import ERROR, OK, Health
from fpo_ros.nodes.logic.trainer_process import TrainerProcess
from fpo_ros.nodes.parameters import param
from fpo_ros.nodes.running import run_node
from fpo_ros.releases import Release, ReleaseStore, load_trusted_keys
from fpo_ros.srv import AnnounceRelease, StartTraining


@dataclass(frozen=True)
class LearnerParameters:
    """Parameters of ``learner``."""

    releases: str = param('', 'release store; empty: nothing can be announced')
    trusted_keys: str = param('', 'file or directory of the public keys releases must be signed with')
    announce_promoted: bool = param(False, 'announce each release as soon as its store promotes it')
    run_dir: str = param('', 'run directory of the trainer; empty: a request must name one')
    start_policy: str = param(
        '', 'directory of the torch policy a new run starts from; a resumed run needs none'
    )
    record_dir: str = param(
        '', 'episode store whose episodes the trainer takes as demonstrations; empty: none'
    )
    iterations: int = param(100, 'FPO iterations of a request that names none [count]', low=1, high=1_000_000)
    train_arguments: str = param('', 'further arguments of "fpo-ros train fpo", as on a command line')
    nice: int = param(10, 'niceness of the trainer, so that the arms come first [0..19]', low=0, high=19)
    threads: int = param(1, 'threads of the trainer [count]', low=1, high=256)


class Learner(CellNode):
    """Starts one trainer at a time as a worker process and latches the newest announcement."""

    NAME = 'learner'
    PARAMETERS = LearnerParameters

    def setup(self) -> None:
        """Open the release store and connect."""
        p = self.params
        if p.releases and not p.trusted_keys:
            raise ValueError('parameter trusted_keys is empty: name the keys the releases are signed with')
        try:
            self.train_arguments = shlex.split(p.train_arguments)
        except ValueError as error:
            raise ValueError(f'parameter train_arguments is no command line: {error}') from error
        self.store = ReleaseStore(p.releases) if p.releases else None
        self.trusted = load_trusted_keys(p.trusted_keys) if p.trusted_keys else {}
        self.trainer: TrainerProcess | None = None
        self.iterations = 0
        self.status = LearnerStatus(state=LearnerStatus.STATE_IDLE)
        self.seen_promoted = ''
        self.status_output = self.add_publisher(LearnerStatus, 'learner_status', qos.LATCHED)
        self.release_output = self.add_publisher(PolicyRelease, 'policy_release', qos.LATCHED)
        self.add_service(AnnounceRelease, 'announce_release', self._on_announce)
        self.add_service(StartTraining, 'start_training', self._on_start)
        self.add_timer(0.5, self._follow)

    def stop(self) -> None:
        """Let the trainer save its state, then end it."""
        if self.trainer is not None:
            self.trainer.stop()
            self.trainer = None
            self.status.state, self.status.message = LearnerStatus.STATE_IDLE, 'stopped; resume to continue'
            self._publish()

    # ---- releases

    def _on_announce(self, request: AnnounceRelease.Request,
                     response: AnnounceRelease.Response) -> AnnounceRelease.Response:
        try:
            release = self._announce(request.version)
        except (ValueError, OSError) as error:
            response.message = str(error)
            self.get_logger().error(f'nothing announced: {error}')
            return response
        response.success, response.version = True, release.version
        return response

    def _announce(self, version: str) -> Release:
        if not self.active:
            raise ValueError('the learner is not active')
        if self.store is None:
            raise ValueError('parameter releases is empty: name the release store')
        version = version or self.store.promoted() or ''
        if not version:
            raise ValueError(f'{self.store.path} has no promoted release: promote one first')
        release = self.store.load(version, self.trusted)
        message = PolicyRelease(version=release.version, manifest_sha256=release.manifest_sha256,
                                uri=Path(release.path).resolve().as_uri(),
                                parent_version=release.parent or '')
        message.header.stamp = self.get_clock().now().to_msg()
        self.release_output.publish(message)
        self.status.announced_version = release.version
        self._publish()
        self.get_logger().info(f'announced {release.version}')
        return release

    # ---- training

    def _on_start(self, request: StartTraining.Request,
                  response: StartTraining.Response) -> StartTraining.Response:
        run = request.run or self.params.run_dir
        if not self.active:
            response.message = 'the learner is not active'
        elif self.trainer is not None:
            response.message = f'the trainer is running in {self.trainer.run}: wait until it has finished'
        elif not run:
            response.message = 'no run directory: name one in the request or in parameter run_dir'
        elif not request.resume and not self.params.start_policy:
            response.message = ('no policy to start from: name its directory in parameter start_policy, or resume '
                                'a run, which keeps its own')
        else:
            try:
                self._start_trainer(Path(run), request.iterations or self.params.iterations, request.resume)
            except OSError as error:
                response.message = f'the trainer cannot start: {error}'
            else:
                response.success, response.message = True, f'trainer started, process {self.trainer.pid}'
        return response

    def _start_trainer(self, run: Path, iterations: int, resume: bool) -> None:
        arguments = ['--iterations', str(iterations), *self.train_arguments]
        if self.params.start_policy and not resume:
            arguments += ['--policy', self.params.start_policy]
        if self.params.record_dir:
            arguments += ['--demonstrations', self.params.record_dir]
        self.trainer = TrainerProcess(run, arguments, resume, self.params.nice, self.params.threads)
        self.status.state, self.status.run = LearnerStatus.STATE_TRAINING, str(run)
        self.status.iterations, self.status.message = iterations, 'started'
        self._publish()

    def _follow(self) -> None:
        if not self.active:
            return
        if self.trainer is not None:
            self._read_progress(self.trainer)
            self._notice_end(self.trainer)
        if self.params.announce_promoted and self.store is not None:
            self._announce_promoted()
        self._publish()

    def _read_progress(self, trainer: TrainerProcess) -> None:
        try:
            entry = trainer.progress()
            if entry is not None:
                self.status.iteration, self.status.control_steps = (
                    int(entry['iteration']),
                    int(entry['control_steps']),
                )
                self.status.success_rate = float(entry['success_rate'])
                self.status.message = f'iteration {self.status.iteration} of {self.status.iterations}'
        except (OSError, KeyError, TypeError, ValueError) as error:
            self.get_logger().error(
                f'progress of the trainer is unreadable: {error}', throttle_duration_sec=10.0
            )

    def _notice_end(self, trainer: TrainerProcess) -> None:
        code = trainer.exit_code()
        if code is None:
            return
        if code == 0:
            self.status.state, self.status.message = (
                LearnerStatus.STATE_FINISHED,
                trainer.last_output() or 'finished',
            )
        else:
            self.status.state = LearnerStatus.STATE_FAILED
            self.status.message = f'the trainer ended with code {code}: {trainer.last_output()}'
            self.get_logger().error(self.status.message)
        trainer.stop()
        self.trainer = None

    def _announce_promoted(self) -> None:
        try:
            promoted = self.store.promoted() or ''
            if promoted and promoted != self.seen_promoted:
                self._announce(promoted)
                self.seen_promoted = promoted
        except (ValueError, OSError) as error:  # tried again with the next look
            self.get_logger().error(f'promoted release not announced: {error}', throttle_duration_sec=10.0)

    def _publish(self) -> None:
        self.status.header.stamp = self.get_clock().now().to_msg()
        self.status_output.publish(self.status)

    def health(self) -> list[Health]:
        """Return what the trainer does."""
        failed = self.status.state == LearnerStatus.STATE_FAILED
        return [Health('trainer', ERROR if failed else OK, self.status.message or 'idle',
                       {'iteration': self.status.iteration, 'control_steps': self.status.control_steps,
                        'success_rate': self.status.success_rate})]


def main() -> int:
    """Run the node."""
    return run_node(Learner)


if __name__ == '__main__':
    sys.exit(main())
