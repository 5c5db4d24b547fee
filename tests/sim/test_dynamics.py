"""Worlds with physics of their own: the same as models that MuJoCo compiled for each."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from randomised import ALL, PHYSICS, compiled, stepped, wander

from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.dynamics import Dynamics, change_model, half_extent, model_arrays, start_pose
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.randomisation import Randomisation
from fpo_ros.sim.task import SUCCESS_STAGE, sample_object_pose

TASKS = ('transfer_cube', 'insertion')


def differing(one: mujoco.MjModel, other: mujoco.MjModel) -> list[str]:
    """Return the arrays in which two models differ, and their mean inertia."""
    names = [name for name, values in model_arrays(one) if not np.array_equal(values, getattr(other, name))]
    return names + ['meaninertia'] * (one.stat.meaninertia != other.stat.meaninertia)


@pytest.mark.parametrize('task', TASKS)
def test_a_worlds_model_is_the_one_that_mujoco_compiles_whatever_was_there_before(task):
    model = load_model(task)
    dynamics, copy = Dynamics(model, PHYSICS, 40), model.mj.__copy__()
    scratch, views = mujoco.MjData(copy), dynamics.views(copy)
    for world in range(40):
        dynamics.begin(world, PHYSICS.draw(100 + world, model))
    whole = model.mj.__copy__()
    for world in (3, 39, 0, 17):  # written by one thread, one after the other
        dynamics.write(world, copy, views)
        change_model(model, whole, scratch, PHYSICS.draw(100 + world, model))
        assert differing(copy, whole) == [], 'what is kept of a world is all that changes'
        if world in (0, 17):
            assert differing(copy, compiled(task, PHYSICS.draw(100 + world, model))) == []
    change_model(model, copy, scratch, Randomisation().draw(0, model))
    assert differing(copy, model.mj) == [], 'ranges that change nothing give the plain model'


def test_every_range_of_physics_changes_the_model():
    model = load_model('insertion')
    for name, expected in (('actuator_gain', 'actuator_gainprm'), ('joint_damping', 'dof_damping'),
                           ('joint_friction', 'dof_frictionloss'), ('contact_friction', 'geom_friction'),
                           ('object_mass', 'body_inertia'), ('object_size', 'geom_rbound')):
        dynamics = Dynamics(model, Randomisation(**{name: getattr(PHYSICS, name)}), 1)
        assert expected in dynamics._changed, name
    assert not Dynamics(model, Randomisation(joint_latency_s=(0.1, 0.2)), 1).active


@pytest.mark.parametrize('task', TASKS)
def test_a_worlds_trajectory_is_that_of_its_compiled_model_stepped_by_mj_step(task):
    targets, scenes = wander(3, 20), np.array([5, 6, 7])
    with BatchedWorlds(task, 3, threads=1, randomisation=PHYSICS) as worlds:
        worlds.reset(scenes)
        start, drawn, model = worlds.qpos.copy(), worlds.drawn(), worlds.model
        qpos = np.concatenate([worlds.step(targets[:, first:first + 10]).qpos for first in (0, 10)], 1)
    controls = np.repeat(model.controls_of(targets), SUBSTEPS, 1)
    for world in range(3):
        expected = stepped(compiled(task, drawn[world]), start[world], controls[world])
        assert np.array_equal(qpos[world], expected[SUBSTEPS - 1::SUBSTEPS])
        plain = stepped(model.mj, start[world], controls[world])
        assert np.abs(plain[-1] - qpos[world, -1]).max() > 1e-3, 'the case needs other physics'


def test_trajectories_with_everything_drawn_do_not_depend_on_worlds_threads_or_chunks(noisy_plans):
    scenes, plans = np.arange(6), noisy_plans[:, :200]
    seen = []
    for count, threads, length in ((6, 1, 50), (6, 2, 20), (2, 2, 50), (3, 1, 200)):
        parts = []
        with BatchedWorlds('transfer_cube', count, threads, randomisation=ALL) as worlds:
            for first in range(0, 6, count):
                rows = slice(first, first + count)
                worlds.reset(scenes[rows])
                outcomes = [worlds.step(plans[rows, start:start + length]) for start in range(0, 200, length)]
                parts.append([np.concatenate([one.qpos for one in outcomes], 1), worlds.observed_joints(),
                              np.concatenate([one.stage for one in outcomes], 1), worlds.camera_qpos('cam_high'),
                              worlds.camera_frames('cam_low')])
        seen.append([np.concatenate(arrays) for arrays in zip(*parts, strict=True)])
    for other in seen[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(seen[0], other, strict=True))
    assert seen[0][2].max() >= 1, 'the case needs contact with the cube'


def test_ranges_that_change_nothing_give_the_plain_trajectories_bit_for_bit():
    targets = wander(2, 20)
    outcomes = []
    for randomisation in (None, Randomisation()):
        with BatchedWorlds('transfer_cube', 2, randomisation=randomisation) as worlds:
            worlds.reset(np.array([1, 2]))
            outcomes.append((worlds.qpos.copy(), worlds.step(targets).qpos, worlds.observed_joints(), worlds.joints(),
                             worlds.camera_qpos('cam_high'), worlds.appearances()))
    for one, two in zip(*outcomes, strict=True):
        assert np.array_equal(one, two)
    plain = outcomes[0]
    assert np.array_equal(plain[2], plain[3]) and np.array_equal(plain[4], plain[1][:, -1]) and plain[5] == [None, None]


def test_a_scene_with_its_number_repeats_in_any_world_and_after_any_other():
    targets = wander(1, 10)
    runs = []
    with BatchedWorlds('transfer_cube', 2, randomisation=ALL) as worlds:
        for scene, world in ((9, 0), (4, 1), (9, 1)):
            worlds.reset(np.array([scene]), np.array([world]))
            runs.append(worlds.step(targets, np.array([world])).qpos)
    assert np.array_equal(runs[0], runs[2]) and not np.array_equal(runs[0], runs[1])


def test_a_thousand_worlds_share_one_model():
    with BatchedWorlds('insertion', 1024, threads=2, randomisation=ALL) as worlds:
        worlds.reset(np.arange(1024))
        assert len({drawn.object_size for drawn in worlds.drawn()}) == 1024
        kept = [worlds._state, worlds._warm_start, *vars(worlds._dynamics).values(), *vars(worlds._latency).values()]
        size = sum(one.nbytes for one in kept if isinstance(one, np.ndarray))
        assert size / 1024 < 50_000, 'bytes per world'
        assert not [one for one in kept if isinstance(one, list) and len(one) >= 1024]


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('size', [0.5, 1.0, 1.5])
def test_objects_of_any_size_start_free_and_come_to_rest_on_their_own_half_height(task, size):
    moved = {} if size == 1.5 else {'object_offset_m': (-0.01, 0.01), 'object_yaw_rad': (-0.2, 0.2)}
    some = Randomisation(object_size=(size, size), **moved)
    with BatchedWorlds(task, 4, randomisation=some) as worlds:
        worlds.reset(np.arange(4))
        model, drawn = worlds.model, worlds.drawn()
        for world in range(4):
            mj = compiled(task, drawn[world])
            data = mujoco.MjData(mj)
            data.qpos[:] = worlds.qpos[world]
            mujoco.mj_forward(mj, data)
            objects = [mj.body(name).id for name in model.task.objects]
            assert not np.isin(mj.geom_bodyid[data.contact.geom], objects).any(), 'no object touches anything'
        start = worlds.object_pose().reshape(4, -1, 7)
        worlds.step(np.tile(worlds.last_target[:, None], (1, 60, 1)))
        rest = worlds.object_pose().reshape(4, -1, 7)
    for index, name in enumerate(model.task.objects):
        half = half_extent(model.mj, name)[2]
        np.testing.assert_allclose(start[:, index, 2], 0.05 + (size - 1) * half, atol=1e-12)
        np.testing.assert_allclose(rest[:, index, 2], size * half, atol=1.5e-3)


def test_objects_start_where_the_scene_has_them_moved_and_turned_as_drawn():
    some, model = Randomisation(object_offset_m=(-0.02, 0.02), object_yaw_rad=(-1.0, 1.0)), load_model('insertion')
    for scene in range(5):
        drawn, pose = some.draw(scene, model), sample_object_pose('insertion', scene).reshape(2, 7)
        moved = start_pose(model, pose.ravel(), drawn).reshape(2, 7)
        np.testing.assert_allclose(moved[:, :2] - pose[:, :2], drawn.object_offset_m, atol=1e-15)
        assert np.array_equal(moved[:, 2], pose[:, 2]) and not moved[:, 4:6].any()
        np.testing.assert_allclose(2 * np.arctan2(moved[:, 6], moved[:, 3]), drawn.object_yaw_rad, atol=1e-12)
        with BatchedWorlds('insertion', 1, randomisation=some) as worlds:
            worlds.reset(np.array([scene]))
            np.testing.assert_allclose(worlds.object_pose()[0], moved.ravel(), atol=1e-15)


def test_the_expert_succeeds_as_well_in_worlds_of_other_physics(plans):
    some = Randomisation(actuator_gain=(0.8, 1.2), joint_friction=(0.8, 1.2), contact_friction=(0.7, 1.3),
                         object_mass=(0.5, 2.0), object_size=(0.95, 1.05))
    with BatchedWorlds('transfer_cube', 8, randomisation=some) as worlds:
        worlds.reset(np.arange(8))
        outcome = worlds.step(plans[:8])
    assert (outcome.stage == SUCCESS_STAGE).any(1).sum() >= 7
