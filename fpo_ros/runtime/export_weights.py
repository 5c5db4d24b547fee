"""Weights of exported graphs: within the graph, or one tensor at a time in a file beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from fpo_ros.policy.saving import saving
from fpo_ros.runtime.export_hollow import weight_of
from fpo_ros.runtime.providers import PolicyError

#: Graphs with more weights than this keep them in a file of their own [bytes].
EXTERNAL_OVER = 1 << 28
#: Weights begin at whole pages, from which a runtime can map them (onnx.proto, TensorProto.external_data).
PAGE = 4096
#: Weights smaller than this stay in the graph in any case [bytes].
_SMALL = 1024
_TYPES = {torch.float32: onnx.TensorProto.FLOAT, torch.float16: onnx.TensorProto.FLOAT16}


@dataclass(frozen=True)
class Weight:
    """A weight of a graph.

    :param name: of the parameter it comes from.
    :param shape: as the graph has it.
    :param transposed: whether that is the parameter transposed.
    :param half: whether the graph has it in half precision.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False
    half: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Type in the graph."""
        return torch.float16 if self.half else torch.float32

    @property
    def size(self) -> int:
        """Size [bytes]."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def numbers(self, module: nn.Module) -> Tensor:
        """Return its numbers, contiguous.

        :raises PolicyError: for finite numbers that half precision cannot hold.
        """
        value = weight_of(module, self.name)
        value = (value.t() if self.transposed else value).to(self.dtype).contiguous()
        if self.half and not torch.isfinite(value).all():
            raise PolicyError(f'{self.name} holds numbers beyond the range of float16 (65504): '
                              'export with precision float32')
        return value


@dataclass
class WeightsFile:
    """A file of weights that graphs of one directory share: each weight is written once.

    :param path: of the file; what was there is replaced with the first weight.
    """

    path: Path
    _places: dict[Weight, int] = field(default_factory=dict)

    def place(self, weight: Weight, module: nn.Module) -> int:
        """Return where a weight begins in the file, after writing it if it is not there yet [bytes].

        :raises fpo_ros.policy.saving.SaveError: when the disk refuses.
        """
        if weight not in self._places:
            numbers = weight.numbers(module)
            with saving(self.path), open(self.path, 'ab' if self._places else 'wb') as file:
                file.write(bytes(-file.tell() % PAGE))
                self._places[weight] = file.tell()
                file.write(numbers.reshape(-1).view(torch.uint8).numpy())
        return self._places[weight]


def attach(proto: onnx.ModelProto, weights: dict[str, Weight], module: nn.Module, file: WeightsFile | None) -> None:
    """Give a graph its weights as initialisers.

    :param weights: name in the graph → weight.
    :param module: the network the numbers are of.
    :param file: where large ones go; None: all into the graph.
    """
    for name, weight in weights.items():
        tensor = proto.graph.initializer.add(name=name, data_type=_TYPES[weight.dtype], dims=weight.shape)
        if file is None or weight.size < _SMALL:
            tensor.raw_data = weight.numbers(module).numpy().tobytes()
            continue
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (('location', file.path.name), ('offset', file.place(weight, module)),
                           ('length', weight.size)):
            tensor.external_data.add(key=key, value=str(value))
