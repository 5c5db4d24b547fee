"""Graphs that run in TensorRT engines, which take the weights of a new policy without being built again.

An engine belongs to the structure of its graph: names, operators, shapes, and constants that are no weights. Where a
new release has the same, a second engine is opened from the bytes of the first and given the new weights; the serving
one stays as it is. Where the structure differs, or the weights do not fit, an engine is built.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from fpo_ros.files import explain, replace_file
from fpo_ros.runtime.providers import PolicyError, make_cache
from fpo_ros.runtime.trt_engine import TensorRt

_LOG = logging.getLogger(__name__)
#: Notes of a graph that belong to its structure; others say what made it.
_NOTES = ('contract_sha256', 'steps_per_token')


def engine_layer() -> TensorRt:
    """Return what builds and opens engines here.

    :raises PolicyError: where that cannot be.
    """
    return TensorRt()


def structure(model: Any) -> bytes:
    """Return a graph without its weights, as bytes that are the same for the same structure.

    Weights are initialisers of more than one number of floating point; an engine may have others folded in.

    :param model: the onnx.ModelProto, without external data.
    """
    from onnx import ModelProto, TensorProto

    floating = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    bare = ModelProto()
    bare.CopyFrom(model)
    bare.producer_version = ''
    notes = sorted((entry.key, entry.value) for entry in model.metadata_props if entry.key in _NOTES)
    del bare.metadata_props[:]
    for key, value in notes:
        bare.metadata_props.add(key=key, value=value)
    for tensor in bare.graph.initializer:
        if tensor.data_type in floating and np.prod(tensor.dims) > 1:
            for field in ('raw_data', 'float_data', 'int32_data', 'external_data', 'data_location'):
                tensor.ClearField(field)
    return bare.SerializeToString(deterministic=True)


class RefitGraph:
    """A graph in an engine, with the interface of an ``onnxruntime.InferenceSession`` that sessions use.

    :param engine: see :class:`fpo_ros.runtime.trt_engine.TensorRtEngine`.
    :param model: the onnx.ModelProto of the graph, without external data.
    :param lengths: name → length of those that it leaves free.
    :param key: what the engine was built for.
    :param plan: the engine as bytes, where no directory keeps them.
    """

    def __init__(self, engine: Any, device: str, model: Any, lengths: Mapping[str, int], key: str,
                 plan: bytes | None) -> None:
        from onnx.helper import tensor_dtype_to_np_dtype

        self._engine, self._device, self.key, self.plan = engine, device, key, plan
        self._inputs, self._outputs = ([_described(value) for value in values]
                                       for values in (model.graph.input, model.graph.output))
        self._types = {value.name: tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                       for value in (*model.graph.input, *model.graph.output)}
        self._notes = {entry.key: entry.value for entry in model.metadata_props}
        self._shapes = {value.name: tuple(lengths.get(one, one) for one in value.shape) for value in self._inputs}
        self._lock = threading.Lock()  # a graph may serve one policy while it checks another
        found = engine.shapes(self._shapes)
        #: Lengths that the graph leaves free, those of its outputs included.
        self.lengths = dict(lengths) | {name: length for value in self._outputs for name, length in zip(
            value.shape, found[value.name], strict=True) if isinstance(name, str)}

    def get_inputs(self) -> list[SimpleNamespace]:
        """Return name and shape of each input, lengths that are free by name."""
        return self._inputs

    def get_outputs(self) -> list[SimpleNamespace]:
        """Return the same of each output."""
        return self._outputs

    def get_modelmeta(self) -> SimpleNamespace:
        """Return the notes of the graph, as ``custom_metadata_map``."""
        return SimpleNamespace(custom_metadata_map=self._notes)

    def io_binding(self) -> Binding:
        """Return what values are bound to before a run."""
        return Binding(self._types, self._device)

    def run_with_iobinding(self, binding: Binding) -> None:
        """Run the engine.

        :raises RuntimeError: when it fails, or values do not fit.
        """
        with self._lock:
            found = self._engine.shapes({name: tuple(value.shape()) for name, value in binding.inputs.items()})
            binding.outputs = {name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                found[name], self._types[name], self._device) for name in found}
            self._engine.run({**binding.inputs, **binding.outputs})


class Binding:
    """Values of one run, on the device of the engine, with the interface of an ``onnxruntime.IOBinding``."""

    def __init__(self, types: Mapping[str, np.dtype], device: str) -> None:
        self._types, self._device, self._wanted = types, device, ''
        self.inputs: dict[str, onnxruntime.OrtValue] = {}
        self.outputs: dict[str, onnxruntime.OrtValue] = {}

    def bind_cpu_input(self, name: str, value: np.ndarray) -> None:
        """Copy an input to the device."""
        self.inputs[name] = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.ascontiguousarray(value, self._types[name]), self._device)

    def bind_ortvalue_input(self, name: str, value: onnxruntime.OrtValue) -> None:
        """Use a value that lies there already."""
        self.inputs[name] = value

    def bind_output(self, name: str, device: str) -> None:
        """Choose an output. It stays on the device whatever ``device`` says: who wants numbers copies them."""
        self._wanted = name

    def get_outputs(self) -> list[onnxruntime.OrtValue]:
        """Return the output."""
        return [self.outputs[self._wanted]]


def open_refit_graph(layer: Any, file: Path, path: Path, lengths: Mapping[str, int], cache: Path | None = None,
                     serving: Any = None) -> RefitGraph:
    """Open an ONNX graph in an engine: one with its weights put in where there is one of its structure, or a new one.

    :param layer: of :func:`engine_layer`.
    :param file: the ONNX file, beside the files it refers to; needed until this returns.
    :param path: where it comes from, for messages.
    :param lengths: name → length, of all that it leaves free.
    :param cache: directory that keeps engines.
    :param serving: the graph of that name that serves, or None; it is not changed.
    :raises PolicyError: naming what cannot be.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise PolicyError(f"provider 'tensorrt_refit' needs the Python package onnx: {error}") from error
    try:
        model = onnx.load(file, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise PolicyError(f'{path}: no ONNX graph can be read: {error}') from error
    free = {one for value in model.graph.input for one in _described(value).shape if isinstance(one, str)}
    if unknown := sorted(free - set(lengths)):
        raise PolicyError(f"{path}: provider 'tensorrt_refit' takes graphs of fixed lengths, and '{unknown[0]}' is "
                          "free, as with optional cameras: use provider 'tensorrt' or 'cuda'")
    fixed = {name: lengths[name] for name in sorted(free)}
    key = hashlib.sha256(structure(model) + repr((layer.identity, fixed)).encode()).hexdigest()
    place = make_cache(cache, key) / 'engine' if cache else None
    try:
        engine, plan = _refitted(layer, file, path, key, place, serving)
        if engine is None:
            shapes = {value.name: tuple(fixed.get(one, one) for one in _described(value).shape)
                      for value in model.graph.input}
            plan = layer.build(file, shapes)
            engine = layer.open(plan)
            if place:
                replace_file(place, plan)
        return RefitGraph(engine, layer.device, model, fixed, key, None if place else plan)
    except OSError as error:
        raise PolicyError(f'engine_cache {explain(error, place)}') from error
    except (PolicyError, RuntimeError) as error:
        raise PolicyError(f'{path}: {error}') from error


def _refitted(layer: Any, file: Path, path: Path, key: str, place: Path | None,
              serving: Any) -> tuple[Any, bytes | None]:
    """Return a second engine of the same structure with the weights of a file, and its bytes; or two times None."""
    plan = None
    if place is not None and place.is_file():
        plan = place.read_bytes()
    elif isinstance(serving, RefitGraph) and serving.key == key:
        plan = serving.plan
    if plan is None:
        return None, None
    try:
        engine = layer.open(plan)
        engine.refit(file)
    except PolicyError as error:
        _LOG.warning('%s: %s: an engine is built anew, which takes minutes', path, error)
        return None, None
    return engine, plan


def _described(value: Any) -> SimpleNamespace:
    """Return name and shape of an input or output of an ONNX graph."""
    shape = [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]
    return SimpleNamespace(name=value.name, shape=shape)
