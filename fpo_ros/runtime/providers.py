"""Choice of the onnxruntime execution provider, with a refusal instead of a silent fall back to the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # it would write into the home directory as soon as imported

import onnxruntime  # noqa: E402

from fpo_ros.files import explain  # noqa: E402

#: From fastest to slowest. TF32 is off: its 10-bit mantissa would not reproduce the test vectors.
PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    'tensorrt': ('TensorrtExecutionProvider', {}),
    'cuda': ('CUDAExecutionProvider', {'use_tf32': '0'}),
    'cpu': ('CPUExecutionProvider', {}),
}
#: TensorRT without onnxruntime in between; see :mod:`fpo_ros.runtime.refit`. 'auto' does not try it.
REFIT = 'tensorrt_refit'


class PolicyError(ValueError):
    """A policy can't be run or gave unusable output; the message says which, where and what to do."""


@dataclass(frozen=True)
class ProviderOptions:
    """How providers run graphs.

    :param tensorrt: options of onnxruntime's TensorRT provider, such as ``trt_fp16_enable`` → ``1``
        (onnxruntime.ai, docs/execution-providers/TensorRT-ExecutionProvider); see :func:`tensorrt_options`.
    :param engine_cache: directory in which TensorRT keeps the engines it built, which takes minutes; made if missing.
        None: they are built at every load. Engines hold weights, so each graph with its weights has a directory of its
        own there; timings of kernels are shared.
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
        twice = sorted(set(self.tensorrt) & set(self._cache(''))) if self.engine_cache else []
        if twice:
            raise PolicyError(f"engine_cache and '{twice[0]}' are both given: leave one out")
        ignored = self.tensorrt or (self.engine_cache and provider != REFIT)
        if provider not in ('tensorrt', 'auto') and ignored:
            raise PolicyError(f"provider '{provider}' ignores the options of TensorRT that are given: use provider "
                              "'tensorrt' or 'auto', or leave them out")
        if provider == 'cpu' and self.cpu_fallback:
            raise PolicyError("cpu_fallback has no meaning for provider 'cpu': leave it out")

    def _cache(self, digest: str) -> dict[str, str]:
        place = Path(self.engine_cache)
        return {'trt_engine_cache_enable': '1', 'trt_engine_cache_path': str(place / digest),
                'trt_timing_cache_enable': '1', 'trt_timing_cache_path': str(place)}

    def of(self, provider: str, digest: str) -> dict[str, Any]:
        """Return the options that onnxruntime gets for a provider.

        :param digest: of the graph and its weights [lowercase hex]: onnxruntime names an engine by the names in its
            graph, and would take that of other weights for it.
        :raises PolicyError: when the directory of engines cannot be made.
        """
        if provider != 'tensorrt':
            return PROVIDERS[provider][1]
        if self.engine_cache is None:
            return dict(self.tensorrt)
        make_cache(self.engine_cache, digest)
        return {**self._cache(digest), **self.tensorrt}


def make_cache(place: Path, name: str) -> Path:
    """Return a directory below a cache of engines, both made if missing.

    :raises PolicyError: when they cannot be made.
    """
    try:
        # Engines are loaded without a check: nobody else may write them.
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        (place / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise PolicyError(f'engine_cache {explain(error, place)}') from error
    return place / name


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


def providers_for(provider: str) -> list[str]:
    """Return the providers to try, from the fastest to the slowest: those that are there for 'auto', else the one.

    Whether TensorRT with refit is there shows when it is started.

    :raises PolicyError: for an unknown or absent one.
    """
    if provider == REFIT:
        return [REFIT]
    if provider != 'auto' and provider not in PROVIDERS:
        raise PolicyError(f"unknown provider '{provider}': use auto, {', '.join((*PROVIDERS, REFIT))}")
    present = onnxruntime.get_available_providers()
    if provider == 'auto':
        return [name for name, (full, _) in PROVIDERS.items() if full in present]
    if PROVIDERS[provider][0] not in present:
        raise PolicyError(f"provider '{provider}' is not in this onnxruntime ({', '.join(present)}): install "
                          "the extra 'gpu' in place of onnxruntime, or use provider 'cpu' or 'auto'")
    return [provider]


def slower(provider: str, other: str) -> bool:
    """Return whether a provider that is there is slower than another; both of TensorRT are as fast."""
    order = (*PROVIDERS,)
    one, two = (order.index('tensorrt' if name == REFIT else name) for name in (provider, other))
    return one > two


def open_graph(file: Path, path: Path, provider: str, threads: int = 1, given: ProviderOptions = DEFAULT_OPTIONS, *,
               mapped: bool = False, lengths: Mapping[str, int] = SINGLE,
               digest: str = '') -> onnxruntime.InferenceSession:
    """Open an ONNX graph.

    :param file: the ONNX file, beside the files it refers to for large weights; needed until this returns.
    :param path: where it comes from, for messages.
    :param provider: 'cpu', 'cuda' or 'tensorrt', one of :func:`providers_for`.
    :param threads: threads inside one operator on the CPU.
    :param given: options of the provider.
    :param mapped: whether its large weights are mapped from files: the CPU then makes no second, packed copy of them.
    :param lengths: name → length, of those that the graph leaves free and that are the same in all runs: shapes are
        known then, and nothing computes them in a run.
    :param digest: of the graph and its weights, which a directory of engines needs.
    :raises PolicyError: for a provider that cannot start, or a broken file.
    """
    if threads < 1:
        raise PolicyError(f'threads must be at least 1, got {threads}')
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
    wanted = [(PROVIDERS[provider][0], given.of(provider, digest)), PROVIDERS['cpu']][:1 if provider == 'cpu' else 2]
    try:
        graph = onnxruntime.InferenceSession(str(file), options, providers=wanted)
    except Exception as error:  # onnxruntime raises many unrelated types
        raise PolicyError(f'{path}: onnxruntime cannot open the graph: {error}') from error
    if graph.get_providers()[0] != PROVIDERS[provider][0]:
        raise PolicyError(f"provider '{provider}' could not start (onnxruntime took "
                          f"{graph.get_providers()[0]} instead): check the GPU "
                          "driver and its libraries, or use provider 'cpu' or 'auto'")
    return graph
