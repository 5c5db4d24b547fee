"""Batched and single worlds against each other and against gym-aloha's own task."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from gym_aloha.constants import START_ARM_POSE
from gym_aloha.tasks.sim import TransferCubeTask
from gym_aloha.utils import sample_box_pose

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim import batch
from fpo_ros.sim.actions import ActionError
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.expert import InverseKinematicsError, TransferCubeExpert
from fpo_ros.sim.model import SUBSTEPS, load_model, task_xml
from fpo_ros.sim.task import SUCCESS_STAGE, sample_object_pose
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


def mj_steps(seed: int, plan: np.ndarray) -> np.ndarray:
    """Return (T, nq) positions of gym-aloha's own model stepped as dm_control steps it."""
    physics = Physics()
    physics.data.qpos[:] = SCENE.start_qpos(sample_object_pose('transfer_cube', seed))
    mujoco.mj_forward(physics.model_, physics.data)
    seen = []
    for target in plan:
        physics.set_control(SCENE.controls_of(target))
        physics.step(SUBSTEPS)
        seen.append(physics.data.qpos.copy())
    return np.array(seen)


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
        assert np.array_equal(trajectories[20][0][seed], mj_steps(seed, noisy_plans[seed]))


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


class Physics:
    """What gym-aloha's task asks of dm_control's physics, on its own model without additions.

    dm_control is not used itself: its releases fit single releases of MuJoCo only.
    """

    def __init__(self) -> None:
        self.model_ = mujoco.MjModel.from_xml_path(str(task_xml('transfer_cube')))
        self.data = mujoco.MjData(self.model_)
        self.model = self

    def id2name(self, index: int, kind: str) -> str:
        assert kind == 'geom'
        return self.model_.geom(index).name

    def set_control(self, control: np.ndarray) -> None:
        self.data.ctrl[:] = control

    def step(self, substeps: int) -> None:
        """Advance as dm_control does for Euler integration: contacts belong to the state reached."""
        mujoco.mj_step2(self.model_, self.data)
        for _ in range(substeps - 1):
            mujoco.mj_step(self.model_, self.data)
        mujoco.mj_step1(self.model_, self.data)


def gym_aloha_rewards(seed: int, plan: np.ndarray) -> np.ndarray:
    """Return the rewards of gym-aloha's own TransferCube task along a plan."""
    task, physics = TransferCubeTask(random=False), Physics()
    physics.data.qpos[:16] = START_ARM_POSE
    physics.data.ctrl[:] = START_ARM_POSE
    physics.data.qpos[-7:] = sample_box_pose(seed)
    mujoco.mj_forward(physics.model_, physics.data)
    rewards = []
    for target in plan:
        task.before_step(target, physics)
        physics.step(SUBSTEPS)
        rewards.append(task.get_reward(physics))
    return np.array(rewards)


@pytest.fixture(scope='module')
def scripted(plans):
    """Return plans and stages: two good ones, one with a closed left gripper, one of another scene."""
    chosen = plans[[0, 1, 2, 3]].copy()
    chosen[2, :, 6] = 0.0
    chosen[3] = plans[4]
    with BatchedWorlds('transfer_cube', 4) as worlds:
        worlds.reset(np.arange(4))
        return chosen, worlds.step(chosen).stage


@pytest.mark.parametrize('row', range(4))
def test_rewards_and_first_success_are_those_of_gym_aloha(scripted, row):
    plan, stage = scripted[0][row], scripted[1][row]
    expected = gym_aloha_rewards(row, plan)
    assert np.array_equal(stage, expected)
    first = [
        int(np.argmax(values == SUCCESS_STAGE)) if (values == SUCCESS_STAGE).any() else None
        for values in (stage, expected)
    ]
    assert first[0] == first[1]
    if row < 2:
        assert first[0] is not None and set(range(5)) - {3} <= set(stage.tolist())
    if row == 3:
        assert first[0] is None and stage.max() < 4, 'this plan is made for another scene and misses'


def test_expert_succeeds_on_nearly_every_scene(plans):
    with BatchedWorlds('transfer_cube', 20) as worlds:
        worlds.reset(np.arange(20))
        outcome = worlds.step(plans)
    assert (outcome.stage == SUCCESS_STAGE).any(1).sum() >= 19
    assert outcome.strict.any(1).sum() >= 19, 'the left gripper ends up holding the cube alone'


def test_plans_with_errors_keep_position_and_speed_limits(noisy_plans, plans):
    for some in (noisy_plans, plans):
        assert np.isfinite(some).all() and (some >= LIMITS.lower).all() and (some <= LIMITS.upper).all()
        steps = np.diff(np.concatenate([np.broadcast_to(START_JOINTS, (len(some), 1, 14)), some], 1), axis=1)
        assert (np.abs(steps) <= LIMITS.speed * 0.02 + 1e-9).all()
    assert np.abs(noisy_plans - plans[:6]).max() > 0.05


def test_plans_repeat_with_the_seed(expert, noisy_plans):
    again = expert.plan(sample_object_pose('transfer_cube', 0), np.random.default_rng(0), 0.03)
    assert np.array_equal(again, noisy_plans[0])


def test_a_cube_out_of_reach_is_an_error_that_says_how_far():
    with pytest.raises(InverseKinematicsError, match='right arm cannot reach .* mm short'):
        TransferCubeExpert().plan(np.array([0.0, 3.0, 0.05, 1, 0, 0, 0]), np.random.default_rng(0))
