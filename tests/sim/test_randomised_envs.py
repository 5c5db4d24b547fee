"""gymnasium's environments with a randomisation: what they show is what sensors would, and episodes repeat."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from aloha2_cell import use_menagerie, write_cell
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from randomised import ALL, wander
from test_gym_env import RECOMMENDATION
from test_vector_env import CUBE, MODES, SMALL, assert_same, both, elsewhere, ends_of_random_episodes, still

from fpo_ros.nodes.locate import share_path
from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.appearance import AppearanceRanges
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.divergence import DivergenceWarning
from fpo_ros.sim.gym_env import AlohaEnv
from fpo_ros.sim.randomisation import Randomisation, RandomisationError
from fpo_ros.sim.registration import IDS
from fpo_ros.sim.vector_env import AlohaVectorEnv
from fpo_ros.sim.world import World

EXAMPLE = share_path('config/randomisation.yaml')
#: Everything, looks too.
WHOLE = replace(ALL, appearance=AppearanceRanges(noise_std=(1.0, 4.0), table_colour=(0.1, 0.4),
                                                 camera_position_m=(-0.05, 0.05), background=(0.2, 0.9)))
TWO = {'cameras': ['cam_high', 'cam_low'], **SMALL}
pytestmark = pytest.mark.usefixtures(elsewhere.__name__)


def fixed(**values: float) -> Randomisation:
    """Return a randomisation of fixed values."""
    return Randomisation(**{name: (value, value) for name, value in values.items()})


def rolled(env: AlohaEnv, targets: np.ndarray, seed: int = 3) -> list[dict]:
    """Return the observations of an episode of (T, 14) targets, its first among them."""
    seen = [env.reset(seed=seed)[0], *(env.step(target)[0] for target in targets)]
    env.close()
    return seen


@pytest.mark.parametrize('name', IDS.values())
@pytest.mark.parametrize('obs_type', ['state', 'pixels_agent_pos'])
def test_gymnasium_s_own_checker_finds_nothing_but_that_actions_are_angles(name, obs_type):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        env = gymnasium.make(name, obs_type=obs_type, render_mode='rgb_array', randomisation=str(EXAMPLE), **SMALL)
        check_env(env.unwrapped)
        env.close()
    assert [str(one.message) for one in said if RECOMMENDATION not in str(one.message)] == []


@pytest.mark.parametrize('task', IDS)
def test_a_world_alone_is_one_of_a_batch_bit_for_bit(task):
    targets, alone = wander(1, 12), World(task, 8, randomisation=WHOLE)
    for scene in (5, 8):
        with BatchedWorlds(task, 2, threads=1, randomisation=WHOLE) as worlds:
            worlds.reset(np.array([99, scene]))
            alone.reset(scene)
            for first, last in ((0, 1), (1, 6), (6, 12)):
                worlds.step(targets[:, first:last], np.array([1]))
                for target in targets[0, first:last]:
                    alone.set_targets(target)
                    alone.step()
                assert np.array_equal(alone.data.qpos, worlds.qpos[1])
                ours, theirs = alone.seen(), worlds.seen(np.array([1]))[0]
                for name in ('joints', 'camera_qpos', 'camera_frames'):
                    assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
                assert ours.looks == theirs.looks == worlds.appearances()[1] != worlds.appearances()[0]
                assert np.array_equal(ours.joints, worlds.observed_joints()[1])


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.filterwarnings('ignore::fpo_ros.sim.divergence.DivergenceWarning')
@pytest.mark.parametrize('options', [{}, {'obs_type': 'pixels_agent_pos', **TWO}])
def test_the_native_vector_environment_has_the_episodes_of_single_ones(mode, options):
    native, singles = both(CUBE, 3, mode, max_episode_steps=7, randomisation=WHOLE, **options)
    assert ends_of_random_episodes(native, singles, 60 if not options else 17) >= 6


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('length', 'cap'), [(7, 300), (50, 300), (50, 120)])
def test_a_chunk_gives_what_its_steps_give_until_an_episode_ends(plans, mode, length, cap):
    options = {'num_envs': 3, 'autoreset_mode': mode, 'max_episode_steps': cap, 'randomisation': ALL}
    chunked, stepped = AlohaVectorEnv(**options), AlohaVectorEnv(**options)
    assert_same(chunked.reset(seed=2)[0], stepped.reset(seed=2)[0])
    shown = {'NextStep': lambda after, infos, world: {key: value[world] for key, value in after.items()},
             'SameStep': lambda after, infos, world: infos['final_obs'][world]}[mode.value]
    for start in range(0, 245, length):
        actions, ended = plans[2:5, start:start + length], np.zeros(3, bool)
        observation, _, _, _, infos = chunked.step_chunk(actions)
        for step in range(actions.shape[1]):
            last, _, terminated, truncated, info = stepped.step(actions[:, step])
            for world in np.flatnonzero((terminated | truncated) & ~ended):
                assert_same(shown(observation, infos, world), shown(last, info, world))
                assert infos['steps'][world] == step + 1
            ended |= terminated | truncated
        for key in observation:
            assert np.array_equal(observation[key][~ended], last[key][~ended])
        if ended.any():
            break
    assert ended.any(), 'the case needs an end within a chunk'
    chunked.close()
    stepped.close()


def test_joints_are_observed_late_and_with_the_error_of_their_zeros():
    targets, offset = wander(1, 8)[0], np.where(np.isin(np.arange(14), (6, 13)), 0.0, 0.03)
    true = [one['agent_pos'] for one in rolled(AlohaEnv(), targets)]
    late = [one['agent_pos'] for one in rolled(AlohaEnv(randomisation=fixed(joint_latency_s=0.04)), targets)]
    assert all(np.array_equal(late[step], true[max(0, step - 2)]) for step in range(9))
    env = AlohaEnv(randomisation=fixed(joint_offset_rad=0.03))
    first, _ = env.reset(seed=3)
    np.testing.assert_allclose(first['agent_pos'], START_JOINTS, atol=1e-12)
    np.testing.assert_allclose(env._world.joints(), START_JOINTS - offset, atol=1e-12)


def test_targets_reach_the_arms_late():
    targets = wander(1, 8)[0]
    plain = [one['agent_pos'] for one in rolled(AlohaEnv(), np.concatenate([np.tile(START_JOINTS, (3, 1)), targets]))]
    late = [one['agent_pos'] for one in rolled(AlohaEnv(randomisation=fixed(action_latency_s=0.06)), targets)]
    assert all(np.array_equal(late[step], plain[step]) for step in range(9))


def test_pictures_are_late_each_camera_by_its_own_and_repeat_where_frames_are_lost():
    targets, options = np.tile(np.where(np.arange(14) == 1, 0.0, START_JOINTS), (14, 1)), {'obs_type': 'pixels', **TWO}
    true = rolled(AlohaEnv(**options), targets)
    late = rolled(AlohaEnv(randomisation=Randomisation(camera_latency_s={'cam_low': (0.06, 0.06)}), **options), targets)
    for step in range(15):
        assert np.array_equal(late[step]['cam_high'], true[step]['cam_high'])
        assert np.array_equal(late[step]['cam_low'], true[max(0, step - 3)]['cam_low'])
    lost = rolled(AlohaEnv(randomisation=fixed(camera_drop_probability=0.5), **options), targets)
    for camera in ('cam_high', 'cam_low'):
        kept = [np.array_equal(lost[step][camera], true[step][camera]) for step in range(15)]
        assert 0 < sum(kept) < 15
        for step in range(1, 15):
            assert kept[step] or np.array_equal(lost[step][camera], lost[step - 1][camera])


def test_pictures_and_films_have_the_looks_of_the_episode():
    options = {'obs_type': 'pixels', 'render_mode': 'rgb_array', **TWO}
    env, plain = (AlohaEnv(randomisation=some, **options) for some in (
        Randomisation(appearance=AppearanceRanges(background=(1.0, 1.0))), None))
    (ours, _), (theirs, _) = env.reset(seed=1), plain.reset(seed=1)
    for seen, before in ((ours['cam_low'], theirs['cam_low']), (env.render(), plain.render())):
        behind = (before == 0).all(-1)
        assert behind.sum() > 20 and (seen[behind] >= 250).all(-1).mean() > 0.9
        assert (seen[~behind] == before[~behind]).all(-1).mean() > 0.99
    env.close()
    plain.close()


def test_every_frame_has_noise_of_its_own_the_same_again():
    some = Randomisation(appearance=AppearanceRanges(noise_std=(20.0, 20.0)))
    env = AlohaEnv(randomisation=some, obs_type='pixels', **TWO)
    first, second, third = rolled(env, still(1, 2)[0])
    for camera in ('cam_high', 'cam_low'):
        for one, other in ((first, second), (second, third)):
            assert (one[camera] != other[camera]).mean() > 0.3
        assert np.array_equal(rolled(env, still(1, 1)[0])[1][camera], second[camera])


def test_an_episode_is_that_of_its_scene_and_the_seed_of_the_randomisation_from_a_file_too(tmp_path):
    (tmp_path / 'mine.yaml').write_text('seed: 4\nactuator_gain: [0.7, 1.3]\njoint_noise_rad: [0.001, 0.01]\n')
    same = Randomisation(seed=4, actuator_gain=(0.7, 1.3), joint_noise_rad=(0.001, 0.01))
    targets = wander(1, 5)[0]
    first, *again = (rolled(AlohaEnv(randomisation=one), targets)[-1]['agent_pos'] for one in (
        same, tmp_path / 'mine.yaml', str(tmp_path / 'mine.yaml'), pickle.loads(pickle.dumps(same))))
    assert all(np.array_equal(one, first) for one in again)
    env = AlohaEnv(randomisation=same)
    rolled(env, targets, seed=77)
    assert np.array_equal(rolled(env, targets)[-1]['agent_pos'], first), 'whatever came before'
    assert not np.array_equal(rolled(env, targets, seed=5)[-1]['agent_pos'], first)
    other = rolled(AlohaEnv(randomisation=replace(same, seed=5)), targets)[-1]['agent_pos']
    assert not np.array_equal(other, first)
    env.reset(seed=3)
    assert np.array_equal(env.drawn.actuator_gain, same.draw(3, env._world.model).actuator_gain)
    vector = AlohaVectorEnv(2, randomisation=same)
    vector.reset(seed=3)
    assert np.array_equal(vector.drawn[0].actuator_gain, env.drawn.actuator_gain)
    vector.close()


def test_ranges_that_change_nothing_are_no_randomisation_at_all():
    targets, options = wander(1, 6)[0], {'obs_type': 'pixels_agent_pos', **TWO}
    plain = rolled(AlohaEnv(**options), targets)
    for seed in (0, 9):
        env = AlohaEnv(randomisation=Randomisation(seed=seed), **options)
        for ours, theirs in zip(rolled(env, targets), plain, strict=True):
            assert_same(ours, theirs)
        assert env.drawn is None and env._world.seen() is None
    with BatchedWorlds('transfer_cube', 1, randomisation=Randomisation(seed=9)) as worlds:
        assert worlds.randomisation is None and worlds.seen() is None and worlds.drawn() == [None]


@pytest.mark.parametrize('number', [1, 2])
def test_physics_that_diverge_leave_what_was_seen_before(number):
    options = {'randomisation': WHOLE, 'obs_type': 'pixels_agent_pos', **TWO}
    if number == 1:
        env = AlohaEnv(**options)
        env.reset(seed=4)
        good = env.step(START_JOINTS)[0]
        env._world.data.qvel[:] = 1e9
        with pytest.warns(DivergenceWarning, match='scene 4'):
            shown, _, _, truncated, _ = env.step(START_JOINTS)
        assert truncated
    else:
        env = AlohaVectorEnv(2, **options)
        env.reset(seed=4)
        good = env.step_chunk(still(2, 2))[0]
        env._worlds._state[:, -env._worlds.model.mj.nv:] = 1e9
        with pytest.warns(DivergenceWarning):
            shown, _, _, truncated, _ = env.step_chunk(still(2, 3))
        assert truncated[:, -1].all()
    assert_same(shown, good)
    env.close()


def test_a_failure_behind_the_end_of_an_episode_does_not_change_what_its_last_step_shows():
    actions = still(1, 200)
    actions[:, 2:] = np.where(np.arange(198)[:, None] % 2, 9.0, -9.0)
    late = Randomisation(joint_latency_s=(0.01, 0.03), joint_noise_rad=(0.001, 0.01))  # damped arms would not fail
    envs = [AlohaVectorEnv(1, max_episode_steps=5, out_of_range='clip', randomisation=late) for _ in range(2)]
    for env in envs:
        env.reset(seed=0)
        env.step_chunk(wander(1, 3))
    with pytest.warns(DivergenceWarning):
        failed = envs[0].step_chunk(actions)
    whole = envs[1].step_chunk(actions[:, :2])
    assert_same(failed[0], whole[0])
    assert not failed[4]['diverged'].any() and np.argwhere(failed[3]).tolist() == [[0, 1]]
    for env in envs:
        env.close()


@pytest.mark.parametrize(('given', 'message'), [
    ('none.yaml', 'cannot read none.yaml: No such file'),
    ({'actuator_gain': [1, 2]}, 'must be a Randomisation, the path of a YAML file, or None, got {'),
    (Randomisation(camera_latency_s={'cam_moon': (0, 0.1)}), "unknown camera 'cam_moon'")])
def test_what_is_no_randomisation_for_the_task_is_one_clear_error(given, message):
    for make in (AlohaEnv, AlohaVectorEnv):
        with pytest.raises(RandomisationError, match=message):
            make(randomisation=given)


def test_a_randomised_world_is_stepped_by_whole_control_steps():
    world = World('transfer_cube', randomisation=ALL)
    with pytest.raises(ValueError, match='whole control steps of 10 physics steps, got 5'):
        world.step(5)
    whole, parts = (World('transfer_cube', randomisation=ALL) for _ in range(2))
    whole.step(30)
    for _ in range(3):
        parts.step()
    assert np.array_equal(whole.data.qpos, parts.data.qpos) and np.array_equal(whole.seen().joints, parts.seen().joints)


def test_registered_environments_take_a_randomisation_through_gymnasium():
    single = gymnasium.make(CUBE, randomisation=ALL)
    vector = gymnasium.make_vec(CUBE, 2, randomisation=ALL)
    assert isinstance(vector, AlohaVectorEnv) and vector.metadata['autoreset_mode'] is AutoresetMode.NEXT_STEP
    assert_same({key: value[1] for key, value in vector.reset(seed=6)[0].items()}, single.reset(seed=7)[0])
    vector.close()


def test_the_other_arms_are_randomised_as_well(monkeypatch, tmp_path):
    scene = write_cell(tmp_path)
    use_menagerie(monkeypatch, lambda entry: scene)
    targets, options = np.tile(START_JOINTS, (6, 1)), {'robot': 'aloha2', 'out_of_range': 'clip'}
    targets[:, [1, 8]] += 0.2
    with BatchedWorlds('insertion', 1, randomisation=WHOLE, **options) as worlds:
        worlds.reset(np.array([3]))
        worlds.step(targets[None])
        alone, plain = World('insertion', 3, randomisation=WHOLE, **options), World('insertion', 3, **options)
        for world in (alone, plain):
            for target in targets:
                world.set_targets(target)
                world.step()
        assert np.array_equal(worlds.qpos[0], alone.data.qpos)
        assert np.array_equal(worlds.observed_joints()[0], alone.seen().joints)
    # Every gain is that of Menagerie's servo by its factor, the two fingers' one of a gripper too.
    gains = alone.mj.actuator_gainprm[:, 0] / plain.mj.actuator_gainprm[:, 0]
    assert np.array_equal(alone.mj.actuator_biasprm[:, 1], -alone.mj.actuator_gainprm[:, 0])
    np.testing.assert_allclose(gains, alone.drawn.actuator_gain)
    np.testing.assert_allclose((alone.mj.dof_damping - plain.mj.dof_damping)[alone.model.arm_dofs],
                               np.delete(alone.drawn.joint_damping, (6, 13)).reshape(2, 6))
    shown = [AlohaEnv('insertion', 'pixels', randomisation=some, **options, **TWO).reset(seed=3)[0]['cam_low']
             for some in (WHOLE, None)]
    assert (shown[0] != shown[1]).any(-1).mean() > 0.9
