"""Reward, start positions and conversions of the simulated task."""

from __future__ import annotations

import gym_aloha.constants as aloha
import mujoco
import numpy as np
import pytest
from gym_aloha.utils import sample_box_pose, sample_insertion_pose
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fpo_ros.policy.contract import START_JOINTS, TASKS
from fpo_ros.sim.batch import BatchedWorlds, hold_targets
from fpo_ros.sim.model import load_model, task_xml
from fpo_ros.sim.task import UnknownTaskError, sample_object_pose, task_of
from fpo_ros.sim.world import World


def judged(task: str, gripper: float = 1.0, **touching: int) -> tuple[int, bool]:
    """Return stage and strict success with the named contacts and the right gripper at a value."""
    model = load_model(task)
    sensors = np.zeros(model.mj.nsensordata)
    for name, count in touching.items():
        sensors[model.mj.sensor(f'{name}/0').adr[0]] = count
    joints = np.where(np.arange(14) == 13, gripper, START_JOINTS)
    stage, strict = model.judge(sensors, model.start_qpos(sample_object_pose(task, 0), joints))
    return int(stage), bool(strict)


@pytest.mark.parametrize('contacts', [1, 3])
@pytest.mark.parametrize(('left', 'right', 'table', 'arm', 'stage', 'alone'), [
    (0, 0, 0, 0, 0, False), (0, 0, 1, 0, 0, False), (0, 1, 1, 1, 1, False), (0, 1, 0, 1, 2, False),
    (1, 0, 1, 0, 3, False), (1, 1, 1, 1, 3, False), (1, 1, 0, 1, 4, False), (1, 0, 0, 0, 4, True),
    # The right arm touches with something else than the finger that gym-aloha looks at.
    (0, 0, 0, 1, 0, False), (0, 0, 1, 1, 0, False), (1, 0, 1, 1, 3, False), (1, 0, 0, 1, 4, False)])
def test_stage_of_every_combination_of_contacts_of_the_cube(left, right, table, arm, stage, alone, contacts):
    found = {'box_left_finger': left, 'box_right_finger': right, 'box_table': table, 'box_right_arm': arm}
    found = {name: contacts * value for name, value in found.items()}
    assert judged('transfer_cube', **found) == (stage, alone)
    assert judged('transfer_cube', gripper=0.3, **found) == (stage, False), 'the right gripper is not open'


@pytest.mark.parametrize(('peg_right', 'socket_left', 'peg_table', 'socket_table', 'touch', 'pin', 'stage', 'strict'), [
    (0, 0, 0, 0, 0, 0, 0, False), (1, 0, 1, 1, 0, 0, 0, False), (0, 1, 0, 0, 0, 0, 0, False),
    (1, 1, 1, 1, 0, 0, 1, False), (1, 1, 0, 1, 0, 0, 1, False), (1, 1, 1, 0, 1, 0, 1, False),
    (1, 1, 0, 0, 0, 0, 2, False), (1, 1, 0, 0, 1, 0, 3, False), (0, 0, 0, 0, 1, 0, 3, False),
    (0, 0, 1, 1, 0, 1, 4, False), (1, 1, 0, 0, 1, 1, 4, True), (1, 0, 0, 0, 1, 1, 4, False),
    (1, 1, 1, 0, 1, 1, 4, False)])
def test_stage_of_combinations_of_contacts_of_peg_and_socket(peg_right, socket_left, peg_table, socket_table, touch,
                                                             pin, stage, strict):
    assert judged('insertion', peg_right_finger=peg_right, socket_left_finger=socket_left, peg_table=peg_table,
                  socket_table=socket_table, peg_socket=touch, peg_pin=pin) == (stage, strict)


@pytest.mark.parametrize('seed', [0, 1, 7, 900_000, 1_000_199, 2**32 - 1])
def test_object_starts_where_gym_aloha_puts_it(seed):
    np.testing.assert_array_equal(sample_object_pose('transfer_cube', seed), sample_box_pose(seed))
    np.testing.assert_array_equal(sample_object_pose('insertion', seed), np.concatenate(sample_insertion_pose(seed)))


@pytest.mark.parametrize('task', TASKS)
def test_start_positions_are_those_of_gym_aloha(task):
    pose, model = sample_object_pose(task, 3), load_model(task)
    np.testing.assert_array_equal(model.start_qpos(pose), [*aloha.START_ARM_POSE, *pose])
    np.testing.assert_array_equal(model.joints_of(model.start_qpos(pose)), START_JOINTS)
    np.testing.assert_array_equal(model.object_pose_of(model.start_qpos(pose)), pose)


@given(arrays(np.float64, (3, 14), elements=st.floats(-3, 3)))
def test_controls_and_joints_are_inverse_and_fingers_mirror(targets):
    model = load_model('transfer_cube')
    controls = model.controls_of(targets)
    np.testing.assert_allclose(model.joints_of(np.concatenate([controls, np.zeros((3, 7))], 1)), targets, atol=1e-9)
    np.testing.assert_array_equal(controls[:, [6, 14]], -controls[:, [7, 15]])
    np.testing.assert_allclose(
        controls[:, 6], aloha.unnormalize_puppet_gripper_position(targets[:, 6]), atol=1e-12
    )


@pytest.mark.parametrize(
    'use',
    [
        load_model,
        task_xml,
        task_of,
        World,
        lambda task: sample_object_pose(task, 0),
        lambda task: BatchedWorlds(task, 1),
    ],
)
def test_unknown_tasks_are_refused_with_the_known_ones(use):
    with pytest.raises(UnknownTaskError, match="unknown task 'juggle': known tasks are transfer_cube"):
        use('juggle')


def test_model_has_a_contact_sensor_per_part_and_a_tool_site_per_arm():
    model = load_model('transfer_cube')
    assert model.mj.opt.timestep == pytest.approx(0.002) and model.mj.nu == 16
    data = mujoco.MjData(model.mj)
    data.qpos[:] = model.start_qpos(sample_object_pose('transfer_cube', 0))
    mujoco.mj_forward(model.mj, data)
    for side in ('left', 'right'):
        tool = data.site(f'{side}/tool').xpos
        fingers = [
            data.geom(f'vx300s_{side}/10_{finger}_gripper_finger').xpos for finger in ('left', 'right')
        ]
        assert np.linalg.norm(tool - np.mean(fingers, 0)) < 0.06, 'the tool point lies between the fingers'


@pytest.mark.parametrize('part', ['10_left_gripper_finger', '9_gripper_bar', '7_gripper', '4_upper_forearm'])
def test_every_part_of_the_right_arm_is_felt_apart_from_the_finger_of_the_reward(part):
    world = World('transfer_cube', seed=0)
    world.set_targets(np.where(np.arange(14) % 7 == 6, 1.0, START_JOINTS))
    world.step(300)
    fingers = [world.data.geom(f'vx300s_right/10_{side}_gripper_finger').xpos for side in ('left', 'right')]
    outward = (fingers[0] - fingers[1]) / np.linalg.norm(fingers[0] - fingers[1])
    # Not right at a mesh's centre, where MuJoCo's collision detection finds no direction.
    away = 0.03 if 'finger' in part else 0.005
    world.data.qpos[world.model.object_qpos[:3]] = world.data.geom(f'vx300s_right/{part}').xpos + away * outward
    mujoco.mj_forward(world.mj, world.data)
    assert world.model.touching(world.data.sensordata) == {
        'box_left_finger': False, 'box_right_finger': False, 'box_table': False, 'box_right_arm': True}


def test_held_targets_repeat_the_last_one():
    last = np.arange(28.0).reshape(2, 14)
    held = hold_targets(last, 3)
    assert held.shape == (2, 3, 14) and all(np.array_equal(held[:, row], last) for row in range(3))
