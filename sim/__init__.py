"""ALOHA simulation: the tasks of gym-aloha on MuJoCo, batched rollouts, rendering and a scripted expert."""

from fpo_ros.gl import select_backend
from fpo_ros.sim.registration import register_environments

# MuJoCo chooses its GL backend when it is first imported; without a choice it wants a display.
select_backend()
register_environments()
