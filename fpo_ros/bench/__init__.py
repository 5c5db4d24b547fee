"""Benchmarks: each figure beside that of a named baseline, measured in the same run."""

from fpo_ros.gl import select_backend

# Before anything imports mujoco, which chooses its GL backend then.
select_backend()
