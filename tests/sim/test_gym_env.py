"""The gymnasium environments: what people of gymnasium and of gym-aloha expect of them."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from gym_aloha.env import AlohaEnv as GymAloha
from gym_aloha.utils import sample_box_pose, sample_insertion_pose
from gymnasium.utils.env_checker import check_env
from reference import play

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.actions import ActionError
from fpo_ros.sim.divergence import DivergenceWarning
from fpo_ros.sim.gym_env import AlohaEnv
from fpo_ros.sim.registration import IDS
from fpo_ros.sim.render import RenderError
from fpo_ros.sim.robots import UnknownRobotError
from fpo_ros.sim.scenes import HELD_OUT_SEED, is_held_out
from fpo_ros.sim.task import UnknownTaskError

#: Small pictures, for speed.
SMALL = {'observation_height': 24, 'observation_width': 32, 'visualization_height': 24, 'visualization_width': 32,
         'fast_pictures': True}
CUBE = IDS['transfer_cube']
#: gymnasium recommends normalised actions; ours are joint angles, as gym-aloha's.
RECOMMENDATION = 'we recommend using a symmetric and normalized space'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes its warnings into MUJOCO_LOG.TXT, and diverged worlds are dumped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('fpo_ros.sim.divergence.default_dump_directory', lambda: tmp_path / 'dumps')


@pytest.mark.parametrize('name', IDS.values())
@pytest.mark.parametrize('obs_type', ['state', 'pixels', 'pixels_agent_pos'])
def test_gymnasium_s_own_checker_finds_nothing_but_that_actions_are_angles(name, obs_type):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        env = gymnasium.make(name, obs_type=obs_type, render_mode='rgb_array', **SMALL)
        check_env(env.unwrapped)
        env.close()
    assert [str(one.message) for one in said if RECOMMENDATION not in str(one.message)] == []


def test_an_id_names_its_module_and_importing_the_simulation_is_light():
    code = ('import gymnasium\n'
            f'env = gymnasium.make("fpo_ros.sim:{CUBE}")\n'
            'assert env.spec.max_episode_steps == 300\n')
    light = ('import sys, fpo_ros.sim, gymnasium\n'
             f'assert {sorted(IDS.values())} == sorted(name for name in gymnasium.registry if "fpo_ros" in name)\n'
             'heavy = {"mujoco", "cv2", "torch", "dm_control", "gym_aloha"} & set(sys.modules)\n'
             'assert not heavy, heavy\n')
    for each in (code, light):
        subprocess.run([sys.executable, '-c', each], check=True, timeout=60)


@pytest.mark.parametrize('seed', [0, 7, 2**32 + 3])
def test_objects_start_where_gym_aloha_puts_them(seed):
    theirs = {'transfer_cube': sample_box_pose(seed % 2**32),
              'insertion': np.concatenate(sample_insertion_pose(seed % 2**32))}
    for task, pose in theirs.items():
        observation, info = AlohaEnv(task).reset(seed=seed)
        assert np.array_equal(observation['environment_state'], pose)
        assert np.allclose(observation['agent_pos'], START_JOINTS, atol=1e-12)
        assert info == {'is_success': False, 'success_strict': False, 'stage': 0, 'diverged': False, 'scene': seed}


def test_further_episodes_are_drawn_from_the_training_scenes_and_can_be_begun_again():
    def scenes(env: AlohaEnv) -> list[int]:
        return [env.reset(seed=5)[1]['scene'], *(env.reset()[1]['scene'] for _ in range(20))]

    env = AlohaEnv()
    first = scenes(env)
    assert first == scenes(AlohaEnv()) and len(set(first)) == 21
    assert all(scene < HELD_OUT_SEED and not is_held_out(scene) for scene in first)
    observation, info = env.reset()
    again, _ = AlohaEnv().reset(seed=info['scene'])
    assert np.array_equal(again['environment_state'], observation['environment_state'])


def test_an_episode_has_gym_aloha_s_joints_and_rewards_and_terminates_at_its_first_success(plans):
    _, rewards, joints = play('transfer_cube', 2, plans[2])
    env = gymnasium.make(CUBE)
    env.reset(seed=2)
    for step, action in enumerate(plans[2]):
        observation, reward, terminated, truncated, info = env.step(action)
        assert reward == rewards[step] == info['stage'] and isinstance(reward, float)
        assert np.array_equal(observation['agent_pos'], joints[step])
        assert terminated == info['is_success'] == (reward == 4) and not truncated
        if terminated:
            break
    assert terminated and {0, 1, 2, 4} <= set(rewards[:step + 1])


def test_an_episode_that_goes_on_behind_success_shows_the_stricter_rule(plans):
    env = AlohaEnv(end_on_success=False)
    env.reset(seed=2)
    steps = [env.step(action) for action in plans[2]]
    assert not any(terminated for *_, terminated, _, _ in steps)
    infos = [info for *_, info in steps]
    first = [info['is_success'] for info in infos].index(True)
    assert not infos[first]['success_strict'], 'the right gripper still holds the cube at the first touch'
    assert infos[-1]['success_strict'] and infos[-1]['is_success']


@pytest.mark.parametrize(('options', 'limit'), [({}, 300), ({'max_episode_steps': 400}, 400),
                                                ({'max_episode_steps': 3}, 3)])
def test_the_time_limit_is_that_of_gymnasium_and_truncates(options, limit):
    env = gymnasium.make(CUBE, **options)
    env.reset(seed=0)
    ends = [env.step(START_JOINTS)[2:4] for _ in range(limit)]
    assert ends == [(False, False)] * (limit - 1) + [(False, True)]


@pytest.mark.parametrize('name', ['TransferCube', 'Insertion'])
def test_pixels_have_gym_aloha_s_keys_and_are_its_pictures(name):
    task = {'TransferCube': 'transfer_cube', 'Insertion': 'insertion'}[name]
    theirs, _ = GymAloha(task, obs_type='pixels_agent_pos').reset(seed=3)
    env = gymnasium.make(f'fpo_ros/{name}-v0', obs_type='pixels_agent_pos')
    ours, _ = env.reset(seed=3)
    env.close()
    assert ours.keys() == theirs.keys() and ours['pixels'].keys() == theirs['pixels'].keys() == {'top'}
    assert np.array_equal(ours['agent_pos'], theirs['agent_pos'])
    difference = np.abs(ours['pixels']['top'].astype(int) - theirs['pixels']['top'])
    assert ours['pixels']['top'].shape == (480, 640, 3) and difference.max() <= 2
    assert ours['pixels']['top'].std() > 10


def test_cameras_have_the_names_they_were_asked_by_and_pictures_the_size():
    env = AlohaEnv(obs_type='pixels', cameras=['cam_high', 'top', 'angle', 'cam_left_wrist'], **SMALL)
    observation, _ = env.reset(seed=0)
    env.close()
    assert list(observation) == ['cam_high', 'top', 'angle', 'cam_left_wrist']
    assert all(picture.shape == (24, 32, 3) and picture.dtype == np.uint8 for picture in observation.values())
    assert np.array_equal(observation['cam_high'], observation['top'])
    assert not np.array_equal(observation['angle'], observation['top'])


def test_render_draws_in_its_own_size_and_follows_the_arms():
    env = AlohaEnv(render_mode='rgb_array', **{**SMALL, 'visualization_width': 48})
    env.reset(seed=0)
    first = env.render()
    for _ in range(20):
        env.step(np.where(np.arange(14) == 1, -0.3, START_JOINTS))
    assert first.shape == (24, 48, 3) and not np.array_equal(env.render(), first)
    env.close()
    env.close()
    assert np.array_equal(AlohaEnv.metadata['render_modes'], ['rgb_array']) and AlohaEnv.metadata['render_fps'] == 50


def test_actions_range_over_each_joint_in_single_precision_and_their_edges_are_taken():
    env = AlohaEnv()
    space = env.action_space
    assert space.dtype == np.float32
    assert np.allclose(space.low[:7], [-3.14158, -1.85005, -1.76278, -3.14158, -1.8675, -3.14158, 0], atol=1e-6)
    assert np.allclose(space.high[7:], [3.14158, 1.25664, 1.6057, 3.14158, 2.23402, 3.14158, 1], atol=1e-6)
    for edge in (space.low, space.high):
        env.reset(seed=0)
        env.step(edge)


@pytest.mark.parametrize(('action', 'message'), [
    (np.zeros(13), r'shape \(13,\), expected \(14\)'), (np.zeros((1, 14)), r'shape \(1, 14\), expected \(14\)'),
    (np.full(14, np.nan), 'not finite: left_waist'), (np.array(['a'] * 14), 'expected real numbers'),
    (np.full(14, 1.3), 'left_shoulder is 1.3 .*out_of_range')])
def test_actions_that_no_arm_can_be_given_are_refused_and_nothing_moves(action, message):
    env = AlohaEnv()
    env.reset(seed=0)
    first = env.step(START_JOINTS)[0]
    with pytest.raises(ActionError, match=message):
        env.step(action)
    fresh = AlohaEnv()
    fresh.reset(seed=0)
    assert np.array_equal(fresh.step(START_JOINTS)[0]['agent_pos'], first['agent_pos'])
    assert np.array_equal(fresh.step(START_JOINTS)[0]['agent_pos'], env.step(START_JOINTS)[0]['agent_pos'])


def test_actions_beyond_the_range_are_clipped_where_asked():
    clipping, plain = AlohaEnv(out_of_range='clip'), AlohaEnv()
    clipping.reset(seed=0)
    plain.reset(seed=0)
    action = np.where(np.arange(14) == 8, 5.0, START_JOINTS)
    ours, theirs = clipping.step(action)[0], plain.step(np.minimum(action, plain.action_space.high))[0]
    assert np.allclose(ours['agent_pos'], theirs['agent_pos'], atol=1e-6)
    assert not np.allclose(ours['agent_pos'], START_JOINTS, atol=1e-2)


@pytest.mark.parametrize(('options', 'error', 'message'), [
    ({'task': 'juggling'}, UnknownTaskError, "unknown task 'juggling': known tasks are transfer_cube, insertion"),
    ({'robot': 'r2d2'}, UnknownRobotError, "unknown robot 'r2d2'"),
    ({'obs_type': 'smell'}, ValueError, "unknown obs_type 'smell': use state, pixels, pixels_agent_pos"),
    ({'cameras': ['cam_moon']}, RenderError, "unknown camera 'cam_moon': known cameras are cam_high"),
    ({'cameras': 'top'}, ValueError, r"must be a list of names, got 'top': write \['top'\]"),
    ({'cameras': []}, ValueError, 'at least one'), ({'cameras': ['top', 'top']}, ValueError, 'different names'),
    ({'observation_height': 0}, ValueError, '0 rows and 640 columns'),
    ({'visualization_width': 1.5}, ValueError, '480 rows and 1.5 columns'),
    ({'render_mode': 'human'}, ValueError, 'unknown render_mode .*fpo-ros sim view'),
    ({'out_of_range': 'ignore'}, ValueError, 'use refuse or clip')])
def test_bad_options_are_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        AlohaEnv(**options)


def test_options_of_a_reset_and_pictures_without_a_mode_are_refused():
    env = AlohaEnv()
    with pytest.raises(ValueError, match='reset knows no options, got scene'):
        env.reset(options={'scene': 4})
    env.reset(seed=0)
    with pytest.raises(RenderError, match="made with render_mode='rgb_array'"):
        env.render()


def test_without_gl_pixels_are_one_clear_error_and_states_go_on(monkeypatch):
    def broken(*_: object) -> None:
        raise ImportError('no EGL here')

    monkeypatch.setattr(mujoco, 'Renderer', broken)
    with pytest.raises(RenderError, match='cannot make a GL context .*no EGL here.*libegl1'):
        AlohaEnv(obs_type='pixels', **SMALL).reset(seed=0)
    env = AlohaEnv()
    env.reset(seed=0)
    assert env.step(START_JOINTS)[1] == 0


def test_diverged_physics_truncates_with_the_last_good_observation(tmp_path):
    env = AlohaEnv(render_mode='rgb_array', **SMALL)
    env.reset(seed=4)
    good = env.step(START_JOINTS)[0]
    env._world.data.qvel[:] = 1e9
    with pytest.warns(DivergenceWarning, match='scene 4, world 0 diverged'):
        observation, reward, terminated, truncated, info = env.step(START_JOINTS)
    assert (reward, terminated, truncated) == (0.0, False, True) and info['diverged'] and info['scene'] == 4
    assert np.array_equal(observation['agent_pos'], good['agent_pos']) and observation in env.observation_space
    assert len(list((tmp_path / 'dumps').iterdir())) == 1
    assert env.render().std() > 10
    env.close()
    env.reset(seed=4)
    assert np.array_equal(env.step(START_JOINTS)[0]['agent_pos'], good['agent_pos'])


def test_environments_that_see_pixels_run_in_processes_of_their_own():
    # In a fresh process: who has drawn pictures must not fork.
    code = f"""
import gymnasium, numpy as np, fpo_ros.sim
from fpo_ros.policy.contract import START_JOINTS
options = {{'obs_type': 'pixels_agent_pos', **{SMALL}}}
action = START_JOINTS.astype(np.float32)
env = gymnasium.make_vec('{CUBE}', 2, 'async', **options)
observation, _ = env.reset(seed=[3, 4])
stepped, *_ = env.step(np.tile(action, (2, 1)))
env.close()
for row, seed in enumerate((3, 4)):
    single = gymnasium.make('{CUBE}', **options)
    assert np.array_equal(observation['pixels']['top'][row], single.reset(seed=seed)[0]['pixels']['top'])
    assert np.array_equal(stepped['pixels']['top'][row], single.step(action)[0]['pixels']['top'])
"""
    done = subprocess.run([sys.executable, '-c', code], timeout=90, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == '', done.stderr
