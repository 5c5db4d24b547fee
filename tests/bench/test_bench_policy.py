"""``fpo-ros bench policy``: an exported policy beside torch, beside no cache, in the node and while policies change."""

from __future__ import annotations

import importlib.util
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch

from fpo_ros.bench import policy, policy_growth, policy_node
from fpo_ros.bench.control_loop import ControlLoop
from fpo_ros.bench.plot import plot_latencies
from fpo_ros.policy.contract import ContractError, PolicyContract

KEYS = {'variant', 'provider', 'p50_ms', 'p99_ms', 'torch_eager_p50_ms', 'speedup_over_torch', 'no_cache_p50_ms',
        'node_p50_ms', 'node_p99_ms', 'node_overhead', 'swap_ms', 'max_tick_gap_ms', 'max_tick_gap_without_swaps_ms',
        'session_beside_node_p50_ms', 'samples'}
NODE_KEYS = {'session_beside_node_p50_ms', 'node_p50_ms', 'node_p99_ms', 'node_overhead'}


@pytest.fixture(autouse=True)
def synchronous(monkeypatch):
    """Leave the guided step out, most of the time of an export, which has tests of its own."""
    monkeypatch.setattr(policy, 'export', partial(policy.export, guided=False))


def without_ros(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)


def test_figures_without_ros(monkeypatch):
    without_ros(monkeypatch)
    before, lines = torch.get_num_threads(), []
    found = policy.measure('pi0_tiny', 5, swaps=2, report=lines.append)
    assert set(found) == KEYS and torch.get_num_threads() == before
    assert {key for key in KEYS if found[key] is None} == NODE_KEYS
    assert any('node_overhead are null: rclpy is not installed' in line for line in lines)
    assert found['speedup_over_torch'] == found['torch_eager_p50_ms'] / found['p50_ms'] > 0
    assert found['samples'] == 5 and found['p99_ms'] >= found['p50_ms'] and found['swap_ms'] > 0
    assert min(found['max_tick_gap_ms'], found['max_tick_gap_without_swaps_ms']) > 0
    assert any('times as long' in line for line in policy.in_words(found))


@pytest.mark.ros
def test_the_node_answers_observations_with_pictures(tmp_path):
    contract = PolicyContract(observation='pixels', cameras=('cam_high',), image_height=16, image_width=32)
    release, _ = policy.released(policy.untrained(contract), tmp_path)
    with policy_node.open_node(release.path, tmp_path / 'keys', contract, 'cpu', tmp_path) as ask:
        assert all(0 < ask(policy.observation_of(contract)) < 10 for _ in range(3))


def test_what_computes_something_else_is_not_compared(monkeypatch):
    without_ros(monkeypatch)

    class Off(policy.Recomputing):
        def infer_of(self, observation):
            infer = super().infer_of(observation)
            return lambda noise: infer(noise) + np.float32(0.01)

    monkeypatch.setattr(policy, 'Recomputing', Off)
    with pytest.raises(RuntimeError, match='did not compute the same'):
        policy.measure('pi0_tiny', 1, swaps=1)


def test_unknown_variants_are_refused():
    with pytest.raises(ContractError, match="unknown variant 'pi0': use pi0_tiny or pi0_small"):
        policy.measure('pi0')


GOOD = {'variant': 'pi0_small', 'p50_ms': 100.0, 'speedup_over_torch': 1.6, 'no_cache_p50_ms': 500.0,
        'session_beside_node_p50_ms': 100.0, 'node_p50_ms': 110.0, 'node_p99_ms': 200.0, 'max_tick_gap_ms': 24.0,
        'max_tick_gap_without_swaps_ms': 21.0}


@pytest.mark.parametrize(('change', 'why'), [
    ({}, None), ({'node_p50_ms': None}, None),
    ({'variant': 'pi0_tiny', 'speedup_over_torch': 3, 'no_cache_p50_ms': 150}, None),
    ({'variant': 'pi0_tiny'}, '1.60 times as fast as torch, promised are 2.5'),
    ({'speedup_over_torch': 1.4}, '1.40 times as fast as torch, promised are 1.5'),
    ({'no_cache_p50_ms': 399}, '3.99 times as fast, promised are 4'), ({'node_p50_ms': 117.0}, 'promised are 116'),
    ({'node_p99_ms': 221.0}, 'promised is twice the median'), ({'max_tick_gap_ms': 26.0}, 'promised are 1.2 times')])
def test_broken_promises_are_named(change, why):
    short = policy.broken_promises(GOOD | change)
    assert (short == []) if why is None else (len(short) == 1 and why in short[0])


def test_the_control_loop_notices_when_it_is_stopped():
    loop = ControlLoop()
    try:
        def stop():
            loop._process.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            loop._process.send_signal(signal.SIGCONT)

        assert loop.longest_gap_of(stop) >= 0.1
        assert 0 < loop.longest_gap_of(lambda: time.sleep(0.05))
    finally:
        loop.close()


def test_a_control_loop_that_died_is_no_figure():
    loop = ControlLoop()
    loop._process.kill()
    with pytest.raises((RuntimeError, BrokenPipeError)):
        loop.longest_gap_of(lambda: None)
    loop._process.wait(10.0)


def test_growth_has_a_row_for_each_value_and_a_plot(tmp_path):
    axes = {'cameras': (2,), 'horizon': (20,), 'flow_steps': (10,), 'batch': (1, 2)}
    rows = policy_growth.measure_growth('pi0_tiny', 'cpu', lambda line: None, axes, rounds=1)
    assert [(row['axis'], row['value']) for row in rows] == [
        (axis, value) for axis, values in axes.items() for value in values]
    assert all(row['p50_ms'] > 0 for row in rows)
    plot_latencies(rows, tmp_path / 'new' / 'growth.svg')
    assert '</svg>' in (tmp_path / 'new' / 'growth.svg').read_text()
