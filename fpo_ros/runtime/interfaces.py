"""What goes into the graphs of a policy and comes out, and the refusal of graphs that do not fit its contract."""

from __future__ import annotations

from pathlib import Path

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.runtime.graphs import Graphs
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.release_files import CONTINUED_FILE, DENOISE_FILE, GUIDED_FILE, LATENT_FILE, PREFIX_FILE

#: Inputs of a graph, and its output.
Interface = tuple[set[str], str]
#: One step of a flow. Flows and actors over the start noise come as a step or as all steps, told apart by their inputs.
STEP: Interface = ({'x_t', 'time', 'state', 'prefix_kv'}, 'velocity')
_GUIDED: Interface = (STEP[0] | {'decided', 'mask', 'weight'}, 'velocity')
_AT_ONCE: dict[str, Interface] = {
    DENOISE_FILE: ({'noise', 'state', 'prefix_kv'}, 'actions'),
    LATENT_FILE: ({'noise', 'state', 'prefix_kv'}, 'latent'),
    CONTINUED_FILE: ({'noise', 'state', 'prefix_kv', 'rows', 'decided'}, 'actions')}


def check_graphs(graphs: Graphs, path: Path, contract: PolicyContract, text: int) -> dict[str, Interface]:
    """Return the interface of each graph.

    :param path: directory they come from, for messages.
    :param text: tokens of the contract's prompt.
    :raises PolicyError: for one that does not fit the contract, or notes another.
    """
    chunk = (contract.horizon, contract.action_dim)
    shapes = {'tokens': (text,), **dict.fromkeys(('x_t', 'noise', 'rows', 'mask'), chunk),
              'state': (contract.state_dim,),
              'images': (len(contract.cameras), 3, contract.image_height, contract.image_width)}
    interfaces = {name: _interface(graphs, name, contract) for name in graphs}
    for name, (inputs, output) in interfaces.items():
        _check_origin(graphs, name, path, contract)
        found = {value.name: value.shape for value in graphs[name].get_inputs()}
        if set(found) != inputs:
            raise PolicyError(f'{path / name}: inputs are {sorted(found)}, '
                              f'the contract wants {sorted(inputs)}: export the policy again')
        if output not in {value.name for value in graphs[name].get_outputs()}:
            raise PolicyError(f"{path / name}: has no output '{output}': export the policy again")
        shapes['decided'] = chunk if name == GUIDED_FILE else chunk[:1]
        for value in found.keys() & shapes.keys():
            have, want = found[value][1:], shapes[value]
            if value == 'images' and contract.optional_cameras and isinstance(have[0], int):
                raise PolicyError(f'{path / name}: takes pictures of {have[0]} cameras, and the contract has '
                                  'optional ones: export the policy again')
            fits = len(have) == len(want) and all(
                not isinstance(one, int) or one == other for one, other in zip(have, want, strict=True))
            if not fits:
                raise PolicyError(f'{path / name}: {value} has shape {have} per sample, '
                                  f'the contract wants {list(want)}')
    return interfaces


def steps_per_token(graphs: Graphs, path: Path, contract: PolicyContract) -> int:
    """Return how many rows of a chunk share a token, which the graph of a flow that goes on notes.

    :raises PolicyError: where it does not, or they do not divide a chunk.
    """
    noted = graphs.note(CONTINUED_FILE, 'steps_per_token')
    if not noted.isdecimal() or not int(noted) or contract.horizon % int(noted):
        raise PolicyError(f'{path / CONTINUED_FILE}: notes {noted!r} rows per token, which must divide the '
                          f'{contract.horizon} rows of a chunk: export the policy again')
    return int(noted)


def _interface(graphs: Graphs, name: str, contract: PolicyContract) -> Interface:
    if name == PREFIX_FILE:
        return {'tokens', 'images'} if contract.cameras else {'tokens'}, 'prefix_kv'
    if name == GUIDED_FILE:
        return _GUIDED
    if name == CONTINUED_FILE:
        return _AT_ONCE[name]
    return _AT_ONCE[name] if 'noise' in {value.name for value in graphs[name].get_inputs()} else STEP


def _check_origin(graphs: Graphs, name: str, path: Path, contract: PolicyContract) -> None:
    """Refuse a graph that notes another contract; graphs without notes are taken as they are."""
    noted = graphs.note(name, 'contract_sha256')
    if noted and noted != contract.digest():
        raise PolicyError(f'{path / name} was exported for another contract ({noted[:12]}…) than the one '
                          f'beside it ({contract.digest()[:12]}…): export the policy again')
