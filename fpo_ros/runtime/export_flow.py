"""The whole flow in one graph: the Euler steps become a loop around the graph of one step.

What a step computes from state and prefix alone is the same in every step, and is taken out of the loop: the pass of
the state token, rotary tables, the cache by layer. What it computes from the flow time alone is known already, and
becomes a table with a row for each step. Only nodes move; weights stay one copy, in or beside the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

#: Inputs of a step that change from step to step.
_X, _TIME = 'x_t', 'time'


def loop_steps(path: Path, steps: int, output: str) -> None:
    """Turn a graph (x_t, time, state, prefix_kv) -> velocity into (noise, state, prefix_kv) -> ``output``.

    :param path: the graph, which is replaced.
    :param steps: Euler steps from noise at time 1 to data at 0.
    :param output: name of what the flow arrives at.
    """
    model = onnx.load(path, load_external_data=False)
    step, velocity = model.graph, model.graph.output[0].name
    needs = _needs(step)
    varying = [node for node in step.node if _X in needs[node.output[0]]
               or (_TIME in needs[node.output[0]] and len(needs[node.output[0]]) > 1)]
    constant = [node for node in step.node if not needs[node.output[0]] & {_X, _TIME}]
    read = {name for node in varying for name in node.input} | {velocity}
    timed = [name for name in sorted(read - {''}) if needs[name] == {_TIME}]
    tables = _tables(model, timed, steps, path.parent)

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
    onnx.save(looped, path)
    onnx.checker.check_model(path)


def _needs(graph: GraphProto) -> dict[str, frozenset[str]]:
    """Return the inputs of the graph that each value depends on."""
    needs = {tensor.name: frozenset() for tensor in graph.initializer} | {'': frozenset()}
    needs |= {value.name: frozenset([value.name]) for value in graph.input if value.name not in needs}
    for node in graph.node:
        of_node = frozenset().union(*(needs[name] for name in node.input))
        needs |= dict.fromkeys(node.output, of_node)
    return needs


def _tables(model: ModelProto, names: list[str], steps: int, directory: Path) -> list[TensorProto]:
    """Return what the named values are at the time of each step, stacked, as ``<name>_by_step``."""
    if not names:
        return []
    graph, nodes, wanted = model.graph, [], set(names)
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.insert(0, node)
            wanted.update(node.input)
    weights = [_with_data(tensor, directory) for tensor in graph.initializer if tensor.name in wanted]
    part = helper.make_graph(nodes, 'times', [helper.make_tensor_value_info(_TIME, TensorProto.FLOAT, [1])],
                             [ValueInfoProto(name=name) for name in names], weights)
    whole = helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=['CPUExecutionProvider'])
    times = 1 - np.arange(steps, dtype=np.float32) / np.float32(steps)
    rows = [session.run(names, {_TIME: time[None]}) for time in times]
    return [numpy_helper.from_array(np.stack(values), f'{name}_by_step')
            for name, values in zip(names, zip(*rows, strict=True), strict=True)]


def _with_data(tensor: TensorProto, directory: Path) -> TensorProto:
    """Return a tensor that holds its numbers itself."""
    if not uses_external_data(tensor):
        return tensor
    held = TensorProto()
    held.CopyFrom(tensor)
    load_external_data_for_tensor(held, str(directory))
    return held


def _like(value: ValueInfoProto, name: str) -> ValueInfoProto:
    """Return the description of a value under another name."""
    return ValueInfoProto(name=name, type=value.type)
