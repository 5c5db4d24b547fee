"""A cell whose learner the network parts from it; a script, for Fast DDS keeps the interfaces a process began with."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from fault_rig import FaultRig, fault_rig
from fault_table import let_learner_announce
from network import Network, network

from fpo_ros.nodes.graph import GraphError

#: Exit code where network namespaces are not to be had; why is printed.
NOT_HERE = 77


def goes_on(rig: FaultRig, since_s: float) -> None:
    """Assert that the policy moves the arms, within their limits."""
    assert not rig.ended and (rig.motion(time.time() - 0.8).speeds > 0.5).any(), 'the arms go on'
    rig.check_limits(since_s)


def part_and_join(link: Network, directory: Path) -> None:
    """Run the cell on one side and its learner on the other, and part them for a while."""
    with fault_rig(directory) as rig:
        rig.kill('learner')
        with link.inside('b'):
            rig.start()
        let_learner_announce(rig)
        rig.drive()
        parted = time.time()
        link.part()
        with pytest.raises(GraphError):
            rig.client.announce('v000001', 2.0)
        time.sleep(1.0)
        goes_on(rig, parted)
        assert not [text for at, text in rig.health_lines if at > parted + 1.5 and text.startswith('learner')]
        link.join()
        let_learner_announce(rig)
        goes_on(rig, parted)


def main(directory: Path) -> int:
    """Run it; return the exit code."""
    with network() as link:
        if isinstance(link, str):
            print(link)
            return NOT_HERE
        with link.inside('a'):
            part_and_join(link, directory)
    return 0


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1])))
