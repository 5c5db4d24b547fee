"""The whole flow in one graph: the Euler steps become a loop around the graph of one step.

What a step computes from state and prefix alone is the same in every step, and is taken out of the loop: the pass of
the state token, rotary tables, the cache by layer. What it computes from the flow time alone is known already, and
becomes a table with a row for each step. Only nodes move; weights stay one copy, in or beside the file.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import nn

from fpo_ros.runtime.export_weights import Weight

#: Inputs of a step that change from step to step.
_X, _TIME = 'x_t', 'time'


def loop_steps(model: ModelProto, weights: dict[str, Weight], module: nn.Module, steps: int,
               output: str) -> tuple[ModelProto, dict[str, Weight]]:
    """Turn a graph (x_t, time, state, prefix_kv) -> velocity into (noise, state, prefix_kv) -> ``output``.

    Steps are summed up in single precision, whatever the projections multiply in.

    :param model: the graph, whose weights are not attached yet.
    :param weights: name in the graph → weight.
    :param module: the network whose weights they are; those that act on the flow time alone are read.
    :param steps: Euler steps from noise at time 1 to data at 0.
    :param output: name of what the flow arrives at.
    :returns: the graph, and which of the weights it uses.
    """
    step, velocity = model.graph, model.graph.output[0].name
    needs = _needs(step, weights)
    varying = [node for node in step.node if _X in needs[node.output[0]]
               or (_TIME in needs[node.output[0]] and len(needs[node.output[0]]) > 1)]
    read = {name for node in varying for name in node.input} | {velocity}
    timed = [name for name in sorted(read - {''}) if needs[name] == {_TIME}]
    constant = _leading_to(read - set(timed), [node for node in step.node if not needs[node.output[0]] & {_X, _TIME}])
    tables = _tables(model, weights, module, timed, steps)

    x = next(value for value in step.input if value.name == _X)
    size = helper.make_tensor('flow_step_size', TensorProto.FLOAT, [], [1 / steps])
    body = helper.make_graph(
        [helper.make_node('Reshape', ['flow_now', 'flow_shape'], [_X]),  # a loop's values have no known shape
         *(helper.make_node('Gather', [f'{name}_by_step', 'flow_step'], [name], axis=0) for name in timed), *varying,
         helper.make_node('Mul', [velocity, size.name], ['flow_moves']),
         helper.make_node('Sub', [_X, 'flow_moves'], ['flow_next']),
         helper.make_node('Identity', ['flow_goes_on'], ['flow_still_goes_on'])],
        'step', [helper.make_tensor_value_info('flow_step', TensorProto.INT64, []),
                 helper.make_tensor_value_info('flow_goes_on', TensorProto.BOOL, []), _like(x, 'flow_now')],
        [helper.make_tensor_value_info('flow_still_goes_on', TensorProto.BOOL, []), _like(x, 'flow_next')])
    count = helper.make_tensor('flow_steps', TensorProto.INT64, [], [steps])
    used = {name for node in (*constant, *varying) for name in node.input} | {velocity}
    flow = helper.make_graph(
        [*constant, helper.make_node('Shape', ['noise'], ['flow_shape']),
         helper.make_node('Loop', [count.name, '', 'noise'], [output], 'flow', body=body)], 'flow',
        [_like(x, 'noise'), *(value for value in step.input if value.name not in (_X, _TIME))], [_like(x, output)],
        [*(tensor for tensor in step.initializer if tensor.name in used), *tables, size, count])
    looped = ModelProto()
    looped.CopyFrom(model)
    looped.graph.CopyFrom(flow)
    return looped, {name: weight for name, weight in weights.items() if name in used}


def _needs(graph: GraphProto, weights: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the inputs of the graph that each value depends on."""
    needs = dict.fromkeys(['', *weights, *(tensor.name for tensor in graph.initializer)], frozenset())
    needs |= {value.name: frozenset([value.name]) for value in graph.input}
    for node in graph.node:
        of_node = frozenset().union(*(needs[name] for name in node.input))
        needs |= dict.fromkeys(node.output, of_node)
    return needs


def _leading_to(names: Iterable[str], nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Return those of sorted nodes that the named values depend on."""
    found, wanted = [], set(names)
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            found.insert(0, node)
            wanted.update(node.input)
    return found


def _tables(model: ModelProto, weights: dict[str, Weight], module: nn.Module, names: list[str],
            steps: int) -> list[TensorProto]:
    """Return what the named values are at the time of each step, stacked, as ``<name>_by_step``."""
    if not names:
        return []
    nodes = _leading_to(names, model.graph.node)
    wanted = {name for node in nodes for name in node.input}
    held = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    held += [numpy_helper.from_array(weight.numbers(module).numpy(), name)
             for name, weight in weights.items() if name in wanted]
    part = helper.make_graph(nodes, 'times', [helper.make_tensor_value_info(_TIME, TensorProto.FLOAT, [1])],
                             [ValueInfoProto(name=name) for name in names], held)
    whole = helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=['CPUExecutionProvider'])
    times = 1 - np.arange(steps, dtype=np.float32) / np.float32(steps)
    rows = [session.run(names, {_TIME: time[None]}) for time in times]
    return [numpy_helper.from_array(np.stack(values), f'{name}_by_step')
            for name, values in zip(names, zip(*rows, strict=True), strict=True)]


def _like(value: ValueInfoProto, name: str) -> ValueInfoProto:
    """Return the description of a value under another name."""
    return ValueInfoProto(name=name, type=value.type)
