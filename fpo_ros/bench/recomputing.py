"""The baseline without a cache: prefix and state are computed anew at every denoising step, in the same runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.contract import Observation
from fpo_ros.policy.transforms import model_inputs, targets_of
from fpo_ros.runtime.export_graphs import write_step
from fpo_ros.runtime.providers import REFIT, open_graph
from fpo_ros.runtime.release_files import PREFIX_FILE


def bare(provider: str) -> str:
    """Return the provider of onnxruntime beside which a session on ``provider`` is measured."""
    return 'tensorrt' if provider == REFIT else provider


class Recomputing:
    """Samples chunks with one run of the prefix graph and of a step's graph per step.

    :param policy: the policy in torch, without an actor over its start noise.
    :param root: directory whose ``staging`` holds its export; the step's graph is written beside.
    :param provider: what runs the session; :func:`bare` says what runs both graphs.
    """

    def __init__(self, policy: FlowPolicy, root: Path, provider: str) -> None:
        self.policy = policy
        write_step(policy.model, root / 'step.onnx')
        self._prefix, self._step = (open_graph(path, path, bare(provider))
                                    for path in (root / 'staging' / PREFIX_FILE, root / 'step.onnx'))

    def infer_of(self, observation: Observation) -> Callable[[np.ndarray], np.ndarray]:
        """Return what makes a (horizon, 14) chunk of (horizon, action_dim) noise."""
        policy, contract = self.policy, self.policy.contract
        tokens, steps = policy.tokens.numpy(), contract.flow_steps
        joints = observation.joint_positions[None]

        def infer(noise: np.ndarray) -> np.ndarray:
            inputs, x = model_inputs(observation, contract, policy.stats), noise[None].copy()
            state = {'state': inputs.pop('state')}
            for index in range(steps):
                prefix = self._prefix.run(None, {'tokens': tokens, **inputs})[0]
                time = np.array([1 - index / steps], np.float32)
                x -= self._step.run(None, {'x_t': x, 'time': time, 'prefix_kv': prefix, **state})[0] / steps
            return targets_of(policy.stats.unnormalise_action(x), joints, contract)[0].astype(np.float32)

        return infer
