"""Export of a whole pi0, and the exported graphs on a CPU."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from fpo_ros.bench.pi0 import in_child, load, peak_bytes
from fpo_ros.policy.contract import START_JOINTS, ContractError, Observation

#: Chunks that are timed, after one that is not.
_CALLS = 3


def measure(directory: Path, name: str, precision: str, threads: int) -> dict[str, Any]:
    """Export the checkpoint in a directory, and run what was exported; each in a process of its own.

    :param directory: in which ``fpo_ros.bench.pi0.measure`` wrote; the graphs are written into ``onnx`` below it.
    :raises ContractError: when the disk has no room for the graphs.
    """
    size, free = (directory / 'model.safetensors').stat().st_size, shutil.disk_usage(directory).free
    needed = size * (1 if precision == 'float16' else 2)
    if free < needed:
        raise ContractError(f'{directory} has {free / 1e9:.1f} GB of free space, the graphs take up to '
                            f'{needed / 1e9:.1f}: name another directory')
    (directory / 'onnx').mkdir(exist_ok=True)
    return {'precision': precision, **in_child('pi0_export', 'export_once', directory, name, precision, threads),
            **in_child('pi0_export', 'run_once', directory, threads)}


def export_once(directory: str, name: str, precision: str, threads: str) -> dict[str, Any]:
    """Write the graphs of a checkpoint with one test vector; return duration [s], sizes and peak memory [bytes]."""
    import torch

    from fpo_ros.runtime.export import write

    torch.set_num_threads(int(threads))
    started = time.perf_counter()
    out = Path(directory) / 'onnx'
    write(load(Path(directory), name), out, vectors=1, precision=precision)
    return {'export_s': time.perf_counter() - started, 'export_peak_bytes': peak_bytes(),
            'export_bytes': {file.name: file.stat().st_size for file in sorted(out.iterdir())}}


def run_once(directory: str, threads: str) -> dict[str, Any]:
    """Open exported graphs, run their test vector and time chunks; return durations [s] and peak memory [bytes]."""
    from fpo_ros.runtime.session import PolicySession

    started = time.perf_counter()
    session = PolicySession.load(Path(directory) / 'onnx', threads=int(threads))
    opened = time.perf_counter() - started
    difference, contract = session.verify_vectors(), session.contract
    picture = np.zeros((contract.image_height, contract.image_width, 3), np.uint8)
    observation = Observation(START_JOINTS, dict.fromkeys(contract.cameras, picture))
    durations = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        session.infer(observation)
        durations.append(time.perf_counter() - started)
    return {'open_s': opened, 'vector_difference': difference, 'onnx_chunk_s': statistics.median(durations),
            'onnx_peak_bytes': peak_bytes()}
