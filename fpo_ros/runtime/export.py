"""Export of a torch policy as ONNX graphs with statistics and test vectors.

This module and those named ``export_…`` are the only ones of the runtime that need torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fpo_ros.policy.adapted import merged
from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.continued import sample_continued
from fpo_ros.policy.contract import ACTION_DIM, GRIPPER_COLUMNS, START_JOINTS, Observation
from fpo_ros.policy.guided import sample_guided
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.policy.realtime import decided_rows, entry_mask, padded
from fpo_ros.policy.saving import saving
from fpo_ros.policy.transforms import model_inputs
from fpo_ros.runtime.export_graphs import write_graphs
from fpo_ros.runtime.export_weights import EXTERNAL_OVER
from fpo_ros.runtime.session import PolicySession

#: Largest difference from torch in a sampled chunk on whatever machine [rad, grippers 0..1].
VECTOR_ATOL = 1e-4
#: The same where ONNX multiplies in half precision and torch in single.
HALF_VECTOR_ATOL = 1e-2
#: The same where both run on the machine that exports, in single precision.
EXPORT_ATOL = 1e-5
#: Least cosine between chunks of torch and ONNX on that machine, in any precision.
EXPORT_COSINE = 0.999


def export(policy: FlowPolicy, directory: Path, *, vectors: int = 4, seed: int = 0, precision: str = 'float32',
           external_over: int = EXTERNAL_OVER, guided: bool = True) -> float:
    """Write a policy as :func:`write` does, and run its test vectors.

    :returns: the largest difference between ONNX and torch over the vectors [rad, grippers 0..1].
    :raises fpo_ros.runtime.providers.PolicyError: when a chunk differs too much.
    """
    write(policy, directory, vectors=vectors, seed=seed, precision=precision, external_over=external_over,
          guided=guided)
    return check(directory, precision)


def check(directory: Path, precision: str) -> float:
    """Run the test vectors of an export on the machine that made it, where they must agree more closely than elsewhere.

    :param precision: it was written in.
    :returns: as :func:`export`.
    :raises fpo_ros.runtime.providers.PolicyError: when a chunk differs too much.
    """
    return PolicySession.load(directory).verify_vectors(EXPORT_ATOL if precision == 'float32' else None, EXPORT_COSINE)


def write(policy: FlowPolicy, directory: Path, *, vectors: int = 4, seed: int = 0, precision: str = 'float32',
          external_over: int = EXTERNAL_OVER, guided: bool = True) -> None:
    """Write ``prefix.onnx``, ``denoise.onnx``, ``contract.json``, ``norm_stats.json`` and ``vectors.npz``.

    ``denoise.onnx`` takes all steps of the flow, ``guided.onnx`` a step of one that goes on from a leftover; a policy
    that was trained to go on has ``continued.onnx`` instead, which takes all steps. A policy
    with a latent actor has ``latent.onnx``, too, which makes start noise of noise. Weights are converted and written
    one at a time: beside the policy itself, a whole pi0 takes little memory.

    :param directory: an existing directory; what an earlier export wrote there is replaced.
    :param vectors: number of test vectors, made by torch in single precision whatever the policy computes in.
    :param seed: of the vectors' inputs.
    :param precision: of the projections, one of :data:`fpo_ros.runtime.export_trace.PRECISIONS`.
    :param external_over: graphs with more weights keep them in a file of their own [bytes].
    :param guided: whether to write ``guided.onnx`` or ``continued.onnx``, without which chunks
        are executed synchronously.
    :raises fpo_ros.policy.saving.SaveError: when the disk refuses.
    """
    policy, contract = merged(policy), policy.contract
    with saving(directory):
        (directory / 'contract.json').write_text(contract.to_json())
        (directory / 'norm_stats.json').write_text(policy.stats.to_json())
    guided = guided and policy.model.latent_actor is None  # guidance knows no actor over the start noise
    write_graphs(policy.model, directory, precision, external_over, guided=guided)
    rng = np.random.default_rng(seed)
    observations = [_observation(policy, rng) for _ in range(vectors)]
    inputs = [model_inputs(observation, contract, policy.stats) for observation in observations]
    states = torch.as_tensor(np.concatenate([entry['state'] for entry in inputs]))
    images = None
    if contract.cameras:
        images = np.stack([[observation.images[name] for name in contract.cameras] for observation in observations])
    joints = np.stack([observation.joint_positions for observation in observations])
    noise = torch.randn(vectors, contract.horizon, contract.action_dim, generator=torch.Generator().manual_seed(seed))
    seen = _seen(policy, vectors)
    with _single(policy) as plain:
        with torch.no_grad():
            prefixes = plain.prefix(images, batch=1)
            chunk = np.concatenate([plain.to_raw(plain.act(*one), joints[i:i + 1]) for i, one in enumerate(
                _seen_by(plain, images, seen, prefixes, states, noise))])
        arrays = _guided_vectors(plain, states, prefixes, noise, chunk, joints) if guided else {}
    arrays |= {'tokens': policy.tokens.expand(vectors, -1).numpy(), 'state': states.numpy(), 'noise': noise.numpy(),
               'chunk': chunk, 'atol': np.float32(HALF_VECTOR_ATOL if precision == 'float16' else VECTOR_ATOL)}
    if images is not None:
        arrays['images'] = images
    if contract.optional_cameras:
        arrays['seen'] = seen
    if contract.relative:
        arrays['joints'] = joints
    with saving(directory):
        np.savez(directory / 'vectors.npz', **arrays)


def _seen(policy: FlowPolicy, vectors: int) -> np.ndarray:
    """Return which cameras test vectors have, (vectors, cameras): every other one lacks the optional ones."""
    cameras, optional = policy.contract.cameras, policy.contract.optional_cameras
    return np.array([[index % 2 == 0 or name not in optional for name in cameras] for index in range(vectors)], bool)


def _seen_by(policy: FlowPolicy, images: np.ndarray | None, seen: np.ndarray, prefixes: Tensor, states: Tensor,
             noise: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield state, prefix of the cameras that are seen, and noise of each test vector."""
    for index in range(len(states)):
        one = slice(index, index + 1)
        if seen[index].all():
            prefix = prefixes if prefixes.shape[2] == 1 else prefixes[:, :, one]
        else:
            prefix = policy.prefix(images[one][:, seen[index]])
        yield states[one], prefix, noise[one]


class _Widened(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.float()


@contextmanager
def _single(policy: FlowPolicy) -> Iterator[FlowPolicy]:
    """Give the policy computing in single precision: weights in another are widened when they are used, no sooner."""
    narrow = any(parameter.dtype != torch.float32 for parameter in policy.model.parameters())
    if not narrow:
        policy.model.eval()
        yield policy
        return
    with torch.device('meta'):
        model = Pi0(policy.model.config, policy.contract)
    model.load_state_dict(policy.model.state_dict(), assign=True)
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            parameter.requires_grad_(False)
            if parameter.dtype != torch.float32:
                parametrize.register_parametrization(module, name, _Widened(), unsafe=True)
    yield FlowPolicy(model.eval(), policy.stats)


def _guided_vectors(policy: FlowPolicy, states: Tensor, prefixes: Tensor, noise: Tensor, chunk: np.ndarray,
                    joints: np.ndarray) -> dict[str, np.ndarray]:
    """Return chunks that go on from leftovers, a third of the horizon late."""
    contract, delay = policy.contract, policy.contract.horizon // 3
    left = contract.horizon - delay
    rows = np.roll(chunk, 1, 0)[:, delay:]  # what was left of some other chunk
    decided = policy.known_chunks(padded(rows, contract.horizon), joints)
    with torch.no_grad():
        cache = policy.model.with_state(states, prefixes)
    if contract.max_delay:
        held = torch.as_tensor(decided_rows(left, delay, contract.horizon, policy.model.config.steps_per_token))
        held = held.expand(len(decided), -1)
        drawn = sample_continued(policy.model, noise, contract.flow_steps, cache, decided, held)
    else:
        mask = torch.as_tensor(entry_mask(left, delay, contract.horizon, contract.action_dim)).expand_as(decided)
        drawn = sample_guided(lambda x, time: policy.model.denoise(x, time, cache), noise, contract.flow_steps,
                              decided, mask)
    return {'leftover': rows, 'delay': np.array(delay), 'guided': policy.to_raw(drawn, joints)}


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
