"""Scripted demonstrations recorded from simulation into an episode store."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable

import numpy as np

from fpo_ros.episodes.errors import EpisodeStoreError
from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning.demonstrations import DIVERGED
from fpo_ros.learning.rollout import renderer_of
from fpo_ros.policy.contract import CONTROL_RATE_HZ, PolicyContract
from fpo_ros.sim.batch import BatchedWorlds, ChunkOutcome
from fpo_ros.sim.expert import expert_for
from fpo_ros.sim.render import BatchRenderer
from fpo_ros.sim.scenes import Scenes, scene_seeds
from fpo_ros.sim.task import SUCCESS_STAGE, sample_object_pose

_NOISE = 'waypoint_noise_std_m'


def recorded_scenes(store: EpisodeStore, contract: PolicyContract, noise_std: float) -> dict[int, bool]:
    """Return scene → success of the expert's episodes that a store holds for a contract; damaged ones do not count.

    :param noise_std: error of every waypoint coordinate of the demonstrator [m].
    """
    found = {}
    for episode_id in store.ids():
        try:
            episode = store.read(episode_id)
        except EpisodeStoreError:
            continue
        meta = episode.meta
        alike = (meta.source == 'expert' and meta.task == contract.task and meta.observation == contract.observation
                 and set(contract.cameras) <= set(episode.cameras) and meta.extra.get(_NOISE) == noise_std)
        if alike and meta.seed is not None:
            found[meta.seed] = bool(meta.success)
    return found


def plans_for(task: str, scenes: Iterable[int], noise_std: float) -> np.ndarray:
    """Return the (N, T, 14) targets of the scripted expert in N scenes, a function of each scene and the error alone.

    :param noise_std: error of every waypoint coordinate [m].
    """
    expert = expert_for(task)
    return np.stack([expert.plan(sample_object_pose(task, int(scene)), np.random.default_rng(int(scene)), noise_std)
                     for scene in scenes])


def record_demonstrations(store: EpisodeStore, contract: PolicyContract, episodes: int, noise_std: float,
                          seed: int = 0, frame_every: int = 5,
                          progress: Callable[[int, int], None] | None = None) -> int:
    """Record the scripted expert in scenes the store does not hold yet; return how many of all scenes succeeded.

    Recording begins when the objects have come to rest. Each episode holds what the policy would have seen before
    each control step and the target sent then.

    :param episodes: scenes in all, those that :func:`recorded_scenes` finds in the store included.
    :param noise_std: error of every waypoint coordinate of the demonstrator [m].
    :param seed: which scenes, and the errors.
    :param frame_every: control steps between camera frames, for a contract with cameras.
    :param progress: called with (episodes done, successes).
    :raises SeedError: for a seed or a number of episodes out of bounds.
    """
    scenes = scene_seeds(Scenes.DEMONSTRATIONS, seed, episodes)
    known = recorded_scenes(store, contract, noise_std)
    successes = sum(known.get(int(scene), False) for scene in scenes)
    missing = [int(scene) for scene in scenes if int(scene) not in known]
    done = episodes - len(missing)
    if not missing:
        return successes
    batch = min(32, len(missing))
    with BatchedWorlds(contract.task, batch) as worlds, renderer_of(contract) as renderer:
        for start in range(0, len(missing), batch):
            some = missing[start:start + batch]
            where = np.arange(len(some))
            plans = plans_for(contract.task, some, noise_std)
            worlds.reset(np.array(some), where)
            worlds.rest(where)
            first = worlds.qpos[where].copy()
            before = worlds.joints()[where], worlds.object_pose()[where]
            outcome = worlds.step(plans, where)
            for row, scene in enumerate(some):
                arrays = _arrays(plans[row], outcome, row, before)
                if contract.cameras:
                    del arrays['object_pose']
                diverged = bool(outcome.diverged[row])
                success = not diverged and bool((outcome.stage[row] == SUCCESS_STAGE).any())
                qpos = np.concatenate([first[row:row + 1], outcome.qpos[row, :-1]])
                extra = {_NOISE: noise_std} | ({DIVERGED: True} if diverged else {})
                store.write(arrays, {
                    'task': contract.task, 'prompt': contract.prompt, 'observation': contract.observation,
                    'source': 'expert', 'seed': scene, 'success': success,
                    'created': datetime.datetime.now(datetime.timezone.utc).isoformat(),
                    'extra': extra}, _frames(contract, renderer, qpos, frame_every))
                successes += success
                done += 1
                if progress:
                    progress(done, successes)
    return successes


def _arrays(plan: np.ndarray, outcome: ChunkOutcome, row: int,
            before: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of an episode: what was measured before each control step, and the target sent then."""
    joints, pose = (np.concatenate([start[row:row + 1], after[row, :-1]])
                    for start, after in zip(before, (outcome.joints, outcome.object_pose), strict=True))
    return {'joint_positions': joints.astype(np.float32), 'object_pose': pose.astype(np.float32),
            'action': plan.astype(np.float32), 'reward': outcome.stage[row].astype(np.float32),
            'timestamp': np.arange(len(plan)) / CONTROL_RATE_HZ}


def _frames(contract: PolicyContract, renderer: BatchRenderer | None, qpos: np.ndarray,
            every: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the contract's pictures of (T, nq) positions, camera → (frames, steps)."""
    if renderer is None:
        return {}
    steps = np.arange(0, len(qpos), every)
    seen = renderer.render_all(qpos[steps])
    return {name: (seen[:, index], steps.astype(np.int32)) for index, name in enumerate(contract.cameras)}
