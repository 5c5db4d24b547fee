"""Export of a torch policy as ONNX graphs with statistics and test vectors.

The only module of the runtime that needs torch.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, START_JOINTS, Observation
from fpo_ros.policy.expert import Expert
from fpo_ros.policy.guided import sample_guided
from fpo_ros.policy.latent import GaussianLatent
from fpo_ros.policy.realtime import entry_mask, padded
from fpo_ros.policy.transforms import image_tensor, model_inputs
from fpo_ros.runtime.export_flow import loop_steps
from fpo_ros.runtime.export_guided import INPUTS, guided_graph
from fpo_ros.runtime.release_files import DENOISE_FILE, GUIDED_FILE, LATENT_FILE, PREFIX_FILE
from fpo_ros.runtime.session import PolicySession

#: ONNX operator set of the graphs.
OPSET = 20
#: Largest difference between torch and ONNX in a sampled chunk [rad, grippers 0..1].
VECTOR_ATOL = 1e-4


class _Prefix(nn.Module):
    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__()
        self.model = policy.model

    def forward(self, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        return self.model.prefix(tokens, images)


class _Denoise(nn.Module):
    def __init__(self, model: Expert) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, time: Tensor, state: Tensor, prefix_kv: Tensor) -> Tensor:
        return self.model.denoise(x_t, time, self.model.with_state(state, prefix_kv))


class _Latent(nn.Module):
    def __init__(self, actor: GaussianLatent) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, noise: Tensor, state: Tensor, prefix_kv: Tensor) -> Tensor:
        return self.actor.latent(noise, state, prefix_kv)


def export(policy: FlowPolicy, directory: Path, *, vectors: int = 4, seed: int = 0, guided: bool = True) -> float:
    """Write ``prefix.onnx``, ``denoise.onnx``, ``contract.json``, ``norm_stats.json`` and ``vectors.npz``.

    ``denoise.onnx`` takes all steps of the flow, ``guided.onnx`` a step of one that goes on from a leftover. A policy
    with a latent actor has ``latent.onnx``, too, which makes start noise of noise. The exported graphs are run on the
    test vectors and compared with torch.

    :param directory: an existing directory; what an earlier export wrote there is replaced.
    :param vectors: number of test vectors.
    :param seed: of the vectors' inputs.
    :param guided: whether to write ``guided.onnx``, without which chunks are executed synchronously.
    :returns: the largest difference between ONNX and torch over the vectors [rad, grippers 0..1].
    :raises fpo_ros.runtime.providers.PolicyError: when a difference exceeds ``VECTOR_ATOL``.
    """
    contract, model = policy.contract, policy.model.eval()
    (directory / 'contract.json').write_text(contract.to_json())
    (directory / 'norm_stats.json').write_text(policy.stats.to_json())
    rng = np.random.default_rng(seed)
    observations = [_observation(policy, rng) for _ in range(vectors)]
    inputs = [model_inputs(observation, contract, policy.stats) for observation in observations]
    states = torch.as_tensor(np.concatenate([entry['state'] for entry in inputs]))
    images = None
    if contract.cameras:
        images = np.stack([[observation.images[name] for name in contract.cameras] for observation in observations])
    with torch.no_grad():
        two = [0, -1]  # a batch to trace with, whatever the number of vectors
        tokens = policy.tokens.expand(2, -1)
        arguments = (tokens,) if images is None else (tokens, torch.as_tensor(image_tensor(images[two])))
        names = ['tokens'] if images is None else ['tokens', 'images']
        prefix = model.prefix(*arguments)
        _export(_Prefix(policy), arguments, names, 'prefix_kv', {name: {0: 'batch'} for name in names},
                directory / PREFIX_FILE)
        noise = torch.randn(vectors, contract.horizon, contract.action_dim,
                            generator=torch.Generator().manual_seed(seed))
        _export_flow(model, noise[two], states[two], prefix, 'actions', directory / DENOISE_FILE)
        _export_latent(policy, noise[two], states[two], prefix, directory / LATENT_FILE)
        joints = np.stack([observation.joint_positions for observation in observations])
        prefixes = policy.prefix(images)
        chunk = policy.to_raw(policy.act(states, prefixes, noise), joints)
    arrays: dict[str, np.ndarray] = {}
    if guided and model.latent_actor is None:  # guidance knows no actor over the start noise
        arrays |= _guided_vectors(policy, states, prefixes, noise, chunk, joints, directory / GUIDED_FILE)
    else:
        (directory / GUIDED_FILE).unlink(missing_ok=True)
    arrays |= {'tokens': policy.tokens.expand(vectors, -1).numpy(), 'state': states.numpy(), 'noise': noise.numpy(),
              'chunk': chunk, 'atol': np.float32(VECTOR_ATOL)}
    np.savez(directory / 'vectors.npz', **arrays, **({} if images is None else {'images': images}),
             **({'joints': joints} if contract.relative else {}))
    return PolicySession.load(directory).verify_vectors()


def _export_flow(expert: Expert, noise: Tensor, states: Tensor, prefix: Tensor, output: str, path: Path) -> None:
    """Write the graph of all steps of a flow."""
    export_step(expert, noise, states, prefix, path)
    loop_steps(path, expert.contract.flow_steps, output)


def export_step(expert: Expert, noise: Tensor, states: Tensor, prefix: Tensor, path: Path) -> None:
    """Write the graph (x_t, time, state, prefix_kv) -> velocity of one step of a flow, traced with a batch of two."""
    _export(_Denoise(expert), (noise, torch.tensor([1.0, 0.5]), states, prefix),
            ['x_t', 'time', 'state', 'prefix_kv'], 'velocity',
            {'x_t': {0: 'batch'}, 'time': {0: 'batch'}, 'state': {0: 'batch'}, 'prefix_kv': {2: 'batch'}}, path)


def _guided_vectors(policy: FlowPolicy, states: Tensor, prefixes: Tensor, noise: Tensor, chunk: np.ndarray,
                    joints: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """Write the graph of a guided step; return chunks that go on from leftovers, a third of the horizon late."""
    contract, delay = policy.contract, policy.contract.horizon // 3
    left = contract.horizon - delay
    rows = np.roll(chunk, 1, 0)[:, delay:]  # what was left of some other chunk
    decided = policy.known_chunks(padded(rows, contract.horizon), joints)
    mask = torch.as_tensor(entry_mask(left, delay, contract.horizon, contract.action_dim)).expand_as(decided)
    shared = prefixes.shape[2] == 1
    one = prefixes if shared else prefixes[:, :, :1]
    arguments = (noise[:1], torch.tensor([0.5]), states[:1], one, decided[:1], mask[:1], torch.tensor([2.0]))
    _export(guided_graph(policy.model, arguments), arguments, INPUTS, 'velocity', {}, path)
    with torch.no_grad():
        cache = policy.model.with_state(states, prefixes)
    drawn = sample_guided(lambda x, time: policy.model.denoise(x, time, cache), noise, contract.flow_steps, decided,
                          mask)
    return {'leftover': rows, 'delay': np.array(delay), 'guided': policy.to_raw(drawn, joints)}


def _export_latent(policy: FlowPolicy, noise: Tensor, states: Tensor, prefix: Tensor, path: Path) -> None:
    """Write the graph of the actor over the start noise, or see that there is none."""
    actor = policy.model.latent_actor
    if actor is None:
        path.unlink(missing_ok=True)
    elif isinstance(actor, GaussianLatent):
        _export(_Latent(actor), (noise, states, prefix), ['noise', 'state', 'prefix_kv'], 'latent',
                {'noise': {0: 'batch'}, 'state': {0: 'batch'}, 'prefix_kv': {2: 'batch'}}, path)
    else:
        _export_flow(actor, noise, states, prefix, 'latent', path)


def _export(module: nn.Module, arguments: tuple[Tensor, ...], names: list[str], output: str,
            dynamic: dict[str, dict[int, str]], path: Path) -> None:
    """Trace and write one graph.

    Tracing is exact here, since no branch depends on data, and takes a second where torch.export's
    decompositions take half a minute.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(module.eval(), arguments, buffer, dynamo=False, opset_version=OPSET,
                          input_names=names, output_names=[output], dynamic_axes=dynamic)
    proto = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _observation(policy: FlowPolicy, rng: np.random.Generator) -> Observation:
    """Draw an observation within two deviations of the training data; joints of other units about the start."""
    contract, stats = policy.contract, policy.stats
    state = stats.state_mean + stats.state_std * rng.uniform(-2, 2, contract.state_dim)
    if contract.units != 'cell':
        state[:ACTION_DIM] = np.where(np.isin(range(ACTION_DIM), GRIPPER_COLUMNS), rng.uniform(0, 1, ACTION_DIM),
                                      START_JOINTS + rng.uniform(-0.3, 0.3, ACTION_DIM))
    images = {name: rng.integers(0, 256, (contract.image_height, contract.image_width, 3), np.uint8)
              for name in contract.cameras}
    pose = state[ACTION_DIM:] if contract.observation == 'state' else None
    return Observation(joint_positions=state[:ACTION_DIM], images=images, object_pose=pose)
