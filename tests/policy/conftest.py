"""Networks small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sizes import TINY

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import Pi0Config
from fpo_ros.policy.contract import ACTION_DIM, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0

torch.set_num_threads(1)

def tiny_policy(observation: str = 'state', seed: int = 0, sizes: Pi0Config = TINY, **contract: object) -> FlowPolicy:
    """Return an untrained policy whose norms and statistics differ from the neutral ones."""
    torch.manual_seed(seed)
    values = {
        'horizon': 5,
        'execute': 3,
        'image_height': 16,
        'image_width': 24,
        'flow_steps': 4,
        'cameras': ('cam_high', 'cam_low') if observation == 'pixels' else (),
    } | contract
    contract = PolicyContract(observation=observation, **values)
    model = Pi0(sizes, contract)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'layernorm' in name or name.endswith('norm.weight'):
                parameter.add_(0.3 * torch.randn_like(parameter))
    rng = np.random.default_rng(seed)
    size = contract.state_dim
    stats = NormStats(
        rng.normal(size=size),
        rng.uniform(0.5, 2, size),
        rng.normal(size=ACTION_DIM),
        rng.uniform(0.5, 2, ACTION_DIM),
    )
    return FlowPolicy(model, stats)


@pytest.fixture(scope='session')
def make_policy():
    """Return :func:`tiny_policy`."""
    return tiny_policy
