"""Scripted demonstrations recorded from simulation into an episode store."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import numpy as np

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning.evaluate import renderer_of
from fpo_ros.policy.contract import CONTROL_RATE_HZ, PolicyContract
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.expert import TransferCubeExpert
from fpo_ros.sim.task import SUCCESS_STAGE, sample_object_pose

#: Scene seeds of demonstrations start here, apart from those of fine-tuning and of evaluation.
DEMONSTRATION_SEED = 900_000


def record_demonstrations(store: EpisodeStore, contract: PolicyContract, episodes: int, noise_std: float,
                          seed: int = 0, frame_every: int = 5,
                          progress: Callable[[int, int], None] | None = None) -> int:
    """Record episodes of the scripted expert; return how many succeeded.

    Each episode holds what the policy would have seen before each control step and the target sent then.

    :param noise_std: error of every waypoint coordinate of the demonstrator [m].
    :param frame_every: control steps between camera frames, for a contract with cameras.
    :param progress: called with (episodes done, successes).
    """
    expert = TransferCubeExpert()
    successes, batch = 0, min(32, episodes)
    with BatchedWorlds(contract.task, batch) as worlds, renderer_of(contract) as renderer:
        for start in range(0, episodes, batch):
            seeds = DEMONSTRATION_SEED + seed * 10_000 + np.arange(start, min(episodes, start + batch))
            where = np.arange(len(seeds))
            plans = np.stack([expert.plan(sample_object_pose(contract.task, int(scene)),
                                          np.random.default_rng(scene), noise_std) for scene in seeds])
            worlds.reset(seeds, where)
            first = worlds.qpos[where].copy()
            before_joints, before_pose = worlds.joints()[where], worlds.object_pose()[where]
            outcome = worlds.step(plans, where)
            joints = np.concatenate([before_joints[:, None], outcome.joints[:, :-1]], 1)
            poses = np.concatenate([before_pose[:, None], outcome.object_pose[:, :-1]], 1)
            frames_at = np.arange(0, plans.shape[1], frame_every)
            for row, scene in enumerate(seeds):
                success = bool((outcome.stage[row] == SUCCESS_STAGE).any())
                successes += success
                arrays = {'joint_positions': joints[row].astype(np.float32), 'action': plans[row].astype(np.float32),
                          'reward': outcome.stage[row].astype(np.float32),
                          'timestamp': np.arange(plans.shape[1]) / CONTROL_RATE_HZ}
                images = None
                if contract.cameras:
                    qpos = np.concatenate([first[row:row + 1], outcome.qpos[row, :-1]])[frames_at]
                    seen = renderer.render_all(qpos)
                    images = {name: (seen[:, index], frames_at.astype(np.int32))
                              for index, name in enumerate(contract.cameras)}
                else:
                    arrays['object_pose'] = poses[row].astype(np.float32)
                store.write(arrays, {
                    'task': contract.task, 'prompt': contract.prompt, 'observation': contract.observation,
                    'source': 'expert', 'seed': int(scene), 'success': success,
                    'created': datetime.datetime.now(datetime.timezone.utc).isoformat(),
                    'extra': {'waypoint_noise_std_m': noise_std}}, images)
                if progress:
                    progress(start + row + 1, successes)
    return successes
