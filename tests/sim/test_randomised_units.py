"""Every range of the dynamics acts in the unit that it states: forces and motions computed by hand."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from fpo_ros.policy.contract import GRIPPER_COLUMNS, START_JOINTS
from fpo_ros.sim.randomisation import Randomisation
from fpo_ros.sim.world import World

#: Gains [N m/rad, fingers N/m] and friction [N m, fingers N] of an arm in gym-aloha's bimanual_viperx_*.xml and
#: vx300s_*.xml: six joints, two fingers.
KP = [800, 1600, 800, 10, 50, 20, 200, 200]
FRICTION = [50, 60, 60, 30, 30, 30, 30, 30]
#: The cube's mass [kg], inertia [kg m2], and half its edge [m]; gravity [m/s2].
MASS, INERTIA, HALF, GRAVITY = 0.05, 0.002, 0.02, 9.81


def world_of(task: str = 'transfer_cube', **values: float) -> World:
    """Return a world in which every value is fixed."""
    return World(task, 1, randomisation=Randomisation(**{name: (value, value) for name, value in values.items()}))


def dofs(world: World) -> np.ndarray:
    """Return the (2, 8) columns of joints and fingers in the velocities."""
    return np.concatenate([world.model.arm_dofs, world.model.finger_dofs], 1)


@pytest.mark.parametrize('factor', [0.5, 1.5])
def test_servos_push_by_the_factor_of_kp_times_their_error_and_not_at_all_without_one(factor):
    world = world_of(actuator_gain=factor)
    servos = np.concatenate([world.model.arm_ctrl, world.model.finger_ctrl], 1)
    qpos = np.concatenate([world.model.arm_qpos, world.model.finger_qpos], 1)
    world.data.ctrl[:] = world.mj.actuator_ctrlrange.mean(1)
    for error in (0.01, 0.0):
        world.data.qpos[qpos] = world.data.ctrl[servos] - error
        mujoco.mj_forward(world.mj, world.data)
        np.testing.assert_allclose(world.data.actuator_force[servos], np.tile(factor * error * np.array(KP), (2, 1)),
                                   atol=1e-9)


def test_arm_joints_are_damped_by_so_many_newton_metres_per_radian_and_second_and_fingers_are_not():
    world = world_of(joint_damping=0.3)
    world.data.qvel[:] = 2.0
    mujoco.mj_forward(world.mj, world.data)
    np.testing.assert_allclose(world.data.qfrc_damper[dofs(world)], [[-0.6] * 6 + [0.0] * 2] * 2, atol=1e-12)


@pytest.mark.parametrize('factor', [0.4, 1.5])
def test_joints_that_move_are_held_back_by_the_factor_of_their_friction(factor):
    world = world_of(joint_friction=factor)
    world.data.qvel[dofs(world)] = 1000.0  # so fast that friction is all there is
    mujoco.mj_forward(world.mj, world.data)
    np.testing.assert_allclose(np.abs(world.data.qfrc_constraint[dofs(world)]),
                               np.tile(factor * np.array(FRICTION), (2, 1)), rtol=1e-9)


def pushed(world: World, newtons: float) -> float:
    """Return the speed [m/s] of a cube at rest on the table after 0.2 s of a force along x."""
    for _ in range(60):
        world.step()
    body, dof = world.mj.body('box').id, world.mj.body('box').dofadr[0]
    world.mj.dof_frictionloss[dof:dof + 6] = 0.0
    world.data.xfrc_applied[body, 0] = newtons
    for _ in range(10):
        world.step()
    return float(world.data.qvel[dof])


@pytest.mark.parametrize(('friction', 'mass'), [(0.7, 1.0), (0.4, 1.0), (0.4, 3.0), (0.6, 0.5)])
def test_the_cube_slides_when_pushed_harder_than_friction_times_weight(friction, mass):
    limit = friction * 1.0 * mass * MASS * GRAVITY  # the coefficient of sliding is 1
    options = {'contact_friction': friction, 'object_mass': mass}
    assert abs(pushed(world_of(**options), 0.85 * limit)) < 0.01
    expected = 0.3 * limit / (mass * MASS) * 0.2  # force beyond friction, by mass, by time
    assert pushed(world_of(**options), 1.3 * limit) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(('mass', 'size'), [(1.0, 1.0), (2.0, 1.0), (1.0, 1.3), (0.5, 0.8)])
def test_the_table_bears_the_weight_of_a_cube_whose_surface_and_inertia_are_those_of_its_size(mass, size):
    world = world_of(object_mass=mass, object_size=size)
    body, dof = world.mj.body('box').id, world.mj.body('box').dofadr[0]
    cube, table = world.mj.geom('red_box').id, world.mj.geom('table').id
    world.mj.dof_frictionloss[dof:dof + 6] = 0.0
    # In the air, at its start: lifted and turned.
    before = mujoco.mj_geomDistance(world.mj, world.data, cube, table, 1.0, None)
    assert before == pytest.approx(0.05 - HALF, abs=1e-6), 'an object starts as far above the table at any size'
    world.data.xfrc_applied[body] = [0, 0, 3, 0, 0, 0.01]
    mujoco.mj_forward(world.mj, world.data)
    assert world.data.qacc[dof + 2] == pytest.approx(3 / (mass * MASS) - GRAVITY, rel=1e-6)
    assert world.data.qacc[dof + 5] == pytest.approx(0.01 / (mass * INERTIA * size**2), rel=1e-6)
    # On the table.
    world.data.xfrc_applied[:] = 0.0
    for _ in range(60):
        world.step()
    force, total = np.empty(6), 0.0
    for number, contact in enumerate(world.data.contact):
        if cube in contact.geom:
            mujoco.mj_contactForce(world.mj, world.data, number, force)
            total += force[0]
    assert total == pytest.approx(mass * MASS * GRAVITY, rel=0.01)
    assert world.data.xpos[body, 2] == pytest.approx(size * HALF, abs=1e-3)


@pytest.mark.parametrize('size', [0.8, 1.0, 1.2])
def test_the_hole_of_the_socket_and_the_peg_have_the_size_drawn_and_as_much_play_in_proportion(size):
    world = world_of('insertion', object_size=size)
    geoms = {name: world.mj.geom(name).id for name in ('socket-1', 'socket-2', 'red_peg')}
    bottom, top = (world.data.geom_xpos[geoms[name], 2] for name in ('socket-1', 'socket-2'))
    # Walls of 4 mm, 40 mm apart from middle to middle, around a peg of 20 mm.
    hole = top - bottom - world.mj.geom_size[geoms['socket-1'], 2] - world.mj.geom_size[geoms['socket-2'], 2]
    assert hole == pytest.approx(size * 0.036) and world.mj.geom_size[geoms['red_peg'], 1] == pytest.approx(size * 0.01)
    assert world.mj.geom_size[geoms['red_peg'], 0] == pytest.approx(size * 0.06)


def test_measured_joints_differ_from_the_true_ones_by_the_offset_in_radians_and_grippers_do_not():
    world = world_of(joint_offset_rad=0.02)
    expected = np.full(14, 0.02)
    expected[list(GRIPPER_COLUMNS)] = 0.0
    np.testing.assert_allclose(world.seen().joints - world.joints(), expected, atol=1e-12)
    np.testing.assert_allclose(world.seen().joints, START_JOINTS, atol=1e-12)
    np.testing.assert_allclose(world.joints(), START_JOINTS - expected, atol=1e-12)


def test_delays_are_seconds_rounded_to_physics_steps():
    some = Randomisation(action_latency_s=(0.031, 0.031), joint_latency_s=(0.02, 0.02),
                         camera_latency_s={'cam_low': (0.3, 0.3)})
    drawn = World('transfer_cube', randomisation=some).drawn
    assert (drawn.action_delay, drawn.joint_delay, drawn.camera_delay) == (16, 10, (0, 150, 0, 0, 0))
