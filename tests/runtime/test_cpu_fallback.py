"""Graphs that fail while they run on a GPU: the error stands, or the policy goes on on the CPU and says so."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest

from fpo_ros.runtime import graphs, providers
from fpo_ros.runtime.graphs import GraphError
from fpo_ros.runtime.providers import PolicyError, ProviderOptions
from fpo_ros.runtime.session import PolicySession
from fpo_ros.runtime.swap import PolicySlot

ALLOWED = ProviderOptions(cpu_fallback=True)


class OnGpu:
    """A graph of the CPU that passes for one on a GPU, and fails from some run on."""

    def __init__(self, graph, good_runs):
        self._graph, self._left = graph, good_runs

    def __getattr__(self, name):
        return getattr(self._graph, name)

    def io_binding(self):
        return OnGpuBinding(self._graph.io_binding())

    def run_with_iobinding(self, binding):
        if not self._left:
            raise RuntimeError('CUDA failure 700: an illegal memory access was encountered')
        self._left -= 1
        self._graph.run_with_iobinding(binding.real)


class OnGpuBinding:
    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def bind_output(self, name, device):
        self.real.bind_output(name, 'cpu')


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that lets 'cuda' be there, whose denoising graph fails after a number of runs."""
    real = providers.open_graph

    def appear(good_runs):
        def opened(file, path, provider, threads, options, **given):
            graph = real(file, path, 'cpu', threads, providers.DEFAULT_OPTIONS, **given)
            runs = good_runs if path.name == 'denoise.onnx' else 10**6
            return OnGpu(graph, runs) if provider == 'cuda' else graph
        monkeypatch.setattr(graphs, 'open_graph', opened)
        monkeypatch.setattr(graphs, 'providers_for', lambda provider: [provider])
    return appear


def test_a_graph_that_fails_on_the_gpu_is_an_error_unless_falling_back_is_allowed(tmp_path, make_release, observation,
                                                                                  gpu):
    gpu(good_runs=10)
    session = PolicySession.load(make_release(tmp_path, bias=0.5), 'cuda')
    np.testing.assert_allclose(session.infer(observation), -0.5, atol=1e-6)
    for _ in range(2):
        with pytest.raises(GraphError, match=r'denoise\.onnx failed on cuda: CUDA failure 700'):
            session.infer(observation)
    assert session.provider == 'cuda' and session.problem == ''


def test_where_it_is_allowed_the_policy_goes_on_on_the_cpu_with_the_same_chunk_and_says_so(
        tmp_path, make_release, observation, gpu, caplog):
    gpu(good_runs=13)
    session = PolicySession.load(make_release(tmp_path, bias=0.5, time_gain=0.3), 'cuda', options=ALLOWED)
    before = session.infer(observation)
    assert session.provider == 'cuda' and not session.problem
    with caplog.at_level(logging.ERROR):
        np.testing.assert_array_equal(session.infer(observation), before)  # fails at its fourth step
    assert session.provider == 'cpu'
    assert 'CUDA failure 700' in session.problem and 'instead of cuda' in session.problem
    assert len(caplog.records) == 1 and 'goes on on the CPU, which is slower' in caplog.text
    np.testing.assert_array_equal(session.infer(observation), before)
    assert len(caplog.records) == 1, 'said once'


def test_test_vectors_run_on_the_cpu_after_a_fall_back(tmp_path, make_release, gpu):
    gpu(good_runs=5)
    session = PolicySession.load(make_release(tmp_path, bias=0.5), 'cuda', options=ALLOWED)
    assert session.verify_vectors() < 1e-6 and session.problem


def test_a_release_that_is_gone_when_the_gpu_fails_is_named(tmp_path, make_release, observation, gpu):
    gpu(good_runs=0)
    session = PolicySession.load(make_release(tmp_path), 'cuda', options=ALLOWED)
    (tmp_path / 'denoise.onnx').unlink()
    with pytest.raises(PolicyError, match=r'denoise\.onnx: cannot be read'):
        session.infer(observation)


def test_an_error_on_the_cpu_stands(tmp_path, make_release, observation, gpu):
    gpu(good_runs=0)
    session = PolicySession.load(make_release(tmp_path), 'cuda', options=ALLOWED)
    session.infer(observation)
    session._graphs._graphs['denoise.onnx'] = OnGpu(session._graphs['denoise.onnx'], 0)
    with pytest.raises(GraphError, match=r'denoise\.onnx failed on cpu'):
        session.infer(observation)


@pytest.mark.parametrize(('provider', 'options', 'message'), [
    ('cpu', ProviderOptions({'trt_fp16_enable': '1'}), "provider 'cpu' ignores the options of TensorRT"),
    ('cuda', ProviderOptions(engine_cache='engines'), "provider 'cuda' ignores the options of TensorRT"),
    ('tensorrt', ProviderOptions({'fp16': '1'}), "'fp16' is no option of TensorRT: they begin with trt_"),
    ('tensorrt', ProviderOptions({'trt_engine_cache_path': 'a'}, 'b'), "engine_cache and 'trt_engine_cache_path' are"),
    ('cpu', ALLOWED, "cpu_fallback has no meaning for provider 'cpu'")])
def test_options_that_a_provider_would_ignore_are_refused(tmp_path, make_release, small_contract, provider, options,
                                                          message):
    with pytest.raises(PolicyError, match=message):
        PolicySession.load(make_release(tmp_path), provider, options=options)
    with pytest.raises(PolicyError, match=message):
        PolicySlot(small_contract, {}, provider, options=options)


def test_tensorrt_gets_its_options_and_a_private_directory_of_engines(tmp_path):
    options = ProviderOptions(providers.tensorrt_options(' trt_fp16_enable=1, trt_builder_optimization_level = 3'),
                              tmp_path / 'cache' / 'engines')
    place = tmp_path / 'cache' / 'engines'
    for digest in ('ab12', 'cd34'):  # an engine of other weights has the same name
        assert options.of('tensorrt', digest) == {
            'trt_fp16_enable': '1', 'trt_builder_optimization_level': '3', 'trt_engine_cache_enable': '1',
            'trt_engine_cache_path': str(place / digest), 'trt_timing_cache_enable': '1',
            'trt_timing_cache_path': str(place)}
        assert [one.stat().st_mode & 0o777 for one in (place, place / digest)] == [0o700, 0o700]
    assert options.of('cuda', 'ab12') == {'use_tf32': '0'}
    assert providers.tensorrt_options('') == {}
    for wrong in ('trt_fp16_enable', 'a=', 'a=1,a=2'):
        with pytest.raises(PolicyError, match='write each once, as trt_fp16_enable=1'):
            providers.tensorrt_options(wrong)
    (tmp_path / 'file').write_text('')
    with pytest.raises(PolicyError, match='engine_cache .*file'):
        ProviderOptions(engine_cache=tmp_path / 'file' / 'engines').of('tensorrt', 'ab12')


@pytest.fixture
def both(monkeypatch):
    """Let 'cuda' be there, on which graphs of some names cannot be opened; returns those that were opened."""
    real, opened = providers.open_graph, []

    def appear(*broken):
        def stand_in(file, path, provider, *rest, **given):
            opened.append((provider, path.name, given.get('digest')))
            if provider != 'cpu' and path.name in broken:
                raise PolicyError(f'{path.name}: CUDA failure 35: driver too old')
            return real(file, path, 'cpu', 1, **given)
        monkeypatch.setattr(graphs, 'open_graph', stand_in)
        monkeypatch.setattr(providers.onnxruntime, 'get_available_providers',
                            lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider'])
        return opened
    return appear


@pytest.mark.parametrize('broken', ['prefix.onnx', 'denoise.onnx'])
def test_auto_passes_a_provider_over_that_cannot_open_all_graphs_and_says_so(tmp_path, make_release, both, caplog,
                                                                             broken):
    opened = both(broken)
    with caplog.at_level(logging.WARNING):
        session = PolicySession.load(make_release(tmp_path), 'auto')
    assert session.provider == 'cpu' and [name for provider, name, _ in opened if provider == 'cpu'] == [
        'prefix.onnx', 'denoise.onnx'], 'no graph stays on the provider that was passed over'
    assert session.problem == f'provider cuda passed over: {broken}: CUDA failure 35: driver too old; it runs on cpu'
    assert f'provider cuda passed over: {broken}' in caplog.text


def test_auto_takes_the_fastest_provider_that_opens_all_graphs(tmp_path, make_release, both):
    both()
    session = PolicySession.load(make_release(tmp_path), 'auto')
    assert session.provider == 'cuda' and session.problem == ''


def test_engines_of_other_weights_lie_elsewhere(tmp_path, make_release, both, monkeypatch):
    """Weights may differ inside the graph, and in a file beside a graph that is the same."""
    monkeypatch.setattr(graphs, 'providers_for', lambda provider: [provider])
    opened, options = both(), ProviderOptions(engine_cache=tmp_path / 'engines')

    def digests(path):
        opened.clear()
        PolicySession.load(path, 'tensorrt', options=options)
        return {name: digest for _, name, digest in opened}

    first, again, other = (digests(make_release(tmp_path / str(index), bias=bias))
                           for index, bias in enumerate((0.5, 0.5, 0.7)))
    assert first == again and first['prefix.onnx'] == other['prefix.onnx']
    assert len({first['prefix.onnx'], first['denoise.onnx'], other['denoise.onnx']}) == 3
    model = onnx.load(tmp_path / '0' / 'denoise.onnx')
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == 'bias')
    onnx.external_data_helper.set_external_data(weight, location='denoise.weights')
    onnx.save(model, tmp_path / '0' / 'denoise.onnx')
    before, graph = digests(tmp_path / '0'), (tmp_path / '0' / 'denoise.onnx').read_bytes()
    (tmp_path / '0' / 'denoise.weights').write_bytes(np.float32(0.25).tobytes())
    assert (tmp_path / '0' / 'denoise.onnx').read_bytes() == graph
    assert digests(tmp_path / '0')['denoise.onnx'] != before['denoise.onnx']
