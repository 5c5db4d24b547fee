"""Time of one chunk of an exported policy, beside the same policy in torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import START_JOINTS, Observation, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.runtime.export import export
from fpo_ros.runtime.session import PolicySession
from fpo_ros.sim.task import sample_object_pose


def untrained(contract: PolicyContract) -> FlowPolicy:
    """Return a policy with weights at random: they change no duration."""
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), START_JOINTS, np.full(14, 0.1))
    return FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats)


def measure(calls: int, policy: FlowPolicy | None = None) -> dict[str, float]:
    """Return the median time of one chunk in ONNX Runtime and in torch [ms], one thread each, in turns.

    :param calls: chunks of each.
    :param policy: a policy that looks at no camera; an untrained ``pi0_tiny`` of TransferCube if None.
    :raises RuntimeError: when both do not compute the same.
    """
    policy = policy or untrained(PolicyContract())
    contract, before = policy.contract, torch.get_num_threads()
    pose, rng = sample_object_pose(contract.task, 0), np.random.default_rng(0)
    observation = Observation(START_JOINTS, object_pose=pose)
    states, prefix = policy.states(START_JOINTS[None], pose[None]), policy.prefix(None)
    durations: dict[str, list[float]] = {'onnx': [], 'torch': []}
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory:
            export(policy, Path(directory))
            session = PolicySession.load(directory)
            for _ in range(calls + 1):
                noise = rng.standard_normal((contract.horizon, 14), np.float32)
                start = torch.as_tensor(noise)[None]
                ours = _timed(durations['onnx'], session.infer, observation, noise)
                theirs = _timed(durations['torch'], policy.act, states, prefix, start)
                if not np.allclose(ours, policy.to_raw(theirs)[0], atol=1e-4):
                    raise RuntimeError('ONNX Runtime and torch did not compute the same: the comparison means nothing')
    finally:
        torch.set_num_threads(before)
    onnx, plain = (float(np.median(some[1:])) * 1e3 for some in durations.values())  # the first call warms up
    return {'onnx_ms_per_chunk': onnx, 'torch_ms_per_chunk': plain, 'speed_up_over_torch': plain / onnx}


def _timed(durations: list[float], work: Callable[..., Any], *arguments: Any) -> Any:
    started = time.perf_counter()
    result = work(*arguments)
    durations.append(time.perf_counter() - started)
    return result
