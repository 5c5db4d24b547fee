"""Export of the guided denoising step, whose gradient through the network is part of the graph.

ONNX knows no gradients: the step is traced down to the operators that its backward pass consists of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from fpo_ros.policy.expert import Expert
from fpo_ros.policy.guided import guided_velocity

#: Inputs of the graph, in order.
INPUTS = ['x_t', 'time', 'state', 'prefix_kv', 'decided', 'mask', 'weight']
_ATEN = torch.ops.aten
_DECOMPOSED = [_ATEN._softmax, _ATEN._softmax_backward_data, _ATEN.native_layer_norm, _ATEN.native_layer_norm_backward,
               _ATEN.gelu_backward, _ATEN.silu_backward, _ATEN.tanh_backward, _ATEN.addmm, _ATEN.rsub]


def guided_graph(expert: Expert, arguments: tuple[Tensor, ...]) -> GraphModule:
    """Return the step as a graph of plain operators, whose parameters are the expert's own.

    :param expert: without gradients of its parameters, such as a hollow one.
    :param arguments: examples of :data:`INPUTS`, of one sample: its shapes are those of the graph.
    """
    def step(x_t: Tensor, time: Tensor, state: Tensor, prefix_kv: Tensor, decided: Tensor, mask: Tensor,
             weight: Tensor) -> Tensor:
        cache = expert.with_state(state, prefix_kv)
        return guided_velocity(lambda x, t: expert.denoise(x, t, cache), x_t, time, decided, mask, weight)

    table = {**core_aten_decompositions(), **get_decompositions(_DECOMPOSED)}
    # Fused attention has a backward pass that is no plain operator.
    with sdpa_kernel(SDPBackend.MATH):
        graph = make_fx(step, decomposition_table=table)(*arguments)
    for node in graph.graph.nodes:
        node.target = _PLAIN.get(node.target, node.target)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _to_copy(x: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return x.clone() if dtype is None else x.to(dtype)


def _empty(size: list[int], *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
    """Return what is written to before it is read."""
    return torch.zeros(size, dtype=dtype)


#: Operators that the exporter does not know → the like.
_PLAIN: dict[Any, Callable] = {_ATEN._to_copy.default: _to_copy, _ATEN.empty_permuted.default: _empty}
