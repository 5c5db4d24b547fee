"""The exported policy on the robot: inference, hot swap, chunk execution, safety (no torch, no ROS)."""
