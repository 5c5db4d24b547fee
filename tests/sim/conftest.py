"""Plans of the scripted expert, solved once."""

from __future__ import annotations

import numpy as np
import pytest

from fpo_ros.sim.expert import TransferCubeExpert
from fpo_ros.sim.task import sample_object_pose

#: Standard deviation of the demonstrator's waypoints in the demo [m].
NOISE_M = 0.03


@pytest.fixture(scope='session')
def expert() -> TransferCubeExpert:
    """Return the scripted expert."""
    return TransferCubeExpert()


@pytest.fixture(scope='session')
def plans(expert) -> np.ndarray:
    """Return (20, 250, 14) perfect plans for seeds 0 to 19."""
    return np.stack([expert.plan(sample_object_pose('transfer_cube', seed), np.random.default_rng(seed))
                     for seed in range(20)])


@pytest.fixture(scope='session')
def noisy_plans(expert) -> np.ndarray:
    """Return (6, 250, 14) plans with the demonstrator's errors for seeds 0 to 5."""
    return np.stack(
        [
            expert.plan(sample_object_pose('transfer_cube', seed), np.random.default_rng(seed), NOISE_M)
            for seed in range(6)
        ]
    )
