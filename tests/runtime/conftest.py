"""Tiny exported policies as fixtures."""

from __future__ import annotations

import numpy as np
import pytest
from release_shop import WAIT_S, Shop
from tiny_releases import reference_chunk, write_release

from fpo_ros.policy.contract import Observation, PolicyContract
from fpo_ros.runtime.admission import PromotedOnly
from fpo_ros.runtime.swap import PolicySlot


@pytest.fixture
def small_contract() -> PolicyContract:
    """A contract with short chunks: 4 rows, 3 of them executed."""
    return PolicyContract(horizon=4, execute=3)


@pytest.fixture
def make_release():
    """Return :func:`write_release`."""
    return write_release


@pytest.fixture
def reference():
    """Return :func:`reference_chunk`."""
    return reference_chunk


@pytest.fixture
def observation() -> Observation:
    """Joints 0, 0.1 .. 1.3 and an object at the origin."""
    return Observation(np.arange(14) * 0.1, object_pose=np.array([0, 0, 0, 1, 0, 0, 0.0]))


@pytest.fixture
def shop(tmp_path, make_release) -> Shop:
    """A store of signed releases."""
    return Shop(tmp_path, make_release)


@pytest.fixture
def slot(shop, small_contract):
    """A slot that serves what this store promoted last."""
    slot = PolicySlot(small_contract, shop.trusted, admit=PromotedOnly(shop.store.path, shop.keys.public_path))
    yield slot
    assert slot.close(WAIT_S), 'the worker thread did not end'
