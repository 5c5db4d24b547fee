"""Batched and single worlds against each other and against gym-aloha's own task."""

from __future__ import annotations

import numpy as np
import pytest
from reference import play

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim import batch
from fpo_ros.sim.actions import ActionError
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.task import sample_object_pose
from fpo_ros.sim.world import World

LIMITS = JointLimits()
SCENE = load_model('transfer_cube')


def wander(worlds: int, steps: int, seed: int = 0) -> np.ndarray:
    """Return (worlds, steps, 14) random targets within the limits."""
    rng = np.random.default_rng(seed)
    targets = START_JOINTS + np.cumsum(rng.normal(0, 0.03, (worlds, steps, 14)), 1)
    return LIMITS.apply(np.tile(START_JOINTS, (worlds, 1)), targets, 0.02)


def test_trajectories_do_not_depend_on_the_number_of_worlds_or_threads():
    targets, seeds = wander(5, 30), np.arange(5)
    seen = []
    for count, threads in ((5, 1), (5, 2), (1, 1), (1, 2)):
        parts = []
        with BatchedWorlds('transfer_cube', count, threads=threads) as worlds:
            for first in range(0, 5, count):
                rows = slice(first, first + count)
                worlds.reset(seeds[rows])
                outcomes = [worlds.step(targets[rows, start:start + 15]) for start in (0, 15)]
                parts.append(np.concatenate([outcome.qpos for outcome in outcomes], 1))
                assert np.array_equal(worlds.joints(), outcomes[-1].joints[:, -1])
        seen.append(np.concatenate(parts))
    assert all(np.array_equal(seen[0], other) for other in seen[1:])
    assert np.abs(seen[0] - seen[0][:1]).max() > 0.01, 'worlds differ from each other'


def test_chunks_of_any_length_give_the_trajectory_of_single_steps_bit_for_bit(noisy_plans):
    seeds, trajectories = np.arange(len(noisy_plans)), {}
    for length in (20, 50, 250):
        with BatchedWorlds('transfer_cube', len(seeds)) as worlds:
            worlds.reset(seeds)
            outcomes = [worlds.step(noisy_plans[:, start:start + length]) for start in range(0, 250, length)]
        trajectories[length] = [np.concatenate([getattr(outcome, name) for outcome in outcomes], 1)
                                for name in ('qpos', 'stage', 'strict')]
    for length in (20, 50):
        for mine, whole in zip(trajectories[length], trajectories[250], strict=True):
            assert np.array_equal(mine, whole), f'chunks of {length} rows'
    assert trajectories[20][1].max() >= 1, 'the case needs contact with the cube'
    for seed in seeds:
        assert np.array_equal(trajectories[20][0][seed], play('transfer_cube', seed, noisy_plans[seed])[0])


def test_a_process_steps_with_the_cores_it_may_use(monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0, 3, 5})
    used = []
    plain = batch.ThreadPoolExecutor
    monkeypatch.setattr(batch, 'ThreadPoolExecutor', lambda count: used.append(count) or plain(count))
    BatchedWorlds('transfer_cube', 1).close()
    BatchedWorlds('transfer_cube', 1, threads=2).close()
    assert used == [3, 2]


def test_worlds_that_are_not_stepped_stay_and_can_be_reset_alone():
    with BatchedWorlds('transfer_cube', 3) as worlds:
        worlds.reset(np.array([4, 5, 6]))
        before = worlds.qpos.copy()
        worlds.step(wander(2, 5), np.array([0, 2]))
        assert np.array_equal(worlds.qpos[1], before[1])
        assert not np.array_equal(worlds.qpos[0], before[0]) and not np.array_equal(worlds.qpos[2], before[2])
        worlds.reset(np.array([4]), np.array([0]))
        assert np.array_equal(worlds.qpos[0], before[0]) and np.array_equal(
            worlds.last_target[0], START_JOINTS
        )


def test_a_reset_world_repeats_its_trajectory():
    targets = wander(1, 15)
    with BatchedWorlds('transfer_cube', 1) as worlds:
        runs = []
        for _ in range(2):
            worlds.reset(np.array([9]))
            runs.append(worlds.step(targets).qpos)
    assert np.array_equal(*runs)


def test_a_single_world_agrees_with_the_batch_over_a_hundred_control_steps(plans):
    world = World('transfer_cube', seed=0)
    with BatchedWorlds('transfer_cube', 1) as worlds:
        worlds.reset(np.array([0]))
        outcome = worlds.step(plans[:1, :100])
    stages = []
    for step in range(100):
        world.set_targets(plans[0, step])
        world.step(SUBSTEPS)
        assert np.array_equal(world.joints(), outcome.joints[0, step])
        assert np.array_equal(world.object_pose(), outcome.object_pose[0, step])
        stages.append(world.stage())
    assert stages == outcome.stage[0].tolist()
    assert max(stages) >= 1, 'the right gripper touches the cube within these steps'


def test_a_single_world_refuses_bad_targets_and_begins_anew():
    world = World('transfer_cube', seed=1)
    for bad, why in ((np.zeros(13), r'shape \(13,\), expected \(14\)'),
                     (np.full(14, np.nan), 'not finite: left_waist')):
        with pytest.raises(ActionError, match=why):
            world.set_targets(bad)
    assert np.array_equal(world.targets, START_JOINTS)
    world.reset(1)
    assert np.array_equal(world.object_pose(), sample_object_pose('transfer_cube', 1)) and not world.success
