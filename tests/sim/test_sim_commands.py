"""``fpo-ros sim``: what a person sees, without a display too."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys

import av
import mujoco
import numpy as np
import pytest

from fpo_ros.policy.checkpoint import FlowPolicy
from fpo_ros.policy.config import preset
from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.policy.pi0 import Pi0
from fpo_ros.sim.actors import DivergedError, episode, expert_of, hold, policy_of
from fpo_ros.sim.randomisation import Randomisation
from fpo_ros.sim.registration import IDS
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.task import REST_STEPS
from fpo_ros.sim.viewer import LINGER, NoDisplayError, open_window, view
from fpo_ros.sim.world import World


def saved_policy(directory, **options):
    """Save an untrained policy and return its directory."""
    contract = PolicyContract(**options)
    stats = NormStats(np.zeros(contract.state_dim), np.ones(contract.state_dim), START_JOINTS, np.full(14, 0.1))
    directory.mkdir()
    FlowPolicy(Pi0(preset('pi0_tiny'), contract), stats).save(directory)
    return directory


def frames_of(path) -> list[np.ndarray]:
    """Return the frames of a film."""
    with av.open(str(path)) as film:
        assert film.streams.video[0].average_rate == 25
        return [frame.to_ndarray(format='rgb24') for frame in film.decode(video=0)]


def red(picture: np.ndarray) -> np.ndarray:
    """Return the mean row and column of the cube's pixels."""
    wide = picture.astype(int)
    return np.argwhere((wide[..., 0] > 90) & (wide[..., 0] > 2 * wide[..., 1:].max(-1))).mean(0)


@pytest.mark.parametrize('verb', ['sim', 'sim view', 'sim film', 'sim tasks'])
def test_every_verb_explains_itself(fpo_ros, verb):
    code, out, err = fpo_ros(*verb.split(), '--help')
    assert code == 0 and not err and f'Usage: fpo-ros {verb}' in re.sub(r'\x1b\[[0-9;]*m', '', out)


def test_tasks_are_listed_for_people_and_for_programs(fpo_ros):
    code, out, _ = fpo_ros('sim', 'tasks')
    assert code == 0
    for word in (*IDS, *IDS.values(), '300, 400 steps', 'vx300s', 'cam_high (top)', 'Insert the peg into the socket'):
        assert word in out, word
    code, out, _ = fpo_ros('sim', 'tasks', '--json')
    found = json.loads(out.splitlines()[-1])
    assert [(one['task'], one['id'], one['time_limits']) for one in found['tasks']] == [
        (task, name, [300, 400]) for task, name in IDS.items()]
    assert {one['robot']: one['cameras'] for one in found['robots']}['vx300s'] == VX300S.cameras


def test_a_film_shows_the_expert_s_success_and_a_second_after_it(fpo_ros, tmp_path):
    code, out, err = fpo_ros('sim', 'film', '--out', tmp_path / 'film.mp4', '--seed', 2, '--expert', '--fast',
                             '--camera', 'cam_high', '--height', 97, '--width', 128)
    assert code == 0, err
    success, count = map(int, re.search(r'scene 2 of transfer_cube, success at control step (\d+); (\d+) frames',
                                        out).groups())
    frames = frames_of(tmp_path / 'film.mp4')
    assert len(frames) == count == min(300, success + 50) // 2 + min(300, success + 50) % 2
    assert frames[0].shape == (96, 128, 3)
    assert np.linalg.norm(red(frames[-1]) - red(frames[0])) > 5, 'the cube was carried away'


def test_a_film_without_anybody_who_moves_the_arms_stands_still_and_runs_to_its_end(fpo_ros, tmp_path):
    code, out, err = fpo_ros('sim', 'film', '--task', 'insertion', '--out', tmp_path / 'film.mp4', '--steps', 41,
                             '--height', 48, '--width', 64)
    assert code == 0 and 'no success, stage 0 of 4; 21 frames' in out, err
    assert len(frames_of(tmp_path / 'film.mp4')) == 21


def test_a_film_of_a_randomised_episode_has_its_looks_and_its_physics(fpo_ros, tmp_path):
    (tmp_path / 'mine.yaml').write_text('object_size: [1.4, 1.4]\nappearance: {background: [0.8, 0.8]}\n')
    shape = ('--steps', 41, '--fast', '--height', 240, '--width', 320)
    for name, more in (('plain', ()), ('mine', ('--randomisation', tmp_path / 'mine.yaml'))):
        code, out, err = fpo_ros('sim', 'film', '--out', tmp_path / f'{name}.mp4', *shape, *more)
        assert code == 0 and '; 21 frames' in out, err
    plain, mine = (frames_of(tmp_path / f'{name}.mp4')[-1].astype(int) for name in ('plain', 'mine'))
    assert (plain[:5, :5] < 20).all() and (np.abs(mine[:5, :5] - 204) < 8).all(), 'four fifths of 255'
    count, large = (((one[..., 0] > 90) & (one[..., 0] > 2 * one[..., 1:].max(-1))).sum() for one in (plain, mine))
    assert large == pytest.approx(1.96 * count, rel=0.2), 'the square of 1.4'
    world = World('transfer_cube', 0, randomisation=Randomisation.load(tmp_path / 'mine.yaml'))
    world.step(410)
    assert world.object_pose()[2] == pytest.approx(1.4 * 0.02, abs=1e-3)


@pytest.mark.parametrize('verb', ['film', 'view'])
def test_a_file_that_is_no_randomisation_is_one_clear_error(fpo_ros, tmp_path, verb):
    (tmp_path / 'mine.yaml').write_text('gain: [1, 2]')
    out = ('--out', tmp_path / 'film.mp4') if verb == 'film' else ()
    code, _, err = fpo_ros('sim', verb, '--randomisation', tmp_path / 'mine.yaml', *out)
    assert code == 1 and "mine.yaml: unknown key 'gain'" in ' '.join(err.split())
    assert not (tmp_path / 'film.mp4').exists()


@pytest.mark.parametrize('options', [
    {}, {'observation': 'pixels', 'cameras': ('cam_high',), 'image_height': 32, 'image_width': 32}])
def test_a_policy_decides_by_what_is_measured_and_seen(tmp_path, options):
    directory = saved_policy(tmp_path / 'policy', horizon=10, execute=10, **options)

    def decided(some: Randomisation | None) -> np.ndarray:
        """Return the targets of the second decision."""
        world = World('transfer_cube', 3, randomisation=some)
        steps = episode(world, policy_of(directory, 'transfer_cube'), max_steps=REST_STEPS + 11)
        assert len(list(steps)) == REST_STEPS + 11
        return world.targets

    # Later than the episode is long: joints as at the start, so that the second decision is another one.
    late = {'joint_latency_s': (1.0, 1.0), 'camera_latency_s': {'cam_high': (1.0, 1.0)}}
    plain = decided(None)
    assert np.array_equal(plain, decided(Randomisation()))
    assert not np.array_equal(plain, decided(Randomisation(joint_latency_s=(1.0, 1.0))))
    if options:
        joints = decided(Randomisation(joint_latency_s=(1.0, 1.0)))
        assert not np.array_equal(joints, decided(Randomisation(**late)))
        assert np.array_equal(decided(Randomisation(**late)), decided(Randomisation(**late)))


@pytest.mark.parametrize('options', [
    {}, {'observation': 'pixels', 'cameras': ('cam_high',), 'image_height': 32, 'image_width': 32}])
def test_a_policy_moves_the_arms_by_its_contract(tmp_path, options):
    directory = saved_policy(tmp_path / 'policy', horizon=10, execute=4, **options)
    paths = []
    for _ in range(2):
        world = World('transfer_cube', 3)
        assert len(list(episode(world, policy_of(directory, 'transfer_cube'), max_steps=20))) == 20
        paths.append(world.joints())
    assert np.array_equal(*paths) and not np.allclose(paths[0], START_JOINTS, atol=1e-3)


def test_an_episode_goes_on_a_while_behind_success_and_ends_at_the_limit():
    world = World('transfer_cube', 2)
    stages = [stage for _, stage in episode(world, expert_of('transfer_cube'), None, linger=5)]
    assert stages.index(4) == len(stages) - 6
    world.reset(2)
    assert len(list(episode(world, expert_of('transfer_cube'), len(stages) - 3, linger=5))) == len(stages) - 3
    world.reset(2)
    assert len(list(episode(world, hold, 7))) == 7


def test_an_episode_whose_physics_diverges_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into MUJOCO_LOG.TXT
    world = World('transfer_cube', 2)
    steps = episode(world, hold, 20)
    next(steps)
    world.data.qvel[:] = 1e9
    with pytest.raises(DivergedError, match='transfer_cube diverged at control step 2'):
        next(steps)


class Window:
    """MuJoCo's passive viewer, as far as it is used here, which a person closes after some pictures."""

    def __init__(self, pictures: int, world: World) -> None:
        self.left, self.world, self.locked, self.seen = pictures, world, False, []

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.seen.append('closed')

    def is_running(self) -> bool:
        return self.left > 0

    @contextlib.contextmanager
    def lock(self):
        assert not self.locked
        self.locked = True
        try:
            yield
        finally:
            self.locked = False

    def sync(self) -> None:
        assert not self.locked
        self.left -= 1
        self.seen.append(self.world.data.time)


class Clock:
    """Seconds that pass when somebody sleeps, and 5 ms per picture."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def __call__(self) -> float:
        self.now += 0.005
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def shown(actor, pictures: int, max_steps: int | None, seed: int = 2) -> tuple[Window, Clock, list[str]]:
    world, clock, said = World('transfer_cube', seed), Clock(), []
    window = Window(pictures, world)
    view(world, actor, seed, said.append, max_steps=max_steps, window=lambda _: window, clock=clock, sleep=clock.sleep)
    return window, clock, said


def test_a_window_shows_every_control_step_in_real_time_until_it_is_closed():
    window, clock, said = shown(hold, 100, None)
    assert np.allclose(window.seen[:-1], 0.02 * np.arange(1, 101)) and window.seen[-1] == 'closed' and not said
    assert clock.now == pytest.approx(2.0, abs=0.03), '100 control steps of 20 ms'
    assert all(0 < seconds < 0.02 for seconds in clock.slept)


def test_scenes_follow_each_other_in_a_window_and_their_ends_are_told():
    first = len(list(episode(World('transfer_cube', 2), expert_of('transfer_cube'), 300, LINGER)))
    window, _, said = shown(expert_of('transfer_cube'), first + 5, 300)
    assert said == [f'scene 2: success at control step {first - LINGER}']
    assert window.seen[first] == pytest.approx(0.02), 'the next scene began'
    _, _, said = shown(hold, 12, 5)
    assert said == ['scene 2: no success, stage 0 of 4', 'scene 3: no success, stage 0 of 4']


def test_a_window_goes_on_with_the_next_scene_when_the_physics_diverges(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def pull(world: World):
        yield world.targets
        world.data.qvel[:] = 1e9
        yield world.targets

    _, _, said = shown(pull, 2, None)
    assert said == ['scene 2: the physics of transfer_cube diverged at control step 2']


def test_without_a_display_the_error_names_the_film(fpo_ros, monkeypatch):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'platform', 'linux')
    code, out, err = fpo_ros('sim', 'view', '--expert')
    assert code == 1 and not out
    assert re.fullmatch('fpo-ros: no window can be opened: neither DISPLAY .*"fpo-ros sim film --out film.mp4"\n', err)


def test_a_display_that_does_not_answer_is_an_error_too_and_no_wait(monkeypatch):
    monkeypatch.setenv('DISPLAY', ':987')
    monkeypatch.delenv('WAYLAND_DISPLAY', raising=False)
    with pytest.raises(NoDisplayError, match='no window can be opened: .*:987.*fpo-ros sim film'):
        open_window(World('transfer_cube'))


@pytest.mark.parametrize(('options', 'message'), [
    (('--task', 'juggling'), "unknown task 'juggling': known tasks are transfer_cube, insertion"),
    (('--robot', 'r2d2'), "unknown robot 'r2d2'"), (('--camera', 'cam_moon'), "unknown camera 'cam_moon'"),
    (('--expert', '--policy', 'x'), '--policy and --expert cannot both'),
    (('--policy', 'nowhere'), 'nowhere/policy.json does not exist')])
def test_bad_choices_are_one_line(fpo_ros, tmp_path, options, message):
    code, _, err = fpo_ros('sim', 'film', '--out', tmp_path / 'film.mp4', *options)
    assert code == 1 and err.startswith(f'fpo-ros: {message}') and err.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_a_film_that_cannot_be_is_refused_before_anything_is_drawn(fpo_ros, tmp_path, monkeypatch):
    monkeypatch.setattr('fpo_ros.sim.world.World.__init__', None)
    for name, message in (('film.gif', 'is no name of a film: end it in .mp4'),
                          ('missing/film.mp4', 'is no directory: make it first')):
        code, _, err = fpo_ros('sim', 'film', '--out', tmp_path / name)
        assert code == 1 and message in err and err.count('\n') == 1


def test_without_gl_a_film_is_one_line(fpo_ros, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise ImportError('no EGL here')

    monkeypatch.setattr(mujoco, 'Renderer', broken)
    code, _, err = fpo_ros('sim', 'film', '--out', tmp_path / 'film.mp4')
    assert code == 1 and 'cannot make a GL context' in err and err.count('\n') == 1


def test_a_policy_of_another_task_is_refused(tmp_path):
    directory = saved_policy(tmp_path / 'policy')
    with pytest.raises(ValueError, match='is a policy of transfer_cube, not of insertion: use --task transfer_cube'):
        policy_of(directory, 'insertion')


def test_the_list_of_tasks_needs_no_mujoco():
    code = ('import sys\nfrom fpo_ros.sim.cli import tasks\ntasks(as_json=True)\n'
            'assert not {"mujoco", "torch", "cv2"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60, capture_output=True)
