"""Loading and sampling a whole pi0 on a CPU, beside plain reading of its file and its bare matrix products."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fpo_ros.bench.random_checkpoint import sizes_of, write_random
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS
from fpo_ros.policy.flow import sample
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pretrained import read_pretrained

#: Peak memory that a whole pi0 may take: to load it and draw a chunk, and to export it [bytes].
PEAK_LIMITS = {'peak_bytes': 8e9, 'export_peak_bytes': 16e9}
_CHILD = 'import json, sys; from fpo_ros.bench import {module} as m; print(json.dumps(m.{work}(*sys.argv[1:])))'
_LIMIT_S = 3600


def measure(directory: Path, name: str, threads: int) -> dict[str, Any]:
    """Write a checkpoint with random weights, then read it and draw a chunk in a process of its own.

    :param directory: where the checkpoint is written; it stays there.
    :param name: of the preset.
    """
    started = time.perf_counter()
    size = write_random(directory / 'model.safetensors', *sizes_of(name))
    written = time.perf_counter() - started
    return {'preset': name, 'threads': threads, 'file_bytes': size, 'write_s': written,
            **in_child('pi0', 'sample_once', directory, name, threads)}


def broken_promises(found: dict[str, Any]) -> list[str]:
    """Return what took more memory than :data:`PEAK_LIMITS`, in words."""
    return [f'{name} is {found[name] / 1e9:.2f} GB, promised {limit / 1e9:g}'
            for name, limit in PEAK_LIMITS.items() if found.get(name, 0) > limit]


def in_child(module: str, work: str, *arguments: object) -> dict[str, Any]:
    """Return what a function of :mod:`fpo_ros.bench` gives in a fresh process, whose peak memory is its own.

    :raises RuntimeError: with the last line that the process wrote, when it fails.
    """
    code = _CHILD.format(module=module, work=work)
    done = subprocess.run([sys.executable, '-c', code, *map(str, arguments)], capture_output=True, text=True,
                          check=False, timeout=_LIMIT_S)
    if done.returncode:
        raise RuntimeError(f'{module}.{work} failed: {(done.stderr.strip().splitlines() or ["(no message)"])[-1]}')
    return json.loads(done.stdout.splitlines()[-1])


def load(directory: Path, name: str) -> FlowPolicy:
    """Return the policy of a checkpoint that :func:`measure` wrote, its weights mapped from the file."""
    config, contract = sizes_of(name)
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), START_JOINTS,
                      np.full(ACTION_DIM, 0.1))
    return FlowPolicy(read_pretrained(directory, config, contract), stats)


@torch.no_grad()
def sample_once(directory: str, name: str, threads: str) -> dict[str, Any]:
    """Read a checkpoint and draw a chunk; return durations [s], memory [bytes] and their baselines."""
    torch.set_num_threads(int(threads))
    plain_s, _ = _timed(_read_through, Path(directory) / 'model.safetensors')
    load_s, policy = _timed(load, Path(directory), name)
    model, contract = policy.model, policy.contract
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, len(contract.cameras), contract.image_height, contract.image_width, 3), np.uint8)
    state = policy.states(START_JOINTS[None], None)
    noise = torch.randn(1, contract.horizon, contract.action_dim, generator=torch.Generator().manual_seed(0))
    prefix_s, prefix = _timed(policy.prefix, images)
    state_s, cache = _timed(model.with_state, state, prefix)
    flow_s, chunk = _timed(sample, lambda x, t: model.denoise(x, t, cache), noise, contract.flow_steps)
    if not torch.isfinite(chunk).all():
        raise RuntimeError('the chunk is not finite: the figures would mean nothing')
    peak = peak_bytes()
    products_prefix_s = _products(policy.prefix, images)
    products_step_s = _products(model.denoise, noise, torch.ones(1), cache)
    step_s, file_bytes = flow_s / contract.flow_steps, (Path(directory) / 'model.safetensors').stat().st_size
    return {'parameters': sum(parameter.numel() for parameter in model.parameters()),
            'load_s': load_s, 'plain_read_s': plain_s, 'load_over_plain_read': load_s / plain_s,
            'peak_bytes': peak, 'peak_over_file': peak / file_bytes, 'prefix_tokens': prefix.shape[4],
            'prefix_s': prefix_s, 'state_s': state_s, 'step_s': step_s, 'chunk_s': prefix_s + state_s + flow_s,
            'products_prefix_s': products_prefix_s, 'products_step_s': products_step_s,
            'prefix_over_products': prefix_s / products_prefix_s, 'step_over_products': step_s / products_step_s}


def peak_bytes() -> int:
    """Return the peak resident memory of this process, pages of mapped files included [bytes]."""
    status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(status['VmHWM'].split()[0]) * 1024


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - started, result


def _read_through(path: Path) -> None:
    """Read a file once, without keeping it."""
    block = memoryview(bytearray(1 << 24))
    with open(path, 'rb', buffering=0) as file:
        while file.readinto(block):
            pass


class _Projections(TorchFunctionMode):
    """Notes the inputs and weights of all projections of what runs within."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Note calls of ``linear`` and pass all on."""
        if func is F.linear:
            self.seen.append((args[0], args[1]))
        return func(*args, **(kwargs or {}))


def _products(work: Callable[..., Any], *arguments: Any) -> float:
    """Return the time of the bare matrix products of what a function does [s]."""
    with _Projections() as noted:
        work(*arguments)
    started = time.perf_counter()
    for x, weight in noted.seen:
        F.linear(x, weight)
    return time.perf_counter() - started
