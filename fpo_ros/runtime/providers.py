"""Choice of the onnxruntime execution provider, with a refusal instead of a silent fall back to the CPU."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # it would write into the home directory as soon as imported

import onnxruntime  # noqa: E402

_LOG = logging.getLogger(__name__)
#: From fastest to slowest. TF32 is off: its 10-bit mantissa would not reproduce the test vectors.
PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    'tensorrt': ('TensorrtExecutionProvider', {}),
    'cuda': ('CUDAExecutionProvider', {'use_tf32': '0'}),
    'cpu': ('CPUExecutionProvider', {}),
}


class PolicyError(ValueError):
    """A policy can't be run or gave unusable output; the message says which, where and what to do."""


def open_graph(file: Path, path: Path, provider: str, threads: int,
               batch: int = 1) -> tuple[onnxruntime.InferenceSession, str]:
    """Open an ONNX graph.

    :param file: the ONNX file, beside the files it refers to for large weights; needed until this returns.
    :param path: where it comes from, for messages.
    :param provider: 'cpu', 'cuda', 'tensorrt' or 'auto'.
    :param threads: threads inside one operator on the CPU.
    :param batch: observations per run: shapes are known then, and nothing computes them in a run.
    :returns: the graph, and the provider that runs it.
    :raises PolicyError: for an unknown or absent provider or a broken file.
    """
    if threads < 1:
        raise PolicyError(f'threads must be at least 1, got {threads}')
    if provider != 'auto' and provider not in PROVIDERS:
        raise PolicyError(f"unknown provider '{provider}': use auto, {', '.join(PROVIDERS)}")
    present = onnxruntime.get_available_providers()
    if provider == 'auto':
        for name in [name for name, (full, _) in PROVIDERS.items() if full in present and name != 'cpu']:
            try:
                return _open(file, path, name, threads, batch), name
            except PolicyError as error:
                _LOG.info('provider %s passed over: %s', name, error)
        return _open(file, path, 'cpu', threads, batch), 'cpu'
    full = PROVIDERS[provider][0]
    if full not in present:
        raise PolicyError(f"provider '{provider}' is not in this onnxruntime ({', '.join(present)}): install "
                          "the extra 'gpu' in place of onnxruntime, or use provider 'cpu' or 'auto'")
    return _open(file, path, provider, threads, batch), provider


def _open(file: Path, path: Path, provider: str, threads: int, batch: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name('batch', batch)
    if provider != 'cpu' and hasattr(onnxruntime, 'preload_dlls'):
        onnxruntime.preload_dlls()  # CUDA's libraries, where they came as Python packages
    wanted = [PROVIDERS[provider]] if provider == 'cpu' else [PROVIDERS[provider], PROVIDERS['cpu']]
    try:
        graph = onnxruntime.InferenceSession(str(file), options, providers=wanted)
    except Exception as error:  # onnxruntime raises many unrelated types
        raise PolicyError(f'{path}: onnxruntime cannot open the graph: {error}') from error
    if graph.get_providers()[0] != PROVIDERS[provider][0]:
        raise PolicyError(f"provider '{provider}' could not start (onnxruntime took "
                          f"{graph.get_providers()[0]} instead): check the GPU "
                          "driver and its libraries, or use provider 'cpu' or 'auto'")
    return graph
