"""The driver twin: plays the arms' and cameras' drivers from MuJoCo, in real time."""

from __future__ import annotations

import sys

from fpo_ros import gl


def main() -> int:
    """Run the node."""
    gl.select_backend()  # before anything imports mujoco
    from fpo_ros.nodes.running import run_node
    from fpo_ros.sim.twin.node import DriverTwin

    return run_node(DriverTwin)


if __name__ == '__main__':
    sys.exit(main())
