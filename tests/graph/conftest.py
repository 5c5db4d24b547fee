"""A running graph with tiny signed releases, shared by the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_releases import Releases, waist_at


@pytest.fixture(scope='session', autouse=True)
def own_domain() -> Iterator[None]:
    """Look for other graphs for a moment only: nobody else is in the domain of a test process."""
    from fpo_ros.nodes import up  # needs ROS 2, without which every module of this folder is skipped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(up, 'DISCOVERY_S', 0.5)
        yield


@pytest.fixture(scope='module')
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """A store with v000001, which stands still, and v000002, which turns the left waist to 0.1 rad."""
    store = Releases.make(tmp_path_factory.mktemp('releases'))
    store.publish(waist_at(0.0))
    store.publish(waist_at(0.1))
    return store
