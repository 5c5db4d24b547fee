"""Policies in TensorRT engines: when an engine takes new weights, when one is built, and what is refused.

Engines are stood in for: the layer below is written by hand and computes on the CPU. TensorRT itself is not run here.
"""

from __future__ import annotations

import builtins
import logging
import sys
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from release_shop import WAIT_S, offered, value

from fpo_ros.policy.contract import Observation, PolicyContract
from fpo_ros.runtime import graphs, refit
from fpo_ros.runtime.providers import PolicyError, ProviderOptions
from fpo_ros.runtime.session import PolicySession
from fpo_ros.runtime.swap import PolicySlot

#: Weights of the tiny policies are single numbers, which belong to the structure; as many as these do not.
GAINS = {'gain': 0.3, 'time_gain': 0.2, 'state_gain': 0.1, 'prefix_gain': 0.01}


class Layer:
    """Engines whose bytes are the graph they were built from."""

    device = 'cpu'

    def __init__(self, identity='10.0'):
        self.identity, self.did, self.fits = identity, [], True

    def build(self, file, shapes):
        self.did.append(f'build {file.name}')
        assert all(isinstance(one, int) and one > 0 for shape in shapes.values() for one in shape)
        return file.read_bytes()

    def open(self, plan):
        if not plan.startswith(b'\x08'):
            raise PolicyError('the engine is damaged')
        return Engine(self, plan)


class Engine:
    def __init__(self, layer, graph):
        self.layer = layer
        self.session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])

    def refit(self, file):
        self.layer.did.append(f'refit {file.name}')
        if not self.layer.fits:
            raise PolicyError('TensorRT cannot take the weights')
        self.session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])

    def shapes(self, inputs):
        wanted = {one.name: one.shape for one in self.session.get_inputs()}
        assert set(inputs) == set(wanted)
        batch = next(iter(inputs.values()))[0]
        return {one.name: tuple(batch if length == 'batch' else length for length in one.shape)
                for one in self.session.get_outputs()}

    def run(self, values):
        names = [one.name for one in self.session.get_outputs()]
        found = self.session.run(names, {one.name: values[one.name].numpy() for one in self.session.get_inputs()})
        for name, array in zip(names, found, strict=True):
            values[name].update_inplace(np.ascontiguousarray(array))


@pytest.fixture
def layer(monkeypatch):
    layer = Layer()
    monkeypatch.setattr(graphs, 'engine_layer', lambda: layer)
    return layer


@pytest.fixture
def weighted(make_release):
    """Return make_release, whose bias is a row of weights."""
    def make(path, contract=None, bias=0.0, **options):
        make_release(path, contract, bias=bias, **options)
        model = onnx.load(path / 'denoise.onnx')
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == 'bias')
        weight.CopyFrom(numpy_helper.from_array(np.full(14, bias, np.float32), 'bias'))
        onnx.save(model, path / 'denoise.onnx')
        return path
    return make


def load(path, serving=None, **options):
    return PolicySession.load(path, 'tensorrt_refit', options=ProviderOptions(**options), serving=serving)


def test_a_policy_in_engines_computes_what_onnxruntime_does(tmp_path, weighted, layer, observation):
    session = load(weighted(tmp_path, bias=0.5, **GAINS))
    noise = np.random.default_rng(0).standard_normal((4, 14))
    np.testing.assert_array_equal(session.infer(observation, noise),
                                  PolicySession.load(tmp_path).infer(observation, noise))
    assert session.verify_vectors() < 1e-5 and session.provider == 'tensorrt_refit' and session.problem == ''
    assert layer.did == ['build prefix.onnx', 'build denoise.onnx']


def test_pictures_reach_the_engine(tmp_path, weighted, layer):
    contract = PolicyContract(observation='pixels', cameras=('cam_high',), image_height=8, image_width=8, horizon=4,
                              execute=3)
    session = load(weighted(tmp_path, contract, **GAINS))
    seen = Observation(np.zeros(14), {'cam_high': np.full((8, 8, 3), 255, np.uint8)})
    np.testing.assert_array_equal(session.infer(seen), PolicySession.load(tmp_path).infer(seen))
    assert session.verify_vectors() < 1e-5


def test_new_weights_go_into_a_second_engine_and_the_serving_one_stays_as_it_is(tmp_path, weighted, layer,
                                                                                observation):
    serving = load(weighted(tmp_path / 'a', bias=0.5))
    layer.did.clear()
    session = load(weighted(tmp_path / 'b', bias=0.75), serving)
    assert layer.did == ['refit prefix.onnx', 'refit denoise.onnx'], 'nothing is built'
    np.testing.assert_allclose(session.infer(observation), -0.75, atol=1e-6)
    np.testing.assert_allclose(serving.infer(observation), -0.5, atol=1e-6)
    assert session.verify_vectors() < 1e-6 and serving.verify_vectors() < 1e-6


def test_a_graph_of_another_structure_gets_an_engine_of_its_own(tmp_path, weighted, layer):
    serving = load(weighted(tmp_path / 'a', bias=0.5))
    layer.did.clear()
    load(weighted(tmp_path / 'b', bias=0.5, gain=0.25), serving)  # a single number, which an engine may have folded in
    assert layer.did == ['refit prefix.onnx', 'build denoise.onnx']
    layer.did.clear()
    load(weighted(tmp_path / 'c', PolicyContract(horizon=5, execute=3), bias=0.5), serving)
    assert layer.did == ['refit prefix.onnx', 'build denoise.onnx']
    layer.did.clear()
    load(weighted(tmp_path / 'd', PolicyContract(horizon=4, execute=3, prompt='Ab'), bias=0.5), serving)
    assert layer.did == ['build prefix.onnx', 'refit denoise.onnx'], 'another number of tokens'


def test_weights_that_do_not_fit_lead_to_a_new_engine_which_is_said(tmp_path, weighted, layer, observation, caplog):
    serving = load(weighted(tmp_path / 'a', bias=0.5))
    layer.did.clear()
    layer.fits = False
    with caplog.at_level(logging.WARNING):
        session = load(weighted(tmp_path / 'b', bias=0.75), serving)
    assert layer.did == [f'{what} {name}.onnx' for name in ('prefix', 'denoise') for what in ('refit', 'build')]
    assert 'denoise.onnx: TensorRT cannot take the weights: an engine is built anew, which takes minutes' in caplog.text
    np.testing.assert_allclose(session.infer(observation), -0.75, atol=1e-6)


def test_engines_are_kept_in_a_private_directory_and_take_the_weights_of_whoever_comes(tmp_path, weighted, layer,
                                                                                       observation):
    place = tmp_path / 'engines'
    load(weighted(tmp_path / 'a', bias=0.5), engine_cache=place)
    assert place.stat().st_mode & 0o777 == 0o700 and len(list(place.glob('*/engine'))) == 2
    layer.did.clear()
    session = load(weighted(tmp_path / 'b', bias=0.75), engine_cache=place)  # by a process that serves nothing yet
    assert layer.did == ['refit prefix.onnx', 'refit denoise.onnx']
    np.testing.assert_allclose(session.infer(observation), -0.75, atol=1e-6)
    for engine in place.glob('*/engine'):
        engine.write_bytes(b'half')
    layer.did.clear()
    load(tmp_path / 'b', engine_cache=place)
    assert layer.did == ['build prefix.onnx', 'build denoise.onnx'], 'damaged'
    layer.identity = '11.0'
    layer.did.clear()
    load(tmp_path / 'b', engine_cache=place)
    assert layer.did == ['build prefix.onnx', 'build denoise.onnx'], 'of another version'
    assert len(list(place.glob('*/engine'))) == 4


def test_a_slot_swaps_and_rolls_back_by_refitting(shop, small_contract, weighted, layer, observation):
    shop._make = weighted
    slot = PolicySlot(small_contract, shop.trusted, 'tensorrt_refit', admit=None)
    for bias in (1.0, 2.0, 3.0):
        offered(slot, shop.publish(bias))
        assert value(slot, observation) == -bias
    assert layer.did == ['build prefix.onnx', 'build denoise.onnx', *['refit denoise.onnx'] * 2], 'one prefix for all'
    offered(slot, shop.publish(4.0, shift=0.01))
    assert 'does not reproduce on tensorrt_refit' in slot.last_refusal and value(slot, observation) == -3.0
    assert slot.rollback() == 'v000002' and value(slot, observation) == -2.0
    assert slot.close(WAIT_S)


def test_the_structure_of_a_graph_leaves_out_its_weights_and_what_made_it(tmp_path, weighted):
    def structure(name='denoise.onnx', notes=None, **options):
        path = weighted(tmp_path / str(len(list(tmp_path.iterdir()))), **options)
        model = onnx.load(path / name)
        onnx.helper.set_model_props(model, notes or {})
        return refit.structure(model)

    first = structure(bias=0.5)
    assert structure(bias=0.7) == first and structure(bias=0.5, notes={'torch': '3', 'onnx': '2'}) == first
    others = [structure(bias=0.5, gain=0.1), structure(bias=0.5, contract=PolicyContract(horizon=6, execute=3)),
              structure(notes={'contract_sha256': 'ab'}), structure('prefix.onnx')]
    assert len({first, *others}) == 5


def test_lengths_that_vary_are_refused(tmp_path, weighted, layer):
    contract = PolicyContract(observation='pixels', cameras=('cam_high', 'cam_low'), optional_cameras=('cam_low',),
                              image_height=8, image_width=8, horizon=4, execute=3)
    path = weighted(tmp_path, contract)
    model = onnx.load(path / 'prefix.onnx')
    images = next(one for one in model.graph.input if one.name == 'images')
    images.type.tensor_type.shape.dim[1].dim_param = 'cameras'
    onnx.save(model, path / 'prefix.onnx')
    with pytest.raises(PolicyError, match=r"prefix\.onnx: .*'cameras' is free, as with optional cameras"):
        load(path)


def test_a_graph_that_is_cut_short_is_named(tmp_path, weighted, layer):
    path = weighted(tmp_path)
    (path / 'denoise.onnx').write_bytes((path / 'denoise.onnx').read_bytes()[:200])
    with pytest.raises(PolicyError, match=r'denoise\.onnx: no ONNX graph can be read'):
        load(path)


def test_it_is_refused_without_the_package_without_cuda_and_without_a_gpu(tmp_path, make_release, monkeypatch):
    path, real = make_release(tmp_path), builtins.__import__

    def without(name, *rest, **options):
        if name == 'tensorrt':
            raise ImportError("No module named 'tensorrt'")
        return real(name, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, '__import__', without)
        with pytest.raises(PolicyError, match="^provider 'tensorrt_refit' cannot start: the Python package tensorrt "
                                              "cannot be imported .*extra 'gpu'.*NVIDIA GPU; or use provider 'cpu'"):
            load(path)
    monkeypatch.setitem(sys.modules, 'tensorrt', ModuleType('tensorrt'))
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CPUExecutionProvider'])
    with pytest.raises(PolicyError, match='cannot start: this onnxruntime has no CUDA'):
        load(path)
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['CUDAExecutionProvider'])
    with pytest.raises(PolicyError, match='cannot start: no GPU can be used'):
        load(path)


def test_options_of_onnxruntimes_provider_are_refused(tmp_path, make_release):
    with pytest.raises(PolicyError, match="provider 'tensorrt_refit' ignores the options of TensorRT"):
        load(make_release(tmp_path), tensorrt={'trt_fp16_enable': '1'})
