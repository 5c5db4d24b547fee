"""Scenes, and rollouts that are compared bit for bit."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from fpo_ros.learning.rollout import Rollout
from fpo_ros.learning.scale import EpisodeOptions

SCENES = np.array([7, 3, 900_001, 11, 5, 2, 1_000_000, 13, 17, 19])
OPTIONS = EpisodeOptions(noise_seed=3)


def assert_equal(got: Rollout, wanted: Rollout) -> None:
    """Compare every array bit for bit."""
    for field in fields(Rollout):
        one, other = np.asarray(getattr(got, field.name)), np.asarray(getattr(wanted, field.name))
        assert one.dtype == other.dtype and np.array_equal(one, other), field.name


def of_scenes(rollout: Rollout, where: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of some episodes, the prefix left out."""
    return {field.name: np.asarray(getattr(rollout, field.name))[where] for field in fields(Rollout)
            if field.name != 'prefix_kv'}
