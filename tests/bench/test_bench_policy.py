"""``fpo-ros bench policy``: an exported policy beside torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fpo_ros.bench import policy
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.runtime.session import PolicySession


def test_the_ratio_is_that_of_the_two_durations_and_threads_are_as_before():
    before = torch.get_num_threads()
    found = policy.measure(2)
    assert found['speed_up_over_torch'] == found['torch_ms_per_chunk'] / found['onnx_ms_per_chunk'] > 0
    assert torch.get_num_threads() == before


def test_policies_of_several_objects_are_measured_too():
    assert policy.measure(1, policy.untrained(PolicyContract(task='insertion')))['onnx_ms_per_chunk'] > 0


def test_a_session_that_computes_something_else_is_not_compared(monkeypatch):
    plain = PolicySession.infer
    monkeypatch.setattr(PolicySession, 'infer', lambda *arguments: plain(*arguments) + np.float32(0.01))
    with pytest.raises(RuntimeError, match='did not compute the same'):
        policy.measure(1)
