"""Whole episodes through gym-aloha's own environment and through ours: the same numbers, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from reference import play

from fpo_ros.policy.contract import GRIPPER_COLUMNS, START_JOINTS, TASKS
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.expert import expert_for
from fpo_ros.sim.expert_motion import rotation, with_errors
from fpo_ros.sim.expert_transfer_cube import PICK_PITCH, TransferCubeExpert
from fpo_ros.sim.model import load_model

#: Control steps of an episode.
STEPS = 400
SEEDS = (0, 1, 2)


class LeftGrasp(TransferCubeExpert):
    """Grasps the cube on the table with the left gripper, for which the reward is 3."""

    ENDS = 200

    def waypoints(self, object_pose, noise):
        down = rotation(0.0, PICK_PITCH, 0.0)
        grasp = np.array([*object_pose[:2], 0.022])
        plan = [(90, grasp + [0, 0, 0.08], down, 1.0), (140, grasp, down, 1.0), (180, grasp, down, 0.0)]
        return with_errors({'left': plan, 'right': [(200, np.array([0.3, 0.5, 0.3]), rotation(np.pi, 0.0, 0.0), 1.0)]},
                           noise)


def wander(start: np.ndarray, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Return (steps, 14) targets that walk at random from ``start``."""
    return start + np.cumsum(rng.normal(0, 0.03, (steps, 14)), 0)


def made(task: str, kind: str, seed: int) -> np.ndarray:
    """Return (STEPS, 14) targets of a kind; the same for the same seed."""
    model, rng, expert = load_model(task), np.random.default_rng(seed), expert_for(task)

    def plan(noise: float) -> np.ndarray:
        targets = expert.plan(model.task.sample_object_pose(seed), rng, noise)
        return np.concatenate([targets, np.tile(targets[-1], (STEPS - len(targets), 1))])

    if kind == 'scripted':
        return plan(0.0)
    if kind == 'left':
        expert = LeftGrasp()
        return plan(0.0)
    if kind == 'noisy':
        return plan(0.02)
    if kind == 'mixed':  # scripted until something is in the grippers, then at random
        targets, turn = plan(0.0), int(rng.integers(90, 220))
        targets[turn:] = wander(targets[turn], STEPS - turn, rng)
        return np.clip(targets, model.lower, model.upper)
    if kind == 'snapping':  # scripted arms whose grippers open and close at random
        targets = plan(0.0)
        targets[:, GRIPPER_COLUMNS] = np.repeat(rng.uniform(0, 1, (STEPS // 20, 2)), 20, 0)
        return targets
    if kind == 'wandering':
        return np.clip(wander(START_JOINTS, STEPS, rng), model.lower, model.upper)
    assert kind == 'jumping'  # anywhere within range, ten steps each, arms into table and each other
    return np.repeat(rng.uniform(model.lower, model.upper, (STEPS // 10, 14)), 10, 0)


KINDS = {'scripted': SEEDS, 'noisy': SEEDS, 'mixed': SEEDS, 'snapping': (0,), 'wandering': (0,), 'jumping': (0,)}
#: A scene whose cube the left gripper reaches.
LEFT = ('left', 10)
SEQUENCES = [(kind, seed) for kind, seeds in KINDS.items() for seed in seeds]


@pytest.fixture(scope='module', params=TASKS)
def episodes(request):
    """Return the task, M kinds and seeds, and what became of them: ours in chunks of 20, and gym-aloha's."""
    sequences = SEQUENCES + [LEFT] * (request.param == 'transfer_cube')
    actions = np.stack([made(request.param, kind, seed) for kind, seed in sequences])
    seeds = np.array([seed for _, seed in sequences])
    with BatchedWorlds(request.param, len(actions)) as worlds:
        worlds.reset(seeds)
        chunks = [worlds.step(actions[:, start:start + 20]) for start in range(0, STEPS, 20)]
    ours = [np.concatenate([getattr(chunk, name) for chunk in chunks], 1) for name in ('qpos', 'stage', 'joints')]
    theirs = [play(request.param, int(seed), row) for seed, row in zip(seeds, actions, strict=True)]
    return request.param, sequences, ours, theirs


def test_positions_rewards_and_joints_are_those_of_gym_aloha_bit_for_bit(episodes):
    _, sequences, ours, theirs = episodes
    for row, sequence in enumerate(sequences):
        for name, mine, reference in zip(('qpos', 'reward', 'joints'), ours, theirs[row], strict=True):
            differs = np.flatnonzero((mine[row] != reference).reshape(STEPS, -1).any(1))
            assert not len(differs), f'{name} of {sequence} differ from control step {differs[0]} on'


def test_the_sequences_are_rich_in_contacts(episodes):
    rewards = np.stack([reference[1] for reference in episodes[3]])
    assert (rewards.max(1) > 0).mean() > 0.5, 'most sequences touch an object'
    assert set(range(5)) <= set(rewards.astype(int).ravel().tolist()), 'every reward occurs'
    assert (rewards.max(1) == 4).sum() >= 3 and (rewards.max(1) < 4).sum() >= 3, 'some succeed, some do not'


def test_clipping_does_what_gym_aloha_does_with_actions_out_of_range(episodes):
    task = episodes[0]
    actions = START_JOINTS + 2.5 * (made(task, 'wandering', 1) - START_JOINTS)
    model = load_model(task)
    assert ((actions < model.lower) | (actions > model.upper)).mean() > 0.05
    with BatchedWorlds(task, 1, out_of_range='clip') as worlds:
        worlds.reset(np.array([5]))
        ours = worlds.step(actions[None])
    positions, rewards, _ = play(task, 5, actions)
    assert np.array_equal(ours.qpos[0], positions) and np.array_equal(ours.stage[0], rewards)
