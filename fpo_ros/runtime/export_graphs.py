"""The graphs of a policy: which there are, their inputs, outputs and lengths that may differ."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from fpo_ros.policy.continued import continued_velocity
from fpo_ros.policy.contract import ContractError
from fpo_ros.policy.expert import Expert
from fpo_ros.policy.latent import GaussianLatent
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.saving import saving
from fpo_ros.policy.tokenizer import tokens_of
from fpo_ros.runtime.export_flow import loop_steps
from fpo_ros.runtime.export_guided import INPUTS, guided_graph
from fpo_ros.runtime.export_hollow import hollow
from fpo_ros.runtime.export_trace import PRECISIONS, note_origin, traced, weights_of
from fpo_ros.runtime.export_weights import EXTERNAL_OVER, Weight, WeightsFile, attach
from fpo_ros.runtime.release_files import CONTINUED_FILE, DENOISE_FILE, GUIDED_FILE, LATENT_FILE, PREFIX_FILE

_STEP_INPUTS = ['x_t', 'time', 'state', 'prefix_kv']


class _Prefix(nn.Module):
    def __init__(self, model: Pi0) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        return self.model.prefix(tokens, images)


class _Denoise(nn.Module):
    def __init__(self, model: Expert) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, time: Tensor, state: Tensor, prefix_kv: Tensor) -> Tensor:
        return self.model.denoise(x_t, time, self.model.with_state(state, prefix_kv))


class _Continued(_Denoise):
    def forward(self, x_t: Tensor, time: Tensor, state: Tensor, prefix_kv: Tensor, rows: Tensor,
                decided: Tensor) -> Tensor:
        return continued_velocity(self.model, x_t, time, self.model.with_state(state, prefix_kv), rows, decided)


class _Latent(nn.Module):
    def __init__(self, actor: GaussianLatent) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, noise: Tensor, state: Tensor, prefix_kv: Tensor) -> Tensor:
        return self.actor.latent(noise, state, prefix_kv)


def write_graphs(model: Pi0, directory: Path, precision: str, external_over: int, *, guided: bool) -> None:
    """Write a policy's graphs, and see that there are no others of an earlier export.

    :param directory: an existing directory.
    :param precision: one of :data:`PRECISIONS`.
    :param external_over: graphs with more weights keep them in a file of their own [bytes].
    :param guided: whether to write what goes on from a leftover: the graph of a guided step, or of a flow that was
        trained to.
    :raises ContractError: for an unknown precision.
    :raises fpo_ros.policy.saving.SaveError: when the disk refuses.
    """
    if precision not in PRECISIONS:
        raise ContractError(f"unknown precision '{precision}': use {' or '.join(PRECISIONS)}")
    heavy = (weights_file(name) for name in (PREFIX_FILE, DENOISE_FILE, LATENT_FILE))
    for name in (LATENT_FILE, GUIDED_FILE, CONTINUED_FILE, *heavy):
        (directory / name).unlink(missing_ok=True)
    writer = _Writer(model, directory, precision, external_over)
    writer.prefix()
    writer.flow(model, 'actions', DENOISE_FILE)
    if guided and model.contract.max_delay:
        writer.continued()
    elif guided:
        writer.guided()
    actor = model.latent_actor
    if isinstance(actor, GaussianLatent):
        writer.gaussian(actor)
    elif actor is not None:
        writer.flow(actor, 'latent', LATENT_FILE)


def write_step(model: Pi0, path: Path) -> None:
    """Write the graph (x_t, time, state, prefix_kv) -> velocity of one step of a policy's flow, with its weights.

    :raises fpo_ros.policy.saving.SaveError: when the disk refuses.
    """
    writer = _Writer(model, path.parent, PRECISIONS[0], EXTERNAL_OVER)
    writer.step(model, path.name)


def weights_file(graph: str) -> str:
    """Return the name of the file with the large weights of a graph."""
    return f'{Path(graph).stem}.weights'


class _Writer:
    """Traces and writes the graphs of one policy.

    The numbers that networks are traced with are zeros: only shapes matter. Batches of two, and a single camera and
    few tokens, stand for any number.
    """

    def __init__(self, model: Pi0, directory: Path, precision: str, external_over: int) -> None:
        self._model, self._contract = model, model.contract
        self._directory, self._precision, self._external_over = directory, precision, external_over
        self._denoise_weights = WeightsFile(directory / weights_file(DENOISE_FILE))

    def prefix(self) -> None:
        contract, arguments = self._contract, [torch.zeros(2, 3, dtype=torch.int64)]
        dynamic = {'tokens': {0: 'batch', 1: 'text'}}
        if contract.cameras:
            arguments.append(torch.zeros(2, 1, 3, contract.image_height, contract.image_width))
            dynamic['images'] = {0: 'batch', 1: 'cameras'}
        self._write(_Prefix(self._model), tuple(arguments), list(dynamic), 'prefix_kv',
                    dynamic | {'prefix_kv': {2: 'batch', 4: 'prefix'}}, PREFIX_FILE,
                    self._weights_of(PREFIX_FILE))

    def flow(self, expert: Expert, output: str, name: str) -> None:
        """Write the graph of all steps of a flow."""
        module = _Denoise(expert)
        proto, weights = self._step(module)
        proto, weights = loop_steps(proto, weights, module, expert.contract.flow_steps, output)
        self._save(proto, weights, module, name, self._weights_of(name))

    def continued(self) -> None:
        """Write the graph of all steps of a flow that goes on from decided rows."""
        module = _Continued(self._model)  # its weights have the names that those of the plain flow have
        proto, weights = self._step(module, rows=self._noise(2), decided=torch.zeros(2, self._contract.horizon))
        proto, weights = loop_steps(proto, weights, module, self._contract.flow_steps, 'actions')
        self._save(proto, weights, module, CONTINUED_FILE, self._denoise_weights)

    def step(self, expert: Expert, name: str) -> None:
        """Write the graph of one step of a flow."""
        module = _Denoise(expert)
        self._save(*self._step(module), module, name, self._weights_of(name))

    def _step(self, module: _Denoise, **more: Tensor) -> tuple[onnx.ModelProto, dict[str, Weight]]:
        arguments = self._noise(2), torch.ones(2), self._state(2), self._cache(2), *more.values()
        names = [*_STEP_INPUTS, *more]
        proto = traced(hollow(module), arguments, names, 'velocity',
                       dict.fromkeys(names, {0: 'batch'}) | {'prefix_kv': {2: 'batch', 4: 'prefix'}})
        return proto, weights_of(proto, names, self._precision)

    def _weights_of(self, name: str) -> WeightsFile:
        return self._denoise_weights if name == DENOISE_FILE else WeightsFile(self._directory / weights_file(name))

    def gaussian(self, actor: GaussianLatent) -> None:
        """Write the graph of an actor that makes start noise at once."""
        self._write(_Latent(actor), (self._noise(2), self._state(2), self._cache(2)), ['noise', 'state', 'prefix_kv'],
                    'latent', {'noise': {0: 'batch'}, 'state': {0: 'batch'}, 'prefix_kv': {2: 'batch', 4: 'prefix'}},
                    LATENT_FILE, self._weights_of(LATENT_FILE))

    def guided(self) -> None:
        """Write the graph of a step that is guided, of one sample and the prefix of all cameras."""
        arguments = (self._noise(1), torch.tensor([0.5]), self._state(1), self._cache(1, self._prefix_length()),
                     self._noise(1), self._noise(1), torch.tensor([2.0]))
        module = _Denoise(self._model)  # its weights have the names that those of the plain step have
        empty = hollow(module)
        graph = guided_graph(empty.model, arguments)
        known = {id(parameter): name for name, parameter in empty.named_parameters()}
        proto = traced(graph, arguments, INPUTS, 'velocity', {})
        weights = weights_of(proto, INPUTS, self._precision,
                             {name: known[id(parameter)] for name, parameter in graph.named_parameters()})
        self._save(proto, weights, module, GUIDED_FILE, self._denoise_weights)

    def _write(self, module: nn.Module, arguments: tuple[Tensor, ...], names: list[str], output: str,
               dynamic: dict[str, dict[int, str]], name: str, file: WeightsFile) -> None:
        proto = traced(hollow(module), arguments, names, output, dynamic)
        self._save(proto, weights_of(proto, names, self._precision), module, name, file)

    def _save(self, proto: onnx.ModelProto, weights: dict[str, Weight], module: nn.Module, name: str,
              file: WeightsFile) -> None:
        large = sum(weight.size for weight in weights.values()) > self._external_over
        attach(proto, weights, module, file if large else None)
        note_origin(proto, self._contract, self._precision, self._model.config.steps_per_token)
        with saving(self._directory):
            onnx.save(proto, self._directory / name)
        onnx.checker.check_model(self._directory / name)

    def _noise(self, batch: int) -> Tensor:
        return torch.zeros(batch, self._contract.horizon, self._contract.action_dim)

    def _state(self, batch: int) -> Tensor:
        return torch.zeros(batch, self._contract.state_dim)

    def _cache(self, batch: int, tokens: int = 3) -> Tensor:
        config = self._model.config
        return torch.zeros(config.depth, 2, batch, config.num_kv_heads, tokens, config.head_dim)

    def _prefix_length(self) -> int:
        contract, patch = self._contract, self._model.config.vision.patch_size
        patches = (contract.image_height // patch) * (contract.image_width // patch)
        return len(contract.cameras) * patches + tokens_of(contract).shape[-1]
