"""The ROS 2 graph: thin lifecycle nodes, its one description, and clients."""
