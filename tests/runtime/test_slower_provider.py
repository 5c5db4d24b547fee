"""A release that would run on a slower provider than the policy that serves is refused, and the old one serves on."""

from __future__ import annotations

import logging

import pytest
from release_shop import WAIT_S, offered, value
from test_cpu_fallback import ALLOWED, OnGpu

from fpo_ros.runtime import graphs, providers
from fpo_ros.runtime.providers import DEFAULT_OPTIONS, PolicyError, slower
from fpo_ros.runtime.swap import PolicySlot


class Gpu:
    """A GPU that has memory for some releases alone.

    :param full: release → whether it fails as it is 'opened' or as it is 'run'.
    """

    def __init__(self):
        self.full, self.opened = {}, []
        self._real = providers.open_graph

    def open_graph(self, file, path, provider, threads, options, **given):
        release, place = path.parent.name, self.full.get(path.parent.name)
        self.opened.append((release, path.name, provider))
        if provider == 'cuda' and place == 'opened':
            raise PolicyError(f'{path.name}: CUDA failure 2: out of memory')
        graph = self._real(file, path, 'cpu', threads, DEFAULT_OPTIONS, **given)
        runs = 0 if place == 'run' and path.name == 'denoise.onnx' else 10**6
        return OnGpu(graph, runs) if provider == 'cuda' else graph

    def tried_on_the_cpu(self, release):
        return any(provider == 'cpu' for name, _, provider in self.opened if name == release)


@pytest.fixture
def gpu(monkeypatch):
    """Let 'cuda' be there."""
    found = Gpu()
    monkeypatch.setattr(graphs, 'open_graph', found.open_graph)
    monkeypatch.setattr(providers.onnxruntime, 'get_available_providers',
                        lambda: ['CUDAExecutionProvider', 'CPUExecutionProvider'])
    return found


@pytest.fixture(params=[('auto', ALLOWED), ('auto', DEFAULT_OPTIONS), ('cuda', ALLOWED)],
                ids=['auto, fallback', 'auto', 'cuda, fallback'])
def gpu_slot(request, shop, small_contract, gpu):
    """A slot whose first policy runs on the GPU."""
    provider, options = request.param
    slot = PolicySlot(small_contract, shop.trusted, provider, admit=None, options=options)
    offered(slot, shop.publish(1.0))
    assert slot.at_chunk_edge() and slot.session.provider == 'cuda'
    yield slot
    assert slot.close(WAIT_S)


@pytest.mark.parametrize(('place', 'why'), [('opened', 'CUDA failure 2: out of memory'),
                                            ('run', r'denoise.onnx failed on cuda: CUDA failure 700')])
def test_a_release_that_the_gpu_has_no_memory_for_leaves_the_old_one_serving_there(shop, gpu, gpu_slot, observation,
                                                                                   place, why, caplog):
    gpu.full['v000002'] = place
    with caplog.at_level(logging.WARNING):
        offered(gpu_slot, shop.publish(2.0))
    assert (gpu_slot.refusals, gpu_slot.swaps) == (1, 1) and why in gpu_slot.last_refusal
    assert value(gpu_slot, observation) == -1.0
    assert gpu_slot.session.provider == 'cuda' and gpu_slot.session.problem == ''
    assert not gpu.tried_on_the_cpu('v000002') and caplog.text == '', 'it did not go on anywhere'
    offered(gpu_slot, shop.publish(3.0))
    assert value(gpu_slot, observation) == -3.0 and gpu_slot.session.provider == 'cuda'


def test_the_refusal_says_what_runs_where_and_what_to_do(shop, small_contract, gpu):
    slot = PolicySlot(small_contract, shop.trusted, 'auto', admit=None, options=ALLOWED)
    offered(slot, shop.publish(1.0))
    slot.at_chunk_edge()
    gpu.full['v000002'] = 'run'
    offered(slot, shop.publish(2.0))
    assert slot.last_refusal.startswith('policy v000002: denoise.onnx failed on cuda: CUDA failure 700')
    assert '. It was not tried on cpu: the policy that serves runs on cuda, which is faster. ' in slot.last_refusal
    assert slot.last_refusal.endswith('free memory of the GPU, which holds both policies during a swap, and announce '
                                      'the release again')
    assert slot.close(WAIT_S)


@pytest.mark.parametrize('place', ['opened', 'run'])
def test_the_first_policy_may_fall_back_and_then_another_one_may_too(shop, small_contract, gpu, observation, place):
    slot = PolicySlot(small_contract, shop.trusted, 'auto', admit=None, options=ALLOWED)
    gpu.full |= {'v000001': place, 'v000002': place}
    for bias in (1.0, 2.0, 3.0):
        offered(slot, shop.publish(bias))
        assert value(slot, observation) == -bias
        assert slot.session.provider == ('cuda' if bias == 3.0 else 'cpu')
    assert slot.refusals == 0 and slot.close(WAIT_S)


def test_one_that_waits_on_the_gpu_does_not_give_way_to_one_on_the_cpu(shop, small_contract, gpu, observation):
    slot = PolicySlot(small_contract, shop.trusted, 'auto', admit=None)
    offered(slot, shop.publish(1.0))
    gpu.full['v000002'] = 'opened'
    offered(slot, shop.publish(2.0))
    assert slot.refusals == 1 and value(slot, observation) == -1.0 and slot.session.provider == 'cuda'
    assert slot.close(WAIT_S)


def test_a_policy_that_took_over_on_the_gpu_may_fall_back_later(shop, small_contract, gpu, observation):
    slot = PolicySlot(small_contract, shop.trusted, 'cuda', admit=None, options=ALLOWED)
    for bias in (1.0, 2.0):
        offered(slot, shop.publish(bias))
        assert value(slot, observation) == -bias
    slot.session._graphs._graphs['denoise.onnx']._left = 0
    assert value(slot, observation) == -2.0
    assert slot.session.provider == 'cpu' and 'instead of cuda' in slot.session.problem
    assert slot.close(WAIT_S)


def test_providers_are_ordered_by_speed():
    order = ['tensorrt', 'cuda', 'cpu']
    assert [[slower(one, two) for two in order] for one in order] == [
        [False, False, False], [True, False, False], [True, True, False]]
    assert slower('cpu', 'tensorrt_refit') and not slower('tensorrt_refit', 'tensorrt')
