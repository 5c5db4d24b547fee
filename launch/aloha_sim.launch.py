"""A simulated ALOHA cell: ``ros2 launch fpo_ros aloha_sim.launch.py`` (``-s`` lists the arguments)."""

from fpo_ros.nodes.launching import launch_description


def generate_launch_description():
    """Return what starts the cell."""
    return launch_description('sim')
