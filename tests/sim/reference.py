"""gym-aloha's own environment, for comparison with ours."""

from __future__ import annotations

import numpy as np
from gym_aloha.env import AlohaEnv


def play(task: str, seed: int, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Play (T, 14) actions through gym-aloha's environment, whose pictures alone are left out.

    :returns: (T, nq) generalised positions, (T,) rewards and (T, 14) ``agent_pos`` after each control step.
    """
    env = AlohaEnv(task, obs_type='pixels_agent_pos')
    physics = env._env.physics
    physics.render = lambda **_: np.zeros((1, 1, 3), np.uint8)
    env.reset(seed=int(seed))
    positions, rewards, joints = [], [], []
    for action in actions:
        observation, reward, *_ = env.step(action)
        positions.append(physics.data.qpos.copy())
        rewards.append(reward)
        joints.append(observation['agent_pos'])
    return np.array(positions), np.array(rewards), np.array(joints)
