"""Analysis of what policies draw: the chunks of their decisions as points, in numbers and figures."""

from fpo_ros.gl import select_backend

# Before anything imports mujoco, which chooses its GL backend then.
select_backend()
