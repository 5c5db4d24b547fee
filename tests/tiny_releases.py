"""Tiny exported policies whose flow can be computed by hand, and signed releases of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fpo_ros.policy.contract import ACTION_DIM, START_JOINTS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.realtime import entry_mask, padded
from fpo_ros.policy.tokenizer import tokenize
from fpo_ros.releases import ReleaseStore, generate_keypair, load_trusted_keys, wilson_interval

#: Every chunk is 10 rows; one Euler step of velocity = x leaves exactly the action mean.
STEADY = PolicyContract(horizon=10, execute=10, flow_steps=1)
KV_SHAPE = (1, 2, 1, 1, 1, 1)
#: How steeply a swinging policy goes from one side to the other: a pose between them would not last for a moment.
STEEP = 20.0


def _model(path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(nodes, 'tiny', inputs, outputs,
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _value(name: str, shape: list, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def write_graphs(path: Path, contract: PolicyContract, prefix_heavy: int = 0, **gains: float) -> None:
    """Write the prefix = mean(tokens), plus mean(images) where the contract has cameras; and :func:`write_velocity`.

    :param prefix_heavy: bytes of weights in the prefix, which change nothing.
    """
    inputs = [_value('tokens', ['batch', 'text'], TensorProto.INT64)]
    nodes = [helper.make_node('Cast', ['tokens'], ['floats'], to=TensorProto.FLOAT),
             helper.make_node('ReduceMean', ['floats'], ['total'], keepdims=0)]
    if contract.cameras:
        picture = [3, contract.image_height, contract.image_width]
        inputs.append(_value('images', ['batch', len(contract.cameras), *picture]))
        nodes += [helper.make_node('ReduceMean', ['images'], ['light'], keepdims=0),
                  helper.make_node('Add', ['total', 'light'], ['sum'])]
    constants = {'shape': np.array(KV_SHAPE, np.int64)}
    if prefix_heavy:
        constants['weights'] = np.zeros(prefix_heavy // 4 or 1, np.float32)
        nodes += [helper.make_node('Add', ['weights', nodes[-1].output[0]], ['many']),
                  helper.make_node('ReduceMax', ['many'], ['one'], keepdims=0)]
    nodes.append(helper.make_node('Expand', [nodes[-1].output[0], 'shape'], ['prefix_kv']))
    _model(path / 'prefix.onnx', nodes, inputs, [_value('prefix_kv', list(KV_SHAPE))], constants)
    write_velocity(path / 'denoise.onnx', contract, **gains)


def write_velocity(file: Path, contract: PolicyContract, *, gain: float = 0.0, bias: float = 0.0,
                   time_gain: float = 0.0, state_gain: float = 0.0, state_bound: float = 1e6,
                   prefix_gain: float = 0.0) -> None:
    """Write a flow's velocity = gain x + bias + time_gain t + clip(state_gain state[:14]) + prefix_gain prefix.

    :param state_bound: what the state adds is clipped to this to both sides.
    """
    f32 = np.float32
    constants = {'gain': f32(gain), 'bias': f32(bias), 'time_gain': f32(time_gain),
                 'state_gain': f32(state_gain), 'least': f32(-state_bound), 'most': f32(state_bound),
                 'prefix_gain': f32(prefix_gain),
                 'one': np.array([1], np.int64), 'from': np.array([0], np.int64),
                 'to': np.array([ACTION_DIM], np.int64), 'axes': np.array([1, 2], np.int64)}
    nodes = [
        helper.make_node('Mul', ['x_t', 'gain'], ['a']),
        helper.make_node('Add', ['a', 'bias'], ['b']),
        helper.make_node('Unsqueeze', ['time', 'axes'], ['t']),
        helper.make_node('Mul', ['t', 'time_gain'], ['c']),
        helper.make_node('Add', ['b', 'c'], ['d']),
        helper.make_node('Slice', ['state', 'from', 'to', 'one'], ['joints']),
        helper.make_node('Unsqueeze', ['joints', 'one'], ['row']),
        helper.make_node('Mul', ['row', 'state_gain'], ['whole']),
        helper.make_node('Clip', ['whole', 'least', 'most'], ['e']),
        helper.make_node('Add', ['d', 'e'], ['f']),
        helper.make_node('ReduceMean', ['prefix_kv'], ['p'], keepdims=0),
        helper.make_node('Mul', ['p', 'prefix_gain'], ['g']),
        helper.make_node('Add', ['f', 'g'], ['velocity']),
    ]
    _model(file, nodes, [_value('x_t', ['batch', contract.horizon, ACTION_DIM]), _value('time', ['batch']),
                         _value('state', ['batch', contract.state_dim]), _value('prefix_kv', list(KV_SHAPE))],
           [_value('velocity', ['batch', contract.horizon, ACTION_DIM])], constants)


def write_guided(file: Path, contract: PolicyContract) -> None:
    """Write velocity = x - mask decided: one step leads to the rows that are decided, and to the mean where none is."""
    whole = [1, contract.horizon, ACTION_DIM]
    nodes = [helper.make_node('Mul', ['mask', 'decided'], ['wanted']),
             helper.make_node('Sub', ['x_t', 'wanted'], ['velocity'])]
    inputs = [_value(name, whole) for name in ('x_t', 'decided', 'mask')]
    inputs += [_value('time', [1]), _value('state', [1, contract.state_dim]), _value('prefix_kv', list(KV_SHAPE)),
               _value('weight', [1])]
    _model(file, nodes, inputs, [_value('velocity', whole)], {})


def write_latent(file: Path, contract: PolicyContract, *, gain: float = 0.0, bias: float = 0.0,
                 state_gain: float = 0.0, prefix_gain: float = 0.0) -> None:
    """Write start noise = gain noise[0] + bias + state_gain state[0] + prefix_gain prefix in every row."""
    whole = ['batch', contract.horizon, ACTION_DIM]
    constants = {'gain': np.float32(gain), 'bias': np.float32(bias), 'state_gain': np.float32(state_gain),
                 'prefix_gain': np.float32(prefix_gain), 'first': np.array([0], np.int64),
                 'shape': np.array([1, contract.horizon, ACTION_DIM], np.int64)}
    nodes = [helper.make_node('Gather', ['noise', 'first'], ['row'], axis=1),
             helper.make_node('Mul', ['row', 'gain'], ['a']),
             helper.make_node('Add', ['a', 'bias'], ['b']),
             helper.make_node('Gather', ['state', 'first'], ['joint'], axis=1),
             helper.make_node('Mul', ['joint', 'state_gain'], ['c']),
             helper.make_node('Unsqueeze', ['c', 'first'], ['d']),
             helper.make_node('Add', ['b', 'd'], ['e']),
             helper.make_node('ReduceMean', ['prefix_kv'], ['p'], keepdims=0),
             helper.make_node('Mul', ['p', 'prefix_gain'], ['f']),
             helper.make_node('Add', ['e', 'f'], ['g']),
             helper.make_node('Expand', ['g', 'shape'], ['latent'])]
    _model(file, nodes, [_value('noise', whole), _value('state', ['batch', contract.state_dim]),
                         _value('prefix_kv', list(KV_SHAPE))], [_value('latent', whole)], constants)


def reference_chunk(contract: PolicyContract, stats: NormStats, noise: np.ndarray, state: np.ndarray,
                    prefix: float, **gains: float) -> np.ndarray:
    """Integrate the tiny velocity in float64: (horizon, 14) in raw units."""
    x, n = np.array(noise, np.float64), contract.flow_steps
    gain, bias, time_gain, state_gain, prefix_gain = (
        gains.get(name, 0.0) for name in ('gain', 'bias', 'time_gain', 'state_gain', 'prefix_gain'))
    bound = gains.get('state_bound', 1e6)
    constant = bias + np.clip(state_gain * state[:ACTION_DIM], -bound, bound) + prefix_gain * prefix
    for k in range(n):
        x = x - (gain * x + time_gain * (1 - k / n) + constant) / n
    return x * stats.action_std.astype(np.float64) + stats.action_mean.astype(np.float64)


def write_release(path: Path, contract: PolicyContract | None = None, *, atol: float = 1e-4,
                  shift: float = 0.0, stats: NormStats | None = None, goes_on: bool = False, prefix_heavy: int = 0,
                  **gains: float) -> Path:
    """Write the files of an unsigned release.

    :param shift: falsifies the stored test chunks.
    :param goes_on: with a graph that goes on from a leftover; of one flow step.
    """
    contract = contract or PolicyContract(horizon=4, execute=3)
    stats = stats or NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim),
                               np.zeros(ACTION_DIM), np.ones(ACTION_DIM))
    path.mkdir(parents=True, exist_ok=True)
    (path / 'contract.json').write_text(json.dumps(contract.to_dict()))
    (path / 'norm_stats.json').write_text(stats.to_json())
    write_graphs(path, contract, prefix_heavy, **gains)
    rng = np.random.default_rng(0)
    count, tokens = 2, tokenize(contract.prompt)
    vectors = {'tokens': np.tile(tokens, (count, 1)),
               'state': rng.standard_normal((count, contract.state_dim)).astype(np.float32),
               'noise': rng.standard_normal((count, contract.horizon, ACTION_DIM)).astype(np.float32)}
    light = np.zeros(count)
    if contract.cameras:
        vectors['images'] = rng.integers(0, 256, (count, len(contract.cameras), contract.image_height,
                                                  contract.image_width, 3), np.uint8)
        light = vectors['images'].reshape(count, -1).mean(1) * 2 / 255 - 1
    vectors['chunk'] = np.stack([
        reference_chunk(contract, stats, vectors['noise'][i], vectors['state'][i], tokens.mean() + light[i],
                        **gains)
        for i in range(count)]).astype(np.float32) + np.float32(shift)
    if goes_on:
        rows, delay = vectors['chunk'][:, :-2], 2
        mask = entry_mask(rows.shape[1], delay, contract.horizon, ACTION_DIM)
        decided = stats.normalise_action(padded(rows, contract.horizon), ACTION_DIM)
        vectors |= {'leftover': rows, 'delay': np.array(delay),
                    'guided': stats.unnormalise_action(decided * mask).astype(np.float32)}
        write_guided(path / 'guided.onnx', contract)
    np.savez(path / 'vectors.npz', atol=np.float64(atol), **vectors)
    return path


@dataclass
class Releases:
    """A release store whose policies steer to a fixed pose.

    :param path: the store.
    :param keys: directory with ``release.key`` and ``release.pub``.
    """

    path: Path
    keys: Path

    @classmethod
    def make(cls, root: Path) -> Releases:
        """Return a store below a directory, with new keys and without releases."""
        generate_keypair(root / 'keys')
        return cls(root / 'store', root / 'keys')

    def publish(self, target: np.ndarray, contract: PolicyContract = STEADY, promote: bool = True,
                swing: float = 0.0) -> Path:
        """Publish a policy that commands ``target`` in every row; returns the release's directory.

        :param swing: [rad] how far beyond the target it sends both waists, always to the side where they are not:
            so they turn to and fro for ever, however soon it sees where they are. It does not go on from leftovers.
        """
        deviation = np.full(14, 1e-3 if swing else 0.01)
        deviation[[0, 7]] = 1.0 if swing else 0.01
        stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), target, deviation)
        staging = self.path.parent / f'staging_{len(list(self.path.parent.iterdir()))}'
        write_release(staging, contract, stats=stats, gain=1.0, state_gain=STEEP if swing else 0.0,
                      state_bound=swing, goes_on=contract.flow_steps == 1 and not swing)
        (staging / 'contract.json').unlink()
        low, high = wilson_interval(20, 40)
        release = ReleaseStore(self.path).publish(
            staging, contract=contract, parent=None, private_key=self.keys / 'release.key',
            created='2026-01-01T00:00:00+00:00',
            metrics={'evaluation': {'successes': 20, 'episodes': 40, 'wilson_low': low, 'wilson_high': high}})
        if promote:
            ReleaseStore(self.path).promote(release.version, load_trusted_keys(self.keys))
        return release.path


def waist_at(radians: float) -> np.ndarray:
    """Return the start pose with the left waist turned."""
    target = START_JOINTS.copy()
    target[0] = radians
    return target
