"""Teleoperation of a real ALOHA cell: ``ros2 launch fpo_ros teleop.launch.py`` (``-s`` lists the arguments).

What aloha_real.launch.py starts, with both leaders and their drivers. Squeeze both leader grippers while the arms hold
to drive them; ``use_twin:=true`` tries it with simulated arms.
"""

from fpo_ros.nodes.launching import launch_description


def generate_launch_description():
    """Return what starts the cell."""
    return launch_description('real', teleop='true')
