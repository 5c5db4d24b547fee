"""A real ALOHA cell: ``ros2 launch fpo_ros aloha_real.launch.py`` (``-s`` lists the arguments).

Starts both followers' Interbotix drivers, the RealSense cameras and the graph. The arms do not move until an
episode is asked for. Support them before you end it: they have no brakes.
"""

from fpo_ros.nodes.launching import launch_description


def generate_launch_description():
    """Return what starts the cell."""
    return launch_description('real')
