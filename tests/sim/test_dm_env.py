"""The dm_control environment: the contract of dm_env, the rules of all others, and dm_control's viewer."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from absl.testing import absltest
from dm_control import _render
from dm_control.rl.control import PhysicsError
from dm_control.suite.wrappers import pixels
from dm_control.viewer import renderer, runtime, viewer
from dm_env import StepType, test_utils
from gym_aloha.tasks.sim import BimanualViperXTask

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim.actions import ActionError
from fpo_ros.sim.dm_env import load
from fpo_ros.sim.gym_env import AlohaEnv
from fpo_ros.sim.model import load_model
from fpo_ros.sim.robots import UnknownRobotError
from fpo_ros.sim.task import UnknownTaskError


class TestContractTransferCube(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """What dm_env demands of every environment, over the end of an episode."""

    task = 'transfer_cube'

    def make_object_under_test(self):
        return load(self.task, seed=1, max_episode_steps=8)

    def make_action_sequence(self):
        for _ in range(20):
            yield START_JOINTS


class TestContractInsertion(TestContractTransferCube):
    """The same of the other task."""

    task = 'insertion'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes its warnings into MUJOCO_LOG.TXT."""
    monkeypatch.chdir(tmp_path)


def test_an_episode_is_that_of_the_gymnasium_environment_and_ends_with_discount_0_at_success(plans):
    ours, theirs = load('transfer_cube', seed=2), AlohaEnv('transfer_cube')
    first, (seen, _) = ours.reset(), theirs.reset(seed=2)
    assert np.array_equal(first.observation['env_state'], seen['environment_state'])
    for step, action in enumerate(plans[2]):
        before, (seen, reward, terminated, _, info) = ours.step(action), theirs.step(action)
        assert np.array_equal(before.observation['qpos'], seen['agent_pos']), f'control step {step}'
        assert np.array_equal(before.observation['env_state'], seen['environment_state'])
        assert before.reward == reward and ours.task.strict(ours.physics) == info['success_strict']
        assert (before.step_type is StepType.LAST) == terminated
        if terminated:
            break
        assert before.discount == 1.0
    assert terminated and before.discount == 0.0
    assert ours.step(START_JOINTS).step_type is StepType.FIRST


def test_an_episode_of_the_other_task_is_that_of_the_gymnasium_environment_too():
    ours, theirs = load('insertion', seed=5), AlohaEnv('insertion')
    ours.reset()
    theirs.reset(seed=5)
    rng = np.random.default_rng(0)
    targets = np.clip(START_JOINTS + np.cumsum(rng.normal(0, 0.02, (60, 14)), 0), theirs.action_space.low,
                      theirs.action_space.high)
    for action in targets:
        step, (seen, reward, *_) = ours.step(action), theirs.step(action)
        assert np.array_equal(step.observation['env_state'], seen['environment_state']) and step.reward == reward


def test_joints_and_their_velocities_are_what_gym_aloha_reads_from_the_same_physics():
    env = load(seed=0)
    env.reset()
    for _ in range(8):
        seen = env.step(START_JOINTS + 0.1).observation
        assert np.array_equal(seen['qpos'], BimanualViperXTask.get_qpos(env.physics))
        assert np.allclose(seen['qvel'], BimanualViperXTask.get_qvel(env.physics), rtol=1e-12, atol=0)
    assert np.abs(seen['qvel']).min() > 1e-6


def test_the_time_limit_ends_an_episode_with_discount_1_at_its_very_step():
    for limit in (1, 7, 300):
        env = load(seed=0, max_episode_steps=limit)
        env.reset()
        kinds = [env.step(START_JOINTS) for _ in range(limit)]
        assert all(step.step_type is StepType.MID and step.discount == 1.0 for step in kinds[:-1])
        assert kinds[-1].last() and kinds[-1].discount == 1.0


def test_an_episode_may_go_on_behind_success(plans):
    env = load(seed=2, end_on_success=False, max_episode_steps=None)
    env.reset()
    steps = [env.step(action) for action in plans[2]]
    assert steps[-1].reward == 4 and steps[-1].mid() and env.task.strict(env.physics)


def test_scenes_follow_the_seed_as_those_of_the_gymnasium_environment():
    env, other = load('insertion', seed=5), AlohaEnv('insertion')
    scenes = []
    for seed in (5, None, None):
        env.reset()
        scenes.append(env.task.scene)
        assert other.reset(seed=seed)[1]['scene'] == scenes[-1]
    assert len(set(scenes)) == 3
    assert not np.array_equal(load().reset().observation['env_state'], load().reset().observation['env_state'])


def test_actions_range_over_each_joint_and_are_refused_beyond():
    env = load(seed=0)
    spec, model = env.action_spec(), load_model('transfer_cube')
    assert np.array_equal(spec.minimum, model.lower) and np.array_equal(spec.maximum, model.upper)
    env.reset()
    for bad, message in ((np.zeros(13), r'expected \(14\)'), (np.full(14, np.nan), 'left_waist'),
                         (np.full(14, 1.3), 'left_shoulder is 1.3')):
        with pytest.raises(ActionError, match=message):
            env.step(bad)
    clipping = load(seed=0, out_of_range='clip')
    clipping.reset()
    clipping.step(np.full(14, 9.0))
    assert np.allclose(clipping.physics.data.ctrl, model.controls_of(model.upper))


@pytest.mark.parametrize(('options', 'error', 'message'), [
    ({'task': 'juggling'}, UnknownTaskError, 'known tasks are transfer_cube, insertion'),
    ({'robot': 'r2d2'}, UnknownRobotError, "unknown robot 'r2d2'"),
    ({'out_of_range': 'ignore'}, ValueError, 'use refuse or clip'),
    ({'max_episode_steps': 0}, ValueError, 'at least 1, or None, got 0')])
def test_bad_options_are_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        load(**options)


def test_diverged_physics_raises_dm_control_s_error_and_the_next_episode_is_sound():
    env = load(seed=0)
    env.reset()
    env.physics.data.qvel[:] = 1e9
    with pytest.raises(PhysicsError):
        env.step(START_JOINTS)
    assert np.allclose(env.reset().observation['qpos'], START_JOINTS, atol=1e-12)
    assert np.isfinite(env.step(START_JOINTS).observation['env_state']).all()


def test_the_physics_has_names_and_pictures_and_a_model_of_its_own():
    env = load(seed=3)
    env.reset()
    assert np.array_equal(env.physics.named.data.qpos['red_box_joint'], env.physics.data.qpos[-7:])
    env.physics.model.opt.gravity[2] = 0.0
    assert load_model('transfer_cube').mj.opt.gravity[2] == -9.81 == load().physics.model.opt.gravity[2]
    wrapped = pixels.Wrapper(env, pixels_only=False, render_kwargs={'height': 24, 'width': 32, 'camera_id': 'top'})
    picture = wrapped.reset().observation['pixels']
    assert picture.shape == (24, 32, 3) and picture.std() > 10
    env.physics.free()


class Device:
    """Mouse or keyboard that nobody touches, as far as dm_control's viewer asks."""

    def __getattr__(self, name: str) -> Device:
        return self

    def __iadd__(self, _: object) -> Device:
        return self

    __isub__ = __iadd__

    def __call__(self, *_: object) -> None:
        return None


def test_dm_control_s_viewer_plays_and_draws_it():
    env = load('transfer_cube', seed=0, max_episode_steps=10)
    running = runtime.Runtime(env, policy=lambda _: START_JOINTS)
    errors = []
    running.on_error += errors.append
    viewport = renderer.Viewport(64, 48)
    surface = _render.Renderer(max_width=64, max_height=48)
    drawing = renderer.OffScreenRenderer(env.physics.model, surface)
    window = viewer.Viewer(viewport, Device(), Device())
    window.initialize(env.physics, drawing, touchpad=False)
    window.zoom_to_scene()
    times = []
    for _ in range(6):
        running.tick(0.1, paused=False)
        window.render()
        times.append(running.get_time())
    assert not errors and times == sorted(times) and times[-1] == pytest.approx(0.2)
    assert running.state is runtime.State.STOPPED, 'the time limit ended the episode'
    assert drawing.pixels.shape == (48, 64, 3) and drawing.pixels.std() > 10
    running.restart()
    running.tick(0.02, paused=False)
    assert running.state is runtime.State.RUNNING and not errors
    window.deinitialize()
    drawing.release()
    surface.free()


def test_without_dm_control_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, 'fpo_ros.sim.dm_env')
    monkeypatch.setitem(sys.modules, 'dm_control', None)
    with pytest.raises(ImportError, match=r"needs dm_control: pip install 'dm-control>=1.0.30'"):
        import fpo_ros.sim.dm_env  # noqa: F401
