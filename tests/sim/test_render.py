"""Pictures of the simulated cell."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from fpo_ros.policy.transforms import resize_with_pad
from fpo_ros.sim.model import load_model
from fpo_ros.sim.render import CAMERA_SIZE, BatchRenderer, RenderError, WorldRenderer
from fpo_ros.sim.robots import VX300S
from fpo_ros.sim.task import sample_object_pose
from fpo_ros.sim.world import World

CAMERAS = VX300S.cameras
start_qpos = load_model('transfer_cube').start_qpos


@pytest.fixture(scope='module')
def renderer():
    with WorldRenderer('transfer_cube', 48, 64) as one:
        yield one


def scene(x: float, y: float) -> np.ndarray:
    return start_qpos(np.array([x, y, 0.02, 1, 0, 0, 0]))


def red(picture: np.ndarray) -> np.ndarray:
    """Return the mean row and column of the red pixels."""
    wide = picture.astype(int)
    mask = (wide[..., 0] > 90) & (wide[..., 0] > 2 * wide[..., 1]) & (wide[..., 0] > 2 * wide[..., 2])
    assert mask.any(), 'the cube is not in the picture'
    return np.argwhere(mask).mean(0)


def test_the_cube_moves_in_the_picture_with_its_pose(renderer):
    near, far, right = (
        red(renderer.render(scene(*place), 'cam_high')) for place in ((0.1, 0.45), (0.1, 0.6), (0.2, 0.45))
    )
    assert np.abs(far - near).max() > 2 and np.abs(right - near).max() > 2
    assert np.abs((far - near) @ (right - near)) < 0.3 * np.linalg.norm(far - near) * np.linalg.norm(
        right - near
    )


def test_pictures_repeat_and_show_the_arms(renderer):
    first = renderer.render(scene(0.1, 0.5), 'cam_high')
    assert first.shape == (48, 64, 3) and first.dtype == np.uint8
    moved = scene(0.1, 0.5)
    moved[1] += 0.5
    assert not np.array_equal(renderer.render(moved, 'cam_high'), first)
    assert np.array_equal(renderer.render(scene(0.1, 0.5), 'cam_high'), first)


def test_every_camera_of_the_cell_has_its_own_picture(renderer):
    pictures = [renderer.render(scene(0.1, 0.5), camera) for camera in CAMERAS]
    assert all(picture.std() > 5 for picture in pictures)
    for index, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[index + 1 :])


def test_an_unknown_camera_is_refused_with_the_known_ones(renderer):
    with pytest.raises(RenderError, match="unknown camera 'cam_moon': known cameras are cam_high"):
        renderer.render(scene(0.1, 0.5), 'cam_moon')


def test_an_unknown_mode_is_refused_with_the_known_ones():
    for renderer in (WorldRenderer, partial(BatchRenderer, 'transfer_cube', ('cam_high',))):
        arguments = (48, 64) if renderer is not WorldRenderer else ('transfer_cube', 48, 64)
        with pytest.raises(RenderError, match="unknown mode 'pretty' of drawing: use fast or faithful"):
            renderer(*arguments, mode='pretty')


def test_an_unknown_camera_of_a_batch_is_refused_before_anything_is_drawn():
    with pytest.raises(RenderError, match="unknown camera 'cam_moon'"):
        BatchRenderer('transfer_cube', ('cam_high', 'cam_moon'), 48, 64)


@pytest.mark.parametrize('size', [(0, 64), (48, -1)])
def test_a_picture_without_pixels_is_refused(size):
    with pytest.raises(RenderError, match=f'{size[0]} rows and {size[1]} columns cannot be drawn'):
        WorldRenderer('transfer_cube', *size)


def test_positions_of_another_shape_are_refused(renderer):
    for wrong in (np.zeros(3), np.zeros((2, 23))):
        with pytest.raises(ValueError, match=r'expected \(23,\) of one world'):
            renderer.render(wrong, 'cam_high')


def test_a_closed_renderer_says_so():
    one = WorldRenderer('transfer_cube', 24, 32)
    one.close()
    one.close()
    with pytest.raises(RuntimeError, match='cannot be called after close'):
        one.render(scene(0.1, 0.5), 'cam_high')


@pytest.mark.parametrize('size', [(48, 64), (64, 48), (40, 90)])
def test_what_is_left_out_of_view_would_not_be_seen(size, monkeypatch):
    """Every camera, along random motions of the arms: the same bytes as with everything drawn."""
    rng = np.random.default_rng(2)
    rows = [scene(*rng.uniform((0.0, 0.4), (0.2, 0.6))) for _ in range(12)]
    for row in rows:
        row[:16] += rng.normal(0.0, 0.5, 16) * np.tile([1] * 6 + [0.02] * 2, 2)
    with WorldRenderer('transfer_cube', *size) as one:
        seen = [[one.render(row, camera) for camera in CAMERAS] for row in rows]
        left_out = [one._out_of_view(view.fixedcamid, None).sum() for view in one._cameras.values()]
        monkeypatch.setattr(one, '_out_of_view', lambda camera, look: np.zeros(one._model.ngeom, bool))
        assert np.array_equal(seen, [[one.render(row, camera) for camera in CAMERAS] for row in rows])
    assert max(left_out) > 5, 'some are left out'


def test_a_batch_holds_worlds_by_cameras_in_order(renderer):
    qpos = np.stack([start_qpos(sample_object_pose('transfer_cube', seed)) for seed in (1, 2)])
    with BatchRenderer('transfer_cube', ('cam_angle', 'cam_high'), 48, 64) as batch:
        seen = batch.render_all(qpos)
    assert seen.shape == (2, 2, 48, 64, 3)
    assert np.array_equal(seen[1, 0], renderer.render(qpos[1], 'cam_angle'))
    assert np.array_equal(seen[0, 1], renderer.render(qpos[0], 'cam_high'))


@pytest.mark.parametrize('size', [(96, 96), (48, 64), (120, 80)])
def test_a_batch_shows_what_the_robot_makes_of_a_camera_frame(size):
    qpos = np.stack([start_qpos(sample_object_pose('transfer_cube', seed)) for seed in (1, 2)])
    with WorldRenderer('transfer_cube', *CAMERA_SIZE) as camera:
        frames = [[camera.render(row, name) for name in CAMERAS] for row in qpos]
    expected = np.array([[resize_with_pad(frame, *size) for frame in row] for row in frames])
    with BatchRenderer('transfer_cube', tuple(CAMERAS), *size) as batch:
        seen = batch.render_all(qpos)
    assert seen.shape == expected.shape == (2, len(CAMERAS), *size, 3)
    difference = np.abs(seen.astype(int) - expected)
    assert difference.mean((0, 2, 3, 4)).max() < 5, 'only the smoothing of edges differs'
    assert np.array_equal((seen == 0).all((0, 1, 3, 4)), (expected == 0).all((0, 1, 3, 4))), 'the same rows are black'


def test_rendering_does_not_disturb_the_physics(renderer):
    world = World('transfer_cube', seed=2)
    before = world.data.qpos.copy()
    renderer.render(world.data.qpos, 'cam_high')
    assert np.array_equal(world.data.qpos, before)


def test_a_program_that_closes_nothing_ends_without_a_word():
    code = ('from fpo_ros.sim.render import WorldRenderer\n'
            'kept = [WorldRenderer("transfer_cube", 8, 8) for _ in range(2)]\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == ''


def test_without_gl_the_error_says_what_to_install():
    code = (
        'from fpo_ros.sim.render import RenderError, WorldRenderer\n'
        'try:\n    WorldRenderer("transfer_cube", 8, 8)\n'
        'except RenderError as error:\n    print(error)\n'
    )
    environment = {**os.environ, 'MUJOCO_GL': 'disabled'}
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=100, env=environment
    )
    assert 'apt-get install' in done.stdout and 'MUJOCO_GL=disabled' in done.stdout, done


def test_a_bogus_gl_backend_is_one_line_that_names_it():
    code = 'from fpo_ros.sim.render import WorldRenderer\nWorldRenderer("transfer_cube", 8, 8)\n'
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, 'MUJOCO_GL': 'crayons'},
    )
    assert done.returncode == 1 and 'crayons' in done.stderr.splitlines()[-1]
