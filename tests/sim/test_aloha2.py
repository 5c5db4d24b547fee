"""The ALOHA 2 cell: both tasks on MuJoCo Menagerie's model, and on a stand-in where there is none."""

from __future__ import annotations

import importlib.util
from functools import cache

import gymnasium
import mujoco
import numpy as np
import pytest
from aloha2_cell import PACKAGE, use_menagerie, write_cell
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import SIDES, START_JOINTS, TASKS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.sim import actors
from fpo_ros.sim.actors import episode, expert_of, policy_of
from fpo_ros.sim.appearance import Appearance, AppearanceRanges
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.model import TaskModel, load_model
from fpo_ros.sim.registration import IDS
from fpo_ros.sim.render import BatchRenderer, WorldRenderer
from fpo_ros.sim.robots import ALOHA2
from fpo_ros.sim.task import task_of
from fpo_ros.sim.world import World

#: What of a geom makes contacts and looks.
GEOM = ('type', 'size', 'pos', 'quat', 'friction', 'condim', 'solref', 'solimp', 'contype', 'conaffinity', 'rgba')


@cache
def why_not() -> str | None:
    """Return why Menagerie's own model is not to be had without a download; None where it is."""
    if importlib.util.find_spec(PACKAGE) is None:
        return 'mujoco-menagerie is not installed'
    import mujoco_menagerie as menagerie

    found, aloha = menagerie.Cache(), menagerie.get('aloha')
    if found.root is None and not found.is_cached(aloha):
        return "Menagerie's aloha was never downloaded and MENAGERIE_ROOT is not set"
    return None


def need_model() -> None:
    """Skip a test where Menagerie's own model is missing."""
    if reason := why_not():
        pytest.skip(f"needs MuJoCo Menagerie's ALOHA 2: {reason}")


@pytest.fixture(params=["boxes with Menagerie's names", 'Menagerie'])
def cell(request, monkeypatch, tmp_path) -> None:
    """Provide a model for robot aloha2: a stand-in everywhere, and Menagerie's own where there is one."""
    if request.param == 'Menagerie':
        need_model()
    else:
        scene = write_cell(tmp_path)
        use_menagerie(monkeypatch, lambda entry: scene)


@pytest.mark.parametrize('task', TASKS)
def test_objects_lie_before_the_arms_as_in_gym_aloha(cell, task):
    world, theirs = World(task, 4, 'aloha2'), World(task, 4)
    assert np.allclose(world.object_pose(), theirs.object_pose(), atol=1e-12)
    for side in SIDES:
        ours = world.data.body(ALOHA2.arm_body.format(side=side)).xpos - ALOHA2.workspace_m
        assert np.allclose(ours[:2], theirs.data.body(f'vx300s_{side}').xpos[:2], atol=1e-9)
    for one in (world, theirs):
        for _ in range(50):
            one.step()
    assert np.allclose(world.object_pose(), theirs.object_pose(), atol=2e-3)
    touching = world.model.touching(world.data.sensordata)
    assert {name for name, on in touching.items() if on} == {name for name in touching if name.endswith('_table')}


@pytest.mark.parametrize('task', TASKS)
def test_objects_are_those_of_gym_aloha(cell, task):
    ours, theirs = load_model(task, 'aloha2').mj, load_model(task).mj
    for name in task_of(task).objects:
        for array in ('mass', 'inertia', 'ipos', 'iquat'):
            assert np.array_equal(getattr(ours.body(name), array), getattr(theirs.body(name), array))
        for geom in range(theirs.body(name).geomadr[0], theirs.body(name).geomadr[0] + theirs.body(name).geomnum[0]):
            name_of_geom = theirs.geom(geom).name
            for array in GEOM:
                assert np.array_equal(getattr(ours.geom(name_of_geom), array), getattr(theirs.geom(geom), array))
        dofs = [mj.body(name).dofadr[0] + np.arange(6) for mj in (ours, theirs)]
        assert np.array_equal(ours.dof_frictionloss[dofs[0]], theirs.dof_frictionloss[dofs[1]])


def check_round_trips(model: TaskModel) -> None:
    """Hold positions and controls of any joints and poses against what they were made of."""
    controls = np.zeros(model.mj.nu, int)
    for index in (0, 1):
        controls[model.arm_ctrl[index]] = 7 * index + np.arange(6)
        controls[model.finger_ctrl[index]] = 7 * index + 6
    signs = np.ones(model.mj.nu)
    signs[model.finger_ctrl[:, ::-1]] = model.robot.finger_signs[::-1]

    @settings(max_examples=50, deadline=None)
    @given(hnp.arrays(np.float64, 14, elements=st.floats(0, 1)),
           hnp.arrays(np.float64, (7 * len(model.task.objects),), elements=st.floats(-1, 1)))
    def check(share, pose):
        joints = model.lower + share * (model.upper - model.lower)
        qpos = model.start_qpos(pose, joints)
        assert np.allclose(model.joints_of(qpos), joints, atol=1e-12)
        assert np.allclose(model.object_pose_of(qpos), pose, atol=1e-12)
        sent = model.controls_of(joints) * signs
        grippers = np.isin(controls, (6, 13))
        sent[grippers] = model.robot.gripper_of(sent[grippers])
        assert np.allclose(sent, joints[controls], atol=1e-12)

    check()


@pytest.mark.parametrize('task', TASKS)
def test_joints_controls_and_poses_of_gym_alohas_arms_come_back_as_they_went_in(task):
    check_round_trips(load_model(task))


@pytest.mark.parametrize('task', TASKS)
def test_joints_controls_and_poses_of_aloha_2_come_back_as_they_went_in(cell, task):
    check_round_trips(load_model(task, 'aloha2'))


def test_the_gripper_spans_what_its_control_does(cell):
    model = load_model('transfer_cube', 'aloha2')
    for side in SIDES:
        span = model.mj.actuator(f'{side}/gripper').ctrlrange
        assert np.allclose(span, ALOHA2.finger_of(np.array([0.0, 1.0])))
    for share in (0.0, 1.0):
        fingers = model.start_qpos(np.zeros(7), np.full(14, share))[model.finger_qpos]
        assert np.array_equal(fingers, np.full((2, 2), ALOHA2.finger_of(share)))  # as the equality demands


def test_both_fingers_that_the_rules_watch_are_on_the_side_of_gym_alohas(cell):
    def to_the_left(world: World) -> list[bool]:
        robot, data = world.model.robot, world.data
        grippers = [data.body(robot.tool_body.format(side=side)) for side in SIDES]
        return [bool((data.body(finger).xipos - gripper.xpos) @ gripper.xmat.reshape(3, 3)[:, 1] > 0)
                for gripper, finger in zip(grippers, robot.grasping_fingers, strict=True)]

    assert to_the_left(World('transfer_cube', robot='aloha2')) == to_the_left(World('transfer_cube')) == [True, False]


def test_pictures_are_cut_out_of_the_sensor_not_squeezed(cell):
    mj = load_model('transfer_cube', 'aloha2').mj
    for name in ('overhead_cam', 'worms_eye_cam', 'wrist_cam_left', 'wrist_cam_right'):
        assert not mj.cam_sensorsize[mj.camera(name).id].any()
        assert mj.camera(name).fovy[0] == pytest.approx(58.0, abs=0.05)  # D405, 2.14 mm behind 1.93 mm


def test_a_colour_of_the_table_shows(cell):
    model = load_model('transfer_cube', 'aloha2')
    look = AppearanceRanges(table_colour=(-0.9, -0.9)).sample(np.random.default_rng(0), model)
    qpos = model.start_qpos(task_of('transfer_cube').sample_object_pose(0))
    assert isinstance(look, Appearance)
    with WorldRenderer('transfer_cube', 48, 64, robot='aloha2') as renderer:
        plain, dark = (renderer.render(qpos, 'cam_high', one).mean() for one in (None, look))
    assert dark < 0.8 * plain


@pytest.mark.parametrize('task', TASKS)
def test_random_targets_leave_the_physics_sound_and_batches_equal_single_worlds(cell, task):
    rng = np.random.default_rng(0)
    with BatchedWorlds(task, 2, robot='aloha2', out_of_range='clip') as worlds:
        worlds.reset(np.array([5, 6]))
        targets = START_JOINTS + rng.normal(0, 0.05, (2, 60, 14)).cumsum(1)
        outcome = worlds.step(targets)
    assert not outcome.diverged.any() and np.isfinite(outcome.qpos).all()
    alone = World(task, 6, 'aloha2', 'clip')
    for target in targets[1]:
        alone.set_targets(target)
        alone.step()
    assert np.array_equal(alone.joints(), outcome.joints[1, -1])
    assert np.array_equal(alone.object_pose(), outcome.object_pose[1, -1])


def test_the_scripted_expert_of_other_arms_refuses(cell):
    targets = expert_of('transfer_cube')(World('transfer_cube', robot='aloha2'))
    with pytest.raises(ValueError, match='expert does not know the arms of aloha2: use vx300s'):
        next(targets)


def test_a_policy_sees_the_arms_that_it_moves(cell, monkeypatch, tmp_path):
    drawn = []

    class Recorded(BatchRenderer):
        def __init__(self, *arguments, robot: str) -> None:
            drawn.append(robot)
            super().__init__(*arguments, robot=robot)

    monkeypatch.setattr(actors, 'BatchRenderer', Recorded)
    contract = PolicyContract(observation='pixels', cameras=('cam_high',), image_height=32, image_width=32)
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), START_JOINTS, np.full(14, 0.1))
    FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats).save(tmp_path)
    world = World('transfer_cube', 0, 'aloha2', 'clip')
    assert len(list(episode(world, policy_of(tmp_path, 'transfer_cube'), max_steps=12))) == 12
    assert drawn == ['aloha2']


def test_gymnasium_environments_take_the_robot(cell):
    for env in (gymnasium.make(IDS['insertion'], robot='aloha2'),
                gymnasium.make_vec(IDS['insertion'], 2, vectorization_mode='vector_entry_point', robot='aloha2')):
        env.action_space.seed(0)
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        observation, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        env.close()


def test_the_environment_of_dm_control_takes_the_robot(cell):
    pytest.importorskip('dm_control', reason='needs dm_control, which Python 3.13 has not')
    from fpo_ros.sim import dm_env

    env = dm_env.load('transfer_cube', 0, robot='aloha2')
    started = env.reset()
    after = env.step(np.clip(START_JOINTS, env.action_spec().minimum, env.action_spec().maximum))
    assert after.reward == 0.0
    assert {name: value.shape for name, value in after.observation.items()} == {
        name: value.shape for name, value in started.observation.items()}


@pytest.mark.parametrize('task', TASKS)
def test_arms_that_hold_stay_where_they_start(task):
    need_model()
    world = World(task, 1, 'aloha2')
    for _ in range(100):
        world.step()
    arms = [column for column in range(14) if column not in (6, 13)]
    # Servos of these gains give way to gravity by a degree and a half.
    assert np.abs(world.joints() - START_JOINTS)[arms].max() < 0.03
    assert 0.15 < world.joints()[6] < 0.2  # the tips touch


def test_every_camera_draws_and_the_one_above_sees_the_cube():
    need_model()
    qpos = load_model('transfer_cube', 'aloha2').start_qpos(task_of('transfer_cube').sample_object_pose(0))
    with WorldRenderer('transfer_cube', 60, 80, robot='aloha2') as renderer:
        pictures = {camera: renderer.render(qpos, camera).astype(int) for camera in ALOHA2.cameras}
    assert all(picture.std() > 5 for picture in pictures.values())
    with WorldRenderer('transfer_cube', 60, 80, 'faithful', 'aloha2') as renderer:
        pictures['faithful'] = renderer.render(qpos, 'cam_high').astype(int)
    for name in ('cam_high', 'faithful'):
        red = pictures[name][..., 0] - pictures[name][..., 1:].max(-1)
        assert (red > 80).any()


def reach(world: World, side: str, point: np.ndarray, pitch: float, joints: np.ndarray) -> np.ndarray:
    """Return (6,) joint angles with a gripper at a point [m], in the plane of its arm, by damped least squares."""
    mj, data, index = world.mj, mujoco.MjData(world.mj), SIDES.index(side)
    columns, dofs = world.model.arm_qpos[index], world.model.arm_dofs[index]
    low, high = mj.jnt_range[mj.dof_jntid[dofs]].T
    ahead = point - world.data.body(ALOHA2.arm_body.format(side=side)).xpos
    wanted, error, jacobian = np.empty(4), np.empty(6), np.zeros((6, mj.nv))
    mujoco.mju_euler2Quat(wanted, np.array([np.arctan2(ahead[1], ahead[0]), pitch, 0.0]), 'zyx')
    data.qpos[:], data.qpos[columns] = world.data.qpos, joints
    for _ in range(100):
        mujoco.mj_kinematics(mj, data)
        mujoco.mj_comPos(mj, data)
        site, now, turn = data.site(f'{side}/tool'), np.empty(4), np.empty(4)
        mujoco.mj_jacSite(mj, data, jacobian[:3], jacobian[3:], site.id)
        mujoco.mju_mat2Quat(now, site.xmat)
        mujoco.mju_negQuat(now, now)
        mujoco.mju_mulQuat(turn, wanted, now)
        error[:3] = point - site.xpos
        mujoco.mju_quat2Vel(error[3:], turn, 1.0)
        arm = jacobian[:, dofs]
        step = arm.T @ np.linalg.solve(arm @ arm.T + 1e-4 * np.eye(6), error)
        data.qpos[columns] = np.clip(data.qpos[columns] + step, low, high)
    assert np.linalg.norm(error[:3]) < 1e-3
    return data.qpos[columns].copy()


@pytest.mark.parametrize(('task', 'grasped', 'off_the_table'), [
    ('transfer_cube', {'right': 0}, {'box_right_finger', 'box_right_arm'}),
    ('insertion', {'right': 0, 'left': 1}, {'peg_right_finger', 'socket_left_finger'})])
def test_grippers_that_grasp_and_lift_reach_the_second_stage(task, grasped, off_the_table):
    need_model()
    world = World(task, 2, 'aloha2')
    times, plan = [0, 50, 80, 110, 150], np.tile(START_JOINTS, (5, 1))
    for side, number in grasped.items():
        thing = world.object_pose()[7 * number:7 * number + 3] * (1, 1, 0) + ALOHA2.workspace_m
        columns, joints = slice(7 * SIDES.index(side), 7 * SIDES.index(side) + 6), START_JOINTS[:6]
        joints = np.array([*joints[:4], 0.8, 0.0])
        for row, height, gripper in ((1, 0.12, 1.0), (2, 0.03, 1.0), (3, 0.03, 0.0), (4, 0.15, 0.0)):
            joints = reach(world, side, thing + [0, 0, height], np.deg2rad(60), joints)
            plan[row, columns], plan[row, columns.stop] = joints, gripper
    stages = []
    for step in range(1, 171):
        world.set_targets([np.interp(step, times, column) for column in plan.T])
        world.step()
        stages.append(world.stage())
    assert stages[-1] == 2 and max(stages) == 2
    assert {name for name, on in world.model.touching(world.data.sensordata).items() if on} == off_the_table


def test_a_model_that_is_asked_for_with_and_without_defaults_is_compiled_once():
    models: set[TaskModel] = {load_model(), load_model('transfer_cube'), load_model('transfer_cube', 'vx300s'),
                              load_model(task='transfer_cube', robot='vx300s')}
    assert len(models) == 1
