"""From a traced network to an ONNX graph: weights named, transposed and in the wanted precision, its origin noted."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import fpo_ros
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.policy.pretrained import PRECISE
from fpo_ros.runtime.export_weights import Weight

#: ONNX operator set of the graphs.
OPSET = 20
#: What weights of projections are stored and multiplied in. Everything else is in single precision.
PRECISIONS = ('float32', 'float16')
#: Operators that multiply by a weight.
_PRODUCTS = ('MatMul', 'Gemm')


def traced(module: nn.Module, arguments: tuple[Tensor, ...], names: list[str], output: str,
           dynamic: dict[str, dict[int, str]]) -> onnx.ModelProto:
    """Return the graph of a hollow network, whose parameters are inputs of their names.

    Tracing is exact here, since no branch depends on data, and takes a second where torch.export's
    decompositions take half a minute.

    :param dynamic: input → axis → name of its length, for lengths that may differ.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        # Not in evaluation mode, in which the exporter makes one of parameters with equal numbers.
        torch.onnx.export(module.train(), arguments, buffer, dynamo=False, opset_version=OPSET, input_names=names,
                          output_names=[output], dynamic_axes=dynamic, export_params=False, do_constant_folding=False,
                          training=torch.onnx.TrainingMode.PRESERVE)
    proto = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(proto)
    return proto


def weights_of(proto: onnx.ModelProto, inputs: Iterable[str], precision: str,
               names: Mapping[str, str] | None = None) -> dict[str, Weight]:
    """Take the parameters out of a graph's inputs; return what must be attached in their place.

    Projections are stored as they are multiplied, transposed, so that a runtime need not turn them. In half precision
    their inputs and products are cast around them; accumulation in norms, softmax, residuals and the flow stays single.

    :param inputs: names of the inputs that stay.
    :param precision: one of :data:`PRECISIONS`.
    :param names: of parameters, by those in the graph where they differ.
    """
    graph, kept = proto.graph, set(inputs)
    shapes = {value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
              for value in graph.input if value.name not in kept}
    stay = [value for value in graph.input if value.name in kept]
    del graph.input[:]
    graph.input.extend(stay)
    users = _users(graph)
    turned = {name for name in shapes if any(_transposes(node) or _turns(node, name) for node in users[name])}
    _turn(graph, turned)
    users = _users(graph)
    found = {name: Weight((names or {}).get(name, name), shape[::-1] if name in turned else shape,
                          transposed=name in turned)
             for name, shape in shapes.items() if users[name]}
    if precision == 'float16':
        halves = {name for name, weight in found.items()
                  if len(weight.shape) == 2 and not any(part in weight.name for part in PRECISE)
                  and all(node.op_type in ('Gather', *_PRODUCTS, 'Transpose') for node in users[name])}
        found |= {name: replace(found[name], half=True) for name in halves}
        _halve(graph, halves)
    return found


def _users(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    return users


def _transposes(node: onnx.NodeProto) -> bool:
    return node.op_type == 'Transpose' and list(node.attribute[0].ints) == [1, 0]


def _attribute(node: onnx.NodeProto, name: str, default: float) -> onnx.AttributeProto:
    """Return an attribute of a node, which gets the default if it has none."""
    found = [attribute for attribute in node.attribute if attribute.name == name]
    if not found:
        node.attribute.append(helper.make_attribute(name, default))
        found = [node.attribute[-1]]
    return found[0]


def _turns(node: onnx.NodeProto, name: str) -> bool:
    """Return whether a node multiplies by the transpose of a weight."""
    return node.op_type == 'Gemm' and node.input[1] == name and _attribute(node, 'transB', 0).i == 1


def _turn(graph: onnx.GraphProto, turned: set[str]) -> None:
    """Let weights be transposed already: who used the transpose uses them, who used them a transpose of that."""
    renamed = {node.output[0]: node.input[0] for node in graph.node if _transposes(node) and node.input[0] in turned}
    nodes, back = [], {}
    for node in graph.node:
        if node.output[0] in renamed:
            continue
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
            elif name in turned and node.op_type == 'Gemm' and index == 1:
                flag = _attribute(node, 'transB', 0)
                flag.i = 1 - flag.i
            elif name in turned:
                if name not in back:
                    back[name] = helper.make_node('Transpose', [name], [f'{name}.untransposed'], perm=[1, 0])
                    nodes.append(back[name])
                node.input[index] = back[name].output[0]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _halve(graph: onnx.GraphProto, halves: set[str]) -> None:
    """Multiply by and look up in weights in half precision; all other values stay single."""
    nodes, known, cast = [], set(halves), set()
    for node in graph.node:
        if node.op_type == 'Transpose' and node.input[0] in known:
            known.add(node.output[0])
        if node.op_type not in ('Gather', *_PRODUCTS) or not any(name in known for name in node.input):
            nodes.append(node)
            continue
        result, after = node.output[0], []
        node.output[0] = product = f'{result}.half'
        if node.op_type == 'Gemm' and len(node.input) == 3:  # what is added stays single
            added = node.input.pop()
            if _attribute(node, 'beta', 1.0).f:
                after = [helper.make_node('Add', [f'{result}.product', added], [result])]
        after.insert(0, helper.make_node('Cast', [product], [f'{result}.product' if after else result],
                                         to=TensorProto.FLOAT))
        for index, name in enumerate(node.input):
            if node.op_type in _PRODUCTS and name not in known:
                if name not in cast:
                    cast.add(name)
                    nodes.append(helper.make_node('Cast', [name], [f'{name}.half'], to=TensorProto.FLOAT16))
                node.input[index] = f'{name}.half'
        nodes += [node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # types that were inferred before


def note_origin(proto: onnx.ModelProto, contract: PolicyContract, precision: str, steps_per_token: int) -> None:
    """Note in a graph which contract it belongs to, its precision, how many rows share a token, and what made it."""
    notes = {'contract_sha256': contract.digest(), 'precision': precision, 'steps_per_token': str(steps_per_token),
             'fpo_ros': fpo_ros.__version__,
             'torch': torch.__version__, 'onnx': onnx.__version__}
    proto.producer_name, proto.producer_version = 'fpo_ros', fpo_ros.__version__
    helper.set_model_props(proto, notes)
