"""How work is dealt to the processes of a group, and which of them go together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from free_port import free_port
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.learning import followers
from fpo_ros.learning.followers import Followers
from fpo_ros.learning.parallel import Group, ParallelError
from fpo_ros.learning.scale import wire


@given(size=st.integers(1, 9), parts=st.integers(0, 40))
def test_every_part_is_computed_once_and_every_item_shared_once(size, parts):
    groups = [Group(rank, size) for rank in range(size)]
    assert all(sum(group.computes(index) for group in groups) == 1 for index in range(parts))
    counts = [sum(group.computes(index) for index in range(parts)) for group in groups]
    shares = [group.share(np.arange(parts)) for group in groups]
    assert np.array_equal(np.concatenate(shares), np.arange(parts))
    for sizes in (counts, [len(share) for share in shares]):
        assert max(sizes) - min(sizes) <= 1 and sorted(sizes, reverse=True) == sizes


class FakeGroup(Group):
    """A process whose sums are completed with what the others would have added."""

    def __init__(self, rank: int, size: int, others: torch.Tensor | None = None) -> None:
        super().__init__(rank, size)
        self.others, self.sent = others, None

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        self.sent = values.clone()
        return values if self.others is None else values + self.others


@given(size=st.integers(2, 5), rows=st.integers(1, 20), microbatch=st.integers(1, 6))
def test_what_processes_compute_of_parts_adds_up_to_the_whole(size, rows, microbatch):
    values, seen = torch.arange(2.0 * rows).view(rows, 2) + 1, []
    parts = torch.randperm(rows).split(microbatch)
    found = [FakeGroup(rank, size).computed(parts, lambda part: seen.append(part) or values[part], 2)
             for rank in range(size)]
    assert torch.equal(sum(found), values[torch.cat(parts)])
    assert sorted(torch.cat(seen).tolist()) == list(range(rows))


def test_gradients_are_summed_and_a_parameter_without_any_keeps_none():
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2,), (1, 2), (1,))]
    parameters[0].grad = torch.tensor([1.0, 2.0])
    group = FakeGroup(0, 2, torch.tensor([10.0, 20.0, 30.0, 40.0, 0.0, 1.0, 1.0, 0.0, 0.5]))
    assert group.sum_gradients(parameters, [0.25]) == [0.75]
    assert group.sent.tolist() == [1, 2, 0, 0, 0, 1, 0, 0, 0.25]
    assert [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters] == [
        [11, 22], [[30, 40]], None]


def test_one_process_keeps_what_it_has():
    group, parameter = Group(), torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    kept = parameter.grad
    with group:
        assert group.sum_gradients([parameter], [2.0]) == [2.0] and parameter.grad is kept
        assert group.broadcast(b'x') == b'x' and group.gather(b'x') == [b'x']
        group.check_alike([parameter], 'here')
        assert not torch.distributed.is_initialized()


COMPLETE = {'RANK': '1', 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '1', 'MASTER_ADDR': 'a', 'MASTER_PORT': '1'}


def test_the_launcher_s_environment_makes_a_group():
    group = Group.from_environment(COMPLETE)
    assert (group.rank, group.size, group.local_size) == (1, 2, 1)
    assert Group.from_environment({'MASTER_ADDR': 'a'}).size == 1


@pytest.mark.parametrize(('changes', 'words'), [
    ({'MASTER_PORT': None}, 'not MASTER_PORT: start them with torchrun'),
    ({'RANK': None, 'MASTER_ADDR': None}, 'not RANK, MASTER_ADDR: start'),
    ({'RANK': 'x'}, 'whole numbers'), ({'RANK': '2'}, 'RANK=2, WORLD_SIZE=2'),
    ({'LOCAL_WORLD_SIZE': '3'}, 'LOCAL_WORLD_SIZE=3 do not fit')])
def test_an_environment_that_makes_no_sense_is_refused(changes, words):
    known = {name: value for name, value in (COMPLETE | changes).items() if value is not None}
    with pytest.raises(ParallelError, match=words):
        Group.from_environment(known)


def test_a_process_that_finds_no_other_says_where_it_looked(monkeypatch):
    for name, value in (COMPLETE | {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port())}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('TORCHELASTIC_USE_AGENT_STORE', 'False')
    with pytest.raises(ParallelError, match='process 1 of 2 on .* did not meet the others at 127.0.0.1:'):
        with Group.from_environment(timeout_s=1.0):
            pass


def test_only_the_first_process_leads():
    with pytest.raises(ValueError, match='process 1 of 2 cannot lead'):
        Followers(Group(1, 2))


class Described(Group):
    """A process that hears what the others are, and that is sent files."""

    def __init__(self, *heard: object) -> None:
        super().__init__(1, 2)
        self.heard = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in heard]

    def gather(self, data: bytes) -> list[bytes]:
        return self.heard

    def broadcast(self, data: bytes = b'', source: int = 0) -> bytes:
        return self.heard.pop(0)


@pytest.mark.parametrize(('differs', 'words'), [
    ({'versions': {**wire.versions(), 'mujoco': '1.0'}}, 'process 1 on b has mujoco 1.0, process 0 on a has .*same'),
    ({'versions': {}}, 'process 1 on b has fpo_ros none, process 0'),
    ({'processor': 'other'}, 'process 1 on b computes on other, process 0 on a on .*--cluster')])
def test_processes_that_would_drift_apart_do_not_begin(differs, words):
    mine = {**wire.description(), 'host': 'a'}
    followers._check_machines(Described(mine, {**mine, 'host': 'b'}))
    with pytest.raises(ParallelError, match=words):
        followers._check_machines(Described(mine, {**mine, 'host': 'b', **differs}))


def test_files_that_are_sent_stay_in_their_directory(tmp_path):
    place = tmp_path / 'run'
    followers._receive(Described(['config.json', 'start/policy.json'], b'1', b'2'), place)
    assert (place / 'config.json').read_bytes() == b'1' and (place / 'start/policy.json').read_bytes() == b'2'
    for name in ('../out', str(Path(tmp_path, 'out'))):
        with pytest.raises(ParallelError, match='leads out of its directory'):
            followers._receive(Described([name], b'3'), place)
    assert not (tmp_path / 'out').exists()
