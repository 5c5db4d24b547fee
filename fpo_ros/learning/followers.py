"""A run of several processes: process 0 leads it and holds its directory, the others follow.

Followers need neither the directory nor the start policy: process 0 sends them the files of both, and then says when an
iteration begins, when the best policy is restored, and when all is done.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from fpo_ros.learning.algorithms import prepared
from fpo_ros.learning.fpo import FPO
from fpo_ros.learning.parallel import Group, ParallelError
from fpo_ros.learning.run_directory import RunDirectory, RunSettings, read_settings
from fpo_ros.learning.scale import Local, open_pool, wire
from fpo_ros.learning.scale.shared import SharedPool
from fpo_ros.learning.training_state import CheckpointDirectory, load_state
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.finite import NotFiniteError

#: What process 0 tells the others to do.
_BEGIN, _ITERATE, _RESTORE, _END = 'begin', 'iterate', 'restore', 'end'


def learner_of(directory: RunDirectory, settings: RunSettings, group: Group) -> tuple[FPO, list[dict]]:
    """Return the learner of a run in the state of its newest checkpoint, and the history.

    :raises ContractError: naming the file that cannot be read.
    :raises RunError: when the recorded pairs cannot be read.
    """
    config = settings.config
    learner = FPO(prepared(directory.start(), config), config, settings.seed, directory.demonstrations(settings), group)
    newest = _newest(directory)
    return learner, load_state(learner, newest) if newest else []


def _newest(directory: RunDirectory) -> Path | None:
    return CheckpointDirectory(directory.path / 'checkpoints').newest()


class Followers:
    """The other processes of a group, in the hands of process 0 for a ``with`` block; none where it is alone.

    :param group: connected.
    :param alone: process 0 collects the episodes alone, on a cluster.
    """

    def __init__(self, group: Group, alone: bool = False) -> None:
        if group.rank:
            raise ValueError(f'{group.name} cannot lead a run: let it follow process 0')
        self._group, self._alone = group, alone
        # Whether the others wait to be told something: only then can they be.
        self._listening = group.size > 1

    def __enter__(self) -> Followers:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if self._listening:
            why = None if error is None else ' '.join(str(error).split()) or kind.__name__
            # Those that are gone cannot be told; what ended this process is what matters then.
            with suppress(ParallelError):
                self._tell(_END, why=why)
                self._group.gather(b'')

    def begin(self, directory: RunDirectory) -> None:
        """Send the run: settings, start policy, recorded pairs, newest checkpoint.

        :raises ParallelError: for processes of other versions or processors.
        """
        if self._group.size > 1:
            with self._busy():
                self._tell(_BEGIN, threads=torch.get_num_threads(), alone=self._alone)
                _check_machines(self._group)
                newest = _newest(directory)
                _send(self._group, directory.path, [*directory.beginning(), *(newest.iterdir() if newest else ())])

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Let all run an iteration, this process within the block."""
        if self._group.size == 1:
            yield
            return
        with self._busy():
            self._tell(_ITERATE)
            try:
                yield
            except NotFiniteError:
                self._listening = True  # it ends the iteration of every process
                raise

    def restore(self, policy: Path, spread: float) -> None:
        """Let the others go on from a policy, as :meth:`FPO.restore` does here.

        :param policy: its directory.
        :param spread: of its chunks.
        """
        if self._group.size > 1:
            with self._busy():
                self._tell(_RESTORE, spread=spread)
                _send(self._group, policy, sorted(policy.iterdir()))

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._listening = False
        yield
        self._listening = True  # not after an error: then nobody knows what the others wait for

    def _tell(self, what: str, **more: Any) -> None:
        self._group.broadcast(json.dumps({'do': what, **more}).encode())


def follow(group: Group, threads: int | None = None) -> None:
    """Train as process 0 says, until the run ends. The number of torch's threads becomes that of process 0.

    :param group: connected; of a process other than 0.
    :param threads: of the physics; by default this process's share of the cores.
    :raises ParallelError: when process 0 gives up, is lost, or does not go with this process.
    :raises NotFiniteError: when training diverges, as in every process.
    """
    with tempfile.TemporaryDirectory(prefix='fpo_ros-') as place:
        begun = _order(group)
        if begun['do'] == _END:
            return
        torch.set_num_threads(begun['threads'])
        _check_machines(group)
        _receive(group, Path(place))
        directory, settings = RunDirectory(Path(place)), read_settings(Path(place))
        learner, _ = learner_of(directory, settings, group)
    where = Local(threads or group.threads(), settings.config.episodes)
    with open_pool(where) as own:
        pool = SharedPool(own, group, begun['alone'])
        while (order := _order(group))['do'] != _END:
            if order['do'] == _ITERATE:
                _iterate(learner, pool, group)
            else:
                with tempfile.TemporaryDirectory(prefix='fpo_ros-') as place:
                    _receive(group, Path(place))
                    learner.restore(FlowPolicy.load(Path(place)), order['spread'])


def _iterate(learner: FPO, pool: SharedPool, group: Group) -> None:
    try:
        learner.run_iteration(pool)
    except NotFiniteError:
        # The launcher ends all processes once one has: not before process 0 has kept what failed.
        with suppress(ParallelError):
            _order(group)
        raise


def _order(group: Group) -> dict[str, Any]:
    """Return what process 0 says next.

    :raises ParallelError: when that is why it gave up.
    """
    order = json.loads(group.broadcast())
    if order['do'] == _END:
        group.gather(b'')  # process 0 waits until all have heard
        if order['why'] is not None:
            raise ParallelError(f'{group.name}: process 0 ended: {order["why"]}')
    return order


def _check_machines(group: Group) -> None:
    """Refuse processes whose numbers would drift apart.

    :raises ParallelError: on every process, naming the first that differs from process 0, and in what.
    """
    found = [json.loads(answer) for answer in group.gather(json.dumps(wire.description()).encode())]
    first = found[0]
    for rank, about in enumerate(found):
        who = f'process {rank} on {about["host"]}'
        for name, version in first['versions'].items():
            if about['versions'].get(name) != version:
                raise ParallelError(f'{who} has {name} {about["versions"].get(name, "none")}, process 0 on '
                                    f'{first["host"]} has {version}: install the same versions on every machine')
        if about['processor'] != first['processor']:
            raise ParallelError(f'{who} computes on {about["processor"]}, process 0 on {first["host"]} on '
                                f'{first["processor"]}: they round differently. Use machines of one kind, or train on '
                                'one and let the others collect episodes (--cluster)')


def _send(group: Group, root: Path, files: list[Path]) -> None:
    group.broadcast(json.dumps([str(path.relative_to(root)) for path in files]).encode())
    for path in files:
        group.broadcast(path.read_bytes())


def _receive(group: Group, root: Path) -> None:
    """Write the files that process 0 sends.

    :raises ParallelError: for a name that leads elsewhere.
    """
    for name in json.loads(group.broadcast()):
        path, content = root / name, group.broadcast()
        if not path.resolve().is_relative_to(root.resolve()):
            raise ParallelError(f'{group.name} was sent a file named {name}, which leads out of its directory: see '
                                'that process 0 is of this run')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
