"""A network that parts the learner from the cell, in network namespaces of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fault_rig import FaultRig, fault_rig  # noqa: E402
from fault_table import let_learner_announce  # noqa: E402
from network import Network, network  # noqa: E402

from fpo_ros.nodes.graph import GraphError  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]


@pytest.fixture
def link() -> Iterator[Network]:
    """Two sides of a network; the test is on side a."""
    with network() as made:
        if isinstance(made, str):
            pytest.skip(made)
        with made.inside('a'):
            yield made


def test_arms_go_on_while_the_network_parts_the_learner_from_the_cell(link, tmp_path) -> None:
    with fault_rig(tmp_path) as rig:
        rig.kill('learner')
        with link.inside('b'):
            rig.start()
        let_learner_announce(rig)
        rig.drive()
        parted = time.time()
        link.part()
        with pytest.raises(GraphError, match='announce|answer|waited'):
            rig.client.announce('v000001', 2.0)
        time.sleep(1.0)
        _goes_on(rig, parted)
        assert not [text for at, text in rig.health_lines if at > parted + 1.5 and text.startswith('learner')]
        link.join()
        let_learner_announce(rig)
        _goes_on(rig, parted)


def _goes_on(rig: FaultRig, since_s: float) -> None:
    assert not rig.ended and (rig.motion(time.time() - 0.8).speeds > 0.5).any(), 'the arms go on'
    rig.check_limits(since_s)
