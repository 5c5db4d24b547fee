"""TensorRT engines by the Python package ``tensorrt``, which only here is imported, and only when it is asked for.

Facts of its interface are those of NVIDIA's documentation of TensorRT 10 and 11: Python API (Builder, OnnxParser,
Refitter, IExecutionContext) and "Refitting an Engine". Networks are strongly typed, the only kind TensorRT 11 knows, so
precision is that of the graph. Values lie in buffers of onnxruntime on the GPU, and everything runs on its default
stream, in which copies and runs keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from fpo_ros.runtime.providers import PolicyError

#: Input → its shape.
Shapes = Mapping[str, tuple[int, ...]]


class TensorRt:
    """Builds and opens engines.

    :raises PolicyError: where the package, CUDA in onnxruntime or a GPU is absent, naming what is.
    """

    #: Where values lie.
    device = 'cuda'

    def __init__(self) -> None:
        try:
            import tensorrt
        except ImportError as error:
            raise _absent(f'the Python package tensorrt cannot be imported ({error})') from error
        if 'CUDAExecutionProvider' not in onnxruntime.get_available_providers():
            raise _absent('this onnxruntime has no CUDA, in whose buffers its values lie')
        try:
            onnxruntime.preload_dlls()  # CUDA's libraries, where they came as Python packages
            onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), self.device)
            self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
            self._runtime = tensorrt.Runtime(self._logger)
        except Exception as error:  # both raise many unrelated types
            raise _absent(f'no GPU can be used ({error})') from error
        self._trt = tensorrt
        #: What engines belong to besides their graph; what another GPU made is refused when it is opened.
        self.identity = f'tensorrt {tensorrt.__version__}'

    def build(self, file: Path, shapes: Shapes) -> bytes:
        """Return an engine of an ONNX graph as bytes; takes minutes.

        :param shapes: of all inputs.
        :raises PolicyError: when TensorRT cannot make one.
        """
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(file)):
            raise PolicyError(f'TensorRT cannot read the graph: {_errors(parser)}')
        config = builder.create_builder_config()
        config.set_flag(trt.BuilderFlag.REFIT)
        config.clear_flag(trt.BuilderFlag.TF32)  # its 10-bit mantissa would not reproduce the test vectors
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape, shape, shape)
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise PolicyError('TensorRT cannot build an engine of the graph; its log says why')
        return bytes(plan)

    def open(self, plan: bytes) -> TensorRtEngine:
        """Return an engine of its own, with the weights it was built with.

        :raises PolicyError: for bytes of another version or GPU, or damaged ones.
        """
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PolicyError('TensorRT cannot open the engine: it was built by another version or for another GPU, or '
                              'is damaged')
        return TensorRtEngine(self._trt, self._logger, engine)


class TensorRtEngine:
    """An engine in the memory of the GPU. Not for two threads at a time."""

    def __init__(self, trt: Any, logger: Any, engine: Any) -> None:
        self._trt, self._logger, self._engine, self._context = trt, logger, engine, None

    def refit(self, file: Path) -> None:
        """Put the weights of an ONNX graph of the same structure in, before the first run.

        :raises PolicyError: when one is missing or does not fit; the engine is void then.
        """
        refitter = self._trt.Refitter(self._engine, self._logger)
        parser = self._trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(file)):
            raise PolicyError(f'TensorRT cannot take the weights: {_errors(parser)}')
        missing = refitter.get_missing_weights()
        if missing or not refitter.refit_cuda_engine():
            raise PolicyError(f'TensorRT cannot take the weights; missing are {sorted(missing)[:3] or "none"}')

    def shapes(self, inputs: Shapes) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the outputs, for inputs of these shapes.

        :raises RuntimeError: when they do not fit.
        """
        engine, trt = self._engine, self._trt
        if self._context is None:
            self._context = engine.create_execution_context()
        context = self._context
        for name, shape in inputs.items():
            if not context.set_input_shape(name, shape):
                raise RuntimeError(f'input {name} of shape {shape} does not fit the engine')
        if missing := context.infer_shapes():
            raise RuntimeError(f'shapes cannot be told without {missing}')
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {name: tuple(context.get_tensor_shape(name)) for name in names
                if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT}

    def run(self, values: Mapping[str, onnxruntime.OrtValue]) -> None:
        """Run the engine on inputs and outputs, whose shapes :meth:`shapes` was told and told.

        :raises RuntimeError: when it fails.
        """
        for name, value in values.items():
            self._context.set_tensor_address(name, value.data_ptr())
        if not self._context.execute_async_v3(0):
            raise RuntimeError('TensorRT could not run the engine; its log says why')


def _absent(reason: str) -> PolicyError:
    return PolicyError(f"provider 'tensorrt_refit' cannot start: {reason}. It needs the extra 'gpu' in place of "
                       "onnxruntime, and an NVIDIA GPU; or use provider 'cpu' or 'auto'")


def _errors(parser: Any) -> str:
    return '; '.join(parser.get_error(index).desc() for index in range(parser.num_errors)) or 'its log says why'
