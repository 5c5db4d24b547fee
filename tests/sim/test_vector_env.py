"""The native vector environment: the numbers of single environments, faster."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.actions import ActionError
from fpo_ros.sim.divergence import DivergenceWarning
from fpo_ros.sim.gym_env import AlohaEnv
from fpo_ros.sim.registration import IDS
from fpo_ros.sim.render import RenderError, WorldRenderer
from fpo_ros.sim.vector_env import AlohaVectorEnv

CUBE = IDS['transfer_cube']
MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
SMALL = {'observation_height': 24, 'observation_width': 32, 'visualization_height': 16, 'visualization_width': 32,
         'fast_pictures': True}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes its warnings into MUJOCO_LOG.TXT, and diverged worlds are dumped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('fpo_ros.sim.divergence.default_dump_directory', lambda: tmp_path / 'dumps')


def still(count: int, steps: int) -> np.ndarray:
    """Return (count, steps, 14) targets that hold the start pose."""
    return np.tile(START_JOINTS, (count, steps, 1))


def assert_same(ours: object, theirs: object) -> None:
    """Compare results of environments to the last bit, type and key."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, np.ndarray) and ours.dtype == object:
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    else:
        assert ours == theirs


def both(name: str, count: int, mode: AutoresetMode, **options: object) -> tuple[gymnasium.vector.VectorEnv, ...]:
    """Return the native environment, and gymnasium's own of single ones."""
    return (gymnasium.make_vec(name, count, 'vector_entry_point', autoreset_mode=mode, **options),
            gymnasium.make_vec(name, count, 'sync', vector_kwargs={'autoreset_mode': mode}, **options))


def ends_of_random_episodes(native: gymnasium.vector.VectorEnv, singles: gymnasium.vector.VectorEnv, steps: int) -> int:
    """Compare both under the same random actions, close them, and return how many episodes were truncated."""
    for ours, theirs in zip(native.reset(seed=3), singles.reset(seed=3), strict=True):
        assert_same(ours, theirs)
    native.action_space.seed(0)
    ends = 0
    for _ in range(steps):
        actions = native.action_space.sample()
        ours, theirs = native.step(actions), singles.step(actions)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
        ends += int(ours[3].sum())
    native.close()
    singles.close()
    return ends


@pytest.mark.parametrize('name', IDS.values())
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.filterwarnings('ignore::fpo_ros.sim.divergence.DivergenceWarning')
def test_random_actions_give_what_single_environments_give_over_many_episodes(name, mode):
    native, singles = both(name, 3, mode, max_episode_steps=7)
    assert ends_of_random_episodes(native, singles, 60) >= 15


@pytest.mark.parametrize('mode', MODES)
def test_successes_of_the_expert_are_those_of_single_environments(plans, mode):
    native, singles = both(CUBE, 2, mode)
    native.reset(seed=2)
    singles.reset(seed=2)
    won = 0
    for step in range(250):
        ours, theirs = native.step(plans[2:4, step]), singles.step(plans[2:4, step])
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
        won += int(ours[2].sum())
    native.close()
    assert won == 2


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('length', 'cap'), [(7, 300), (50, 300), (50, 120)])
def test_a_chunk_gives_what_its_steps_give_until_an_episode_ends(plans, mode, length, cap):
    options = {'num_envs': 4, 'autoreset_mode': mode, 'max_episode_steps': cap}
    chunked, stepped = AlohaVectorEnv(**options), AlohaVectorEnv(**options)
    chunked.reset(seed=2)
    stepped.reset(seed=2)
    ended = np.zeros(4, bool)
    for start in range(0, 245, length):
        actions = plans[2:6, start:start + length]
        observation, rewards, terminations, truncations, infos = chunked.step_chunk(actions)
        for step in range(actions.shape[1]):
            last, *of_step, info = stepped.step(actions[:, step])
            for whole, part in zip((rewards, terminations, truncations), of_step, strict=True):
                assert np.array_equal(whole[~ended, step], part[~ended])
                assert not whole[ended, step].any(), 'what lies behind the end is void'
            now = (of_step[1] | of_step[2]) & ~ended
            shown = infos['final_obs'] if mode is AutoresetMode.SAME_STEP and now.any() else None
            for world in np.flatnonzero(now):
                ours = observation if shown is None else shown[world]
                theirs = last if shown is None else info['final_obs'][world]
                rows = (world,) if shown is None else ()
                assert np.array_equal(ours['agent_pos'][rows], theirs['agent_pos'][rows])
                assert infos['steps'][world] == step + 1
            ended |= now
        for key in observation:
            assert np.array_equal(observation[key][~ended], last[key][~ended])
        assert (infos['steps'][~ended] == actions.shape[1]).all()
        if ended.any():
            break
    assert (terminations if cap == 300 else truncations).any()
    chunked.close()
    stepped.close()


def test_episodes_are_capped_within_a_chunk_and_the_next_chunk_of_the_world_is_ignored():
    env = AlohaVectorEnv(2, max_episode_steps=5)
    env.reset(seed=0)
    env.step(still(2, 1)[:, 0])
    _, rewards, terminations, truncations, infos = env.step_chunk(still(2, 8))
    assert not terminations.any() and truncations.tolist() == [[False] * 3 + [True] + [False] * 4] * 2
    assert infos['steps'].tolist() == [4, 4] and infos['_steps'].all() and not rewards.any()
    moving = np.where(np.arange(14) == 1, 0.0, still(2, 8))
    observation, _, terminations, truncations, infos = env.step_chunk(moving)
    assert infos['steps'].tolist() == [0, 0] and not (terminations | truncations).any()
    for row, scene in enumerate(infos['scene']):
        fresh, _ = AlohaEnv().reset(seed=int(scene))
        assert all(np.array_equal(observation[key][row], fresh[key]) for key in fresh)
    assert env.step_chunk(moving)[3].any(1).all()
    env.close()


def test_same_step_returns_the_next_start_and_the_last_observation_of_the_old_episode():
    env = AlohaVectorEnv(2, max_episode_steps=3, autoreset_mode='SameStep')
    env.reset(seed=[4, 9])
    env.step_chunk(still(2, 2))
    observation, _, _, truncations, infos = env.step_chunk(still(2, 3))
    assert truncations.tolist() == [[True, False, False]] * 2 and infos['_final_obs'].all()
    assert infos['final_info']['scene'].tolist() == [4, 9] and infos['steps'].tolist() == [1, 1]
    single = AlohaEnv()
    single.reset(seed=9)
    for _ in range(3):
        last = single.step(START_JOINTS)[0]
    assert np.array_equal(infos['final_obs'][1]['agent_pos'], last['agent_pos'])
    fresh, info = single.reset()
    assert np.array_equal(observation['environment_state'][1], fresh['environment_state'])
    assert infos['scene'][1] == info['scene']
    env.close()


def test_gymnasium_chooses_the_native_environment_and_finds_its_metadata():
    env = gymnasium.make_vec(CUBE, 3, max_episode_steps=400)
    assert isinstance(env, AlohaVectorEnv) and env.spec.id == CUBE
    assert env.metadata == {'render_modes': ['rgb_array'], 'render_fps': 50,
                            'autoreset_mode': AutoresetMode.NEXT_STEP}
    assert AlohaVectorEnv(1, autoreset_mode='SameStep').metadata['autoreset_mode'] is AutoresetMode.SAME_STEP
    assert env.observation_space['environment_state'].shape == (3, 7) and env.action_space.shape == (3, 14)
    env.reset(seed=0)
    assert not env.step_chunk(still(3, 399))[3].any()
    assert env.step(still(3, 1)[:, 0])[3].all()
    env.close()
    env.close()


@pytest.mark.parametrize('limit', [None, -1])
def test_without_a_time_limit_episodes_go_on(limit):
    env = AlohaVectorEnv(1, max_episode_steps=limit)
    env.reset(seed=0)
    assert not env.step_chunk(still(1, 450))[3].any()
    env.close()


def test_gymnasium_s_statistics_of_episodes_are_right():
    env = RecordEpisodeStatistics(AlohaVectorEnv(2, max_episode_steps=4))
    env.reset(seed=0)
    for _ in range(4):
        *_, infos = env.step(still(2, 1)[:, 0])
    assert infos['episode']['l'].tolist() == [4, 4] and infos['episode']['r'].tolist() == [0, 0]
    env.close()


def test_pictures_are_those_of_single_environments_and_drawn_once_per_chunk(monkeypatch):
    env = AlohaVectorEnv(2, obs_type='pixels', cameras=['top', 'cam_left_wrist'], render_mode='rgb_array', **SMALL)
    observation, _ = env.reset(seed=6)
    drawn = []
    plain = WorldRenderer.render
    monkeypatch.setattr(WorldRenderer, 'render', lambda *args: drawn.append(args[2]) or plain(*args))
    after, *_ = env.step_chunk(still(2, 10))
    assert len(drawn) == 4
    frames = env.render()
    assert len(frames) == 2 and frames[0].shape == (16, 32, 3) and not np.array_equal(*frames)
    env.close()
    single = AlohaEnv(obs_type='pixels', cameras=['top', 'cam_left_wrist'], **SMALL)
    first, _ = single.reset(seed=7)
    assert all(np.array_equal(observation[name][1], first[name]) for name in first)
    for _ in range(10):
        last = single.step(START_JOINTS)[0]
    single.close()
    assert all(np.array_equal(after[name][1], last[name]) for name in last)
    assert after['top'].shape == (2, 24, 32, 3)


def test_a_world_that_diverges_is_truncated_alone_and_begins_anew():
    env = AlohaVectorEnv(3)
    env.reset(seed=0)
    before, *_ = env.step_chunk(still(3, 2))
    env._worlds._state[1, -env._worlds.model.mj.nv:] = 1e9
    with pytest.warns(DivergenceWarning, match='scene 1, world 1'):
        observation, rewards, terminations, truncations, infos = env.step_chunk(still(3, 4))
    assert truncations.tolist() == [[False] * 4, [False] * 3 + [True], [False] * 4]
    assert infos['diverged'].tolist() == [False, True, False] and not rewards.any() and not terminations.any()
    assert np.array_equal(observation['agent_pos'][1], before['agent_pos'][1])
    again, *_, infos = env.step_chunk(still(3, 4))
    assert infos['steps'].tolist() == [4, 0, 4] and infos['scene'][1] != 1 and not infos['diverged'].any()
    assert np.allclose(again['agent_pos'][1], START_JOINTS, atol=1e-12)
    env.close()


def test_an_episode_that_ended_before_the_physics_diverged_counts_as_it_ended():
    env = AlohaVectorEnv(1, max_episode_steps=2, out_of_range='clip')
    env.reset(seed=0)
    actions = still(1, 200)
    actions[:, 2:] = np.where(np.arange(198)[:, None] % 2, 9.0, -9.0)
    with pytest.warns(DivergenceWarning):
        _, _, _, truncations, infos = env.step_chunk(actions)
    assert np.argwhere(truncations).tolist() == [[0, 1]] and not infos['diverged'].any()
    env.close()


@pytest.mark.parametrize(('actions', 'message'), [
    (np.zeros((2, 14)), r'shape \(2, 14\), expected \(3, 14\)'), (np.full((3, 14), np.nan), 'not finite: left_waist'),
    (np.full((3, 14), 1.3), 'left_shoulder .*is 1.3')])
def test_actions_that_are_refused_move_nothing(actions, message):
    env = AlohaVectorEnv(3)
    env.reset(seed=0)
    with pytest.raises(ActionError, match=message):
        env.step(actions)
    with pytest.raises(ActionError, match=message.replace(', 14', ', 1, 14', 1).replace('(3, 14', '(3, any, 14')):
        env.step_chunk(actions[:, None])
    with pytest.raises(ActionError, match='at least one row'):
        env.step_chunk(still(3, 0))
    assert np.array_equal(env._worlds.last_target, still(3, 1)[:, 0])
    env.close()


@pytest.mark.parametrize(('options', 'error', 'message'), [
    ({'num_envs': 0}, ValueError, 'at least 1, got 0'),
    ({'max_episode_steps': 0}, ValueError, 'max_episode_steps must be at least 1, or None, got 0'),
    ({'autoreset_mode': 'Disabled'}, ValueError, "'Disabled': use NextStep or SameStep"),
    ({'autoreset_mode': AutoresetMode.DISABLED}, ValueError, 'use NextStep or SameStep'),
    ({'obs_type': 'smell'}, ValueError, 'unknown obs_type'), ({'cameras': ['x']}, RenderError, 'unknown camera'),
    ({'render_mode': 'human'}, ValueError, 'unknown render_mode')])
def test_bad_options_are_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        AlohaVectorEnv(**options)


def test_bad_seeds_and_options_of_a_reset_are_refused():
    env = AlohaVectorEnv(3)
    with pytest.raises(ValueError, match='2 seeds for 3 worlds'):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match='reset knows no options, got reset_mask'):
        env.reset(options={'reset_mask': np.ones(3, bool)})
    with pytest.raises(RenderError, match='render_mode'):
        env.render()
    assert len({generator.integers(2**40) for generator in env.np_random}) == len(set(env.np_random_seed)) == 3
    env.close()
