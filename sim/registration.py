"""The ids by which ``gymnasium.make`` and ``gymnasium.make_vec`` know the tasks.

gymnasium 1 reads no entry points of installed packages: ``import fpo_ros.sim`` registers them, and so does
``gymnasium.make('fpo_ros.sim:fpo_ros/TransferCube-v0')``, which imports it.
"""

from __future__ import annotations

import gymnasium

from fpo_ros.sim.task import MAX_STEPS

#: Task → id.
IDS = {'transfer_cube': 'fpo_ros/TransferCube-v0', 'insertion': 'fpo_ros/Insertion-v0'}


def register_environments() -> None:
    """Register what is not registered yet; nothing of MuJoCo is imported."""
    for task, name in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point='fpo_ros.sim.gym_env:AlohaEnv',
                               vector_entry_point='fpo_ros.sim.vector_env:AlohaVectorEnv',
                               max_episode_steps=MAX_STEPS, kwargs={'task': task})
