"""Choice of the onnxruntime execution provider, with a refusal instead of a silent fall back to the CPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # it would write into the home directory as soon as imported

import onnxruntime  # noqa: E402

from fpo_ros.files import explain  # noqa: E402

_LOG = logging.getLogger(__name__)
#: From fastest to slowest. TF32 is off: its 10-bit mantissa would not reproduce the test vectors.
PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    'tensorrt': ('TensorrtExecutionProvider', {}),
    'cuda': ('CUDAExecutionProvider', {'use_tf32': '0'}),
    'cpu': ('CPUExecutionProvider', {}),
}


class PolicyError(ValueError):
    """A policy can't be run or gave unusable output; the message says which, where and what to do."""


@dataclass(frozen=True)
class ProviderOptions:
    """How providers run graphs.

    :param tensorrt: options of onnxruntime's TensorRT provider, such as ``trt_fp16_enable`` → ``1``
        (onnxruntime.ai, docs/execution-providers/TensorRT-ExecutionProvider); see :func:`tensorrt_options`.
    :param engine_cache: directory in which TensorRT keeps the engines it built, which takes minutes; made if missing.
        None: they are built at every load.
    :param cpu_fallback: whether graphs that fail while they run go on on the CPU, which is reported. Otherwise the
        error stands.
    """

    tensorrt: Mapping[str, str] = field(default_factory=dict)
    engine_cache: Path | None = None
    cpu_fallback: bool = False

    def check(self, provider: str) -> None:
        """Refuse options that do not fit a provider.

        :raises PolicyError: naming them.
        """
        unknown = sorted(name for name in self.tensorrt if not name.startswith('trt_'))
        if unknown:
            raise PolicyError(f"'{unknown[0]}' is no option of TensorRT: they begin with trt_")
        twice = sorted(set(self.tensorrt) & set(self._cache())) if self.engine_cache else []
        if twice:
            raise PolicyError(f"engine_cache and '{twice[0]}' are both given: leave one out")
        if provider not in ('tensorrt', 'auto') and (self.tensorrt or self.engine_cache):
            raise PolicyError(f"provider '{provider}' ignores the options of TensorRT that are given: use provider "
                              "'tensorrt' or 'auto', or leave them out")
        if provider == 'cpu' and self.cpu_fallback:
            raise PolicyError("cpu_fallback has no meaning for provider 'cpu': leave it out")

    def _cache(self) -> dict[str, str]:
        place = str(self.engine_cache)
        return {'trt_engine_cache_enable': '1', 'trt_engine_cache_path': place, 'trt_timing_cache_enable': '1',
                'trt_timing_cache_path': place}

    def of(self, provider: str) -> dict[str, Any]:
        """Return the options that onnxruntime gets for a provider.

        :raises PolicyError: when the directory of engines cannot be made.
        """
        if provider != 'tensorrt':
            return PROVIDERS[provider][1]
        if self.engine_cache is None:
            return dict(self.tensorrt)
        try:
            # Engines are loaded without a check: nobody else may write them.
            self.engine_cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise PolicyError(f'engine_cache {explain(error, self.engine_cache)}') from error
        return {**self._cache(), **self.tensorrt}


DEFAULT_OPTIONS = ProviderOptions()
#: Lengths of graphs that take one observation at a time.
SINGLE: Mapping[str, int] = MappingProxyType({'batch': 1})


def tensorrt_options(text: str) -> dict[str, str]:
    """Read options written as ``trt_fp16_enable=1,trt_builder_optimization_level=3``; empty: none.

    :raises PolicyError: for what is not written so.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(','))):
        name, given, value = (word.strip() for word in part.partition('='))
        if not given or not value or name in found:
            raise PolicyError(f"'{part}' of the TensorRT options: write each once, as trt_fp16_enable=1")
        found[name] = value
    return found


def open_graph(file: Path, path: Path, provider: str, threads: int, options: ProviderOptions = DEFAULT_OPTIONS, *,
               mapped: bool = False, lengths: Mapping[str, int] = SINGLE) -> tuple[onnxruntime.InferenceSession, str]:
    """Open an ONNX graph.

    :param file: the ONNX file, beside the files it refers to for large weights; needed until this returns.
    :param path: where it comes from, for messages.
    :param provider: 'cpu', 'cuda', 'tensorrt' or 'auto'.
    :param threads: threads inside one operator on the CPU.
    :param options: of the provider.
    :param mapped: whether its large weights are mapped from files: the CPU then makes no second, packed copy of them.
    :param lengths: name → length, of those that the graph leaves free and that are the same in all runs: shapes are
        known then, and nothing computes them in a run.
    :returns: the graph, and the provider that runs it.
    :raises PolicyError: for an unknown or absent provider, options that do not fit it, or a broken file.
    """
    if threads < 1:
        raise PolicyError(f'threads must be at least 1, got {threads}')
    if provider != 'auto' and provider not in PROVIDERS:
        raise PolicyError(f"unknown provider '{provider}': use auto, {', '.join(PROVIDERS)}")
    present = onnxruntime.get_available_providers()
    if provider == 'auto':
        for name in [name for name, (full, _) in PROVIDERS.items() if full in present and name != 'cpu']:
            try:
                return _open(file, path, name, threads, options, mapped, lengths), name
            except PolicyError as error:
                _LOG.info('provider %s passed over: %s', name, error)
        return _open(file, path, 'cpu', threads, options, mapped, lengths), 'cpu'
    full = PROVIDERS[provider][0]
    if full not in present:
        raise PolicyError(f"provider '{provider}' is not in this onnxruntime ({', '.join(present)}): install "
                          "the extra 'gpu' in place of onnxruntime, or use provider 'cpu' or 'auto'")
    return _open(file, path, provider, threads, options, mapped, lengths), provider


def _open(file: Path, path: Path, provider: str, threads: int, given: ProviderOptions, mapped: bool,
          lengths: Mapping[str, int]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, length in lengths.items():
        options.add_free_dimension_override_by_name(name, length)
    if mapped:
        options.add_session_config_entry('session.disable_prepacking', '1')
    if provider != 'cpu' and hasattr(onnxruntime, 'preload_dlls'):
        onnxruntime.preload_dlls()  # CUDA's libraries, where they came as Python packages
    wanted = [(PROVIDERS[provider][0], given.of(provider)), PROVIDERS['cpu']][:1 if provider == 'cpu' else 2]
    try:
        graph = onnxruntime.InferenceSession(str(file), options, providers=wanted)
    except Exception as error:  # onnxruntime raises many unrelated types
        raise PolicyError(f'{path}: onnxruntime cannot open the graph: {error}') from error
    if graph.get_providers()[0] != PROVIDERS[provider][0]:
        raise PolicyError(f"provider '{provider}' could not start (onnxruntime took "
                          f"{graph.get_providers()[0]} instead): check the GPU "
                          "driver and its libraries, or use provider 'cpu' or 'auto'")
    return graph
