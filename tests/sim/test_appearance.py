"""Looks of the simulated cell: what each range changes, and that nothing of it stays."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from fpo_ros.sim.appearance import AppearanceError, AppearanceRanges
from fpo_ros.sim.model import load_model
from fpo_ros.sim.render import BatchRenderer, WorldRenderer

MODEL = load_model('transfer_cube')
QPOS = MODEL.start_qpos(np.array([0.1, 0.5, 0.02, 1, 0, 0, 0]))
HEIGHT, WIDTH = 72, 96
#: A range of each property that is far from changing nothing.
RANGES = {
    'camera_position_m': (0.02, 0.03), 'camera_rotation_rad': (0.05, 0.1), 'wrist_camera_position_m': (0.02, 0.03),
    'wrist_camera_rotation_rad': (0.05, 0.1), 'camera_fov_rad': (0.1, 0.2),
    'light_position_m': (0.2, 0.3), 'light_direction_rad': (0.3, 0.5), 'light_diffuse': (0.2, 0.5),
    'ambient': (0.2, 0.5), 'headlight': (0.2, 0.5), 'object_colour': (-0.6, 0.6), 'table_colour': (0.2, 0.5),
    'arm_colour': (-0.3, -0.1), 'background': (0.3, 0.9), 'noise_std': (3.0, 6.0), 'brightness': (10.0, 20.0),
    'contrast': (0.5, 0.8), 'gamma': (0.5, 0.8),
}
NAMES = [one.name for one in dataclasses.fields(AppearanceRanges)]


@pytest.fixture(scope='module', params=['fast', 'faithful'])
def renderer(request):
    with WorldRenderer('transfer_cube', HEIGHT, WIDTH, request.param) as one:
        one.name = request.param
        yield one


@pytest.fixture(scope='module')
def fast():
    with WorldRenderer('transfer_cube', HEIGHT, WIDTH) as one:
        yield one


@pytest.fixture(scope='module')
def large():
    with WorldRenderer('transfer_cube', 240, 320) as one:
        yield one


def look(seed: int = 0, **ranges):
    return AppearanceRanges(**ranges).sample(np.random.default_rng(seed), MODEL)


def the_red(picture: np.ndarray) -> np.ndarray:
    wide = picture.astype(int)
    return (wide[..., 0] > 60) & (wide[..., 0] > 2 * wide[..., 1]) & (wide[..., 0] > 2 * wide[..., 2])


def test_every_property_has_a_range_in_these_tests():
    assert sorted(RANGES) == sorted(NAMES)


def test_by_default_nothing_changes(renderer):
    assert not AppearanceRanges().active and AppearanceRanges(gamma=(0.9, 1.1)).active
    for camera in ('cam_high', 'cam_left_wrist'):
        assert np.array_equal(renderer.render(QPOS, camera, look()), renderer.render(QPOS, camera))


@pytest.mark.parametrize('name', NAMES)
def test_each_property_shows_and_leaves_nothing_behind(renderer, name):
    camera, other = ('cam_angle', 'cam_left_wrist')[::-1 if name.startswith('wrist_') else 1]
    before, beside = (renderer.render(QPOS, one) for one in (camera, other))
    changed = renderer.render(QPOS, camera, look(**{name: RANGES[name]}))
    # All lights of gym-aloha are directional: only where their shadows are drawn depends on where they are.
    unseen = name == 'light_position_m' and renderer.name == 'fast'
    assert np.array_equal(changed, before) == unseen
    assert np.array_equal(renderer.render(QPOS, camera), before)
    if 'position' in name or 'rotation' in name:  # of cameras that stand still, or of those on arms, not of both
        only = name.removeprefix('wrist_').startswith('camera_')
        assert np.array_equal(renderer.render(QPOS, other, look(**{name: RANGES[name]})), beside) == (only or unseen)


def test_all_at_once_leave_nothing_behind_at_any_camera(renderer):
    cameras = ('cam_high', 'cam_low', 'cam_right_wrist')
    before = [renderer.render(QPOS, camera) for camera in cameras]
    for seed in range(3):
        for camera, plain in zip(cameras, before, strict=True):
            assert not np.array_equal(renderer.render(QPOS, camera, look(seed, **RANGES)), plain)
    for camera, plain in zip(cameras, before, strict=True):
        assert np.array_equal(renderer.render(QPOS, camera), plain)


def test_an_appearance_that_fails_leaves_nothing_behind(fast):
    before = fast.render(QPOS, 'cam_high')
    broken = dataclasses.replace(look(**RANGES), table_colour=('red', 0, 0))
    with pytest.raises(ValueError):
        fast.render(QPOS, 'cam_high', broken)
    assert np.array_equal(fast.render(QPOS, 'cam_high'), before)


def test_the_same_draw_gives_the_same_picture_even_after_a_pickle(fast):
    first, again = look(3, **RANGES), look(3, **RANGES)
    assert first == again and hash(first) == hash(again) and first != look(4, **RANGES)
    back = pickle.loads(pickle.dumps(first))
    assert back == first
    assert np.array_equal(fast.render(QPOS, 'cam_high', first), fast.render(QPOS, 'cam_high', back))
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.gamma = 2.0


def test_a_range_that_changes_leaves_the_other_values_as_they_were():
    one, other = look(5, **RANGES), look(5, **{**RANGES, 'camera_position_m': (0.0, 0.0)})
    moving = [name.endswith('wrist') for name in map(lambda index: MODEL.mj.camera(index).name, range(MODEL.mj.ncam))]
    for shift, plain, wrist in zip(one.camera_shifts_m, other.camera_shifts_m, moving, strict=True):
        assert (shift == plain) == wrist and (plain == (0.0, 0.0, 0.0)) == (not wrist)
    assert dataclasses.replace(one, camera_shifts_m=other.camera_shifts_m) == other


def test_a_camera_that_turns_to_the_left_sees_things_further_right(large):
    def column(turn: float) -> float:
        turned = look(camera_rotation_rad=(0.0, 0.0))
        turns = list(turned.camera_turns_rad)
        turns[MODEL.mj.camera('angle').id] = (0.0, turn, 0.0)
        moved = dataclasses.replace(turned, camera_turns_rad=tuple(turns))
        return float(np.argwhere(the_red(large.render(QPOS, 'cam_angle', moved))).mean(0)[1])

    # About the camera's upward axis; a pixel at the middle is as wide as the field of view says.
    fov = np.deg2rad(MODEL.mj.cam_fovy[MODEL.mj.camera('angle').id])
    pixels = np.tan(0.1) * 240 / 2 / np.tan(fov / 2)
    assert column(0.1) - column(0.0) == pytest.approx(pixels, rel=0.1)


def test_a_camera_that_moves_back_and_one_that_sees_more_show_the_cube_smaller(large):
    size = the_red(large.render(QPOS, 'cam_angle')).sum()
    still = look()
    away = dataclasses.replace(still, camera_shifts_m=((0.0, 0.0, 0.3),) * MODEL.mj.ncam)
    wide = dataclasses.replace(still, camera_fov_rad=(0.5,) * MODEL.mj.ncam)
    for changed in (away, wide):
        assert 0 < the_red(large.render(QPOS, 'cam_angle', changed)).sum() < 0.8 * size


def test_colours_stay_on_what_they_belong_to(fast):
    plain = fast.render(QPOS, 'cam_angle').astype(int)
    cube = the_red(plain)
    repainted = fast.render(QPOS, 'cam_angle', dataclasses.replace(look(), object_colours=((-1.0, 1.0, 0.0),)))
    changed = (repainted != plain).any(-1)
    assert np.array_equal(changed, cube) and (repainted[cube][:, 1] > 2 * repainted[cube][:, 0]).all()
    for other in ({'table_colour': (0.0, 0.0, 0.5)}, {'arm_colour': (0.0, 0.0, 0.5)}):
        bluer = fast.render(QPOS, 'cam_angle', dataclasses.replace(look(), **other)).astype(int) - plain
        assert not bluer[cube].any() and (bluer[..., 2] > 20).mean() > 0.05
        assert not bluer[..., :2].any()


def test_the_background_has_its_colour_and_nothing_else_does(renderer):
    for camera in ('cam_high', 'cam_angle', 'cam_left_wrist'):
        plain = renderer.render(QPOS, camera)
        seen = renderer.render(QPOS, camera, dataclasses.replace(look(), background=(0.2, 0.6, 0.9)))
        behind = (plain == 0).all(-1)
        assert behind.any()
        exact = np.abs(seen[behind].astype(int) - (51, 153, 230)).max(-1) <= 1
        same = (seen[~behind] == plain[~behind]).all(-1)
        # A face may be black, and where edges are smoothed the background shines through.
        assert exact.mean() > 0.97 and same.mean() > (0.999 if renderer.name == 'fast' else 0.8)


def test_lights_make_it_darker_and_brighter(fast):
    def mean(**values: float) -> float:
        return float(fast.render(QPOS, 'cam_high', dataclasses.replace(look(), **values)).mean())

    lights = MODEL.mj.nlight
    plain = mean()
    for name, dim, bright in (('ambient', 0.5, 1.5), ('headlight', 0.5, 1.5),
                              ('light_diffuse', (0.5,) * lights, (1.5,) * lights)):
        assert mean(**{name: dim}) < plain < mean(**{name: bright}), name


def test_noise_has_its_strength_and_depends_on_the_frame_and_the_camera_alone(fast):
    grey = np.full((200, 300, 3), 128, np.uint8)
    noisy = look(noise_std=(4.0, 4.0))
    first = noisy.of_sensor(grey, 0, 0)
    assert first.astype(float).mean() == pytest.approx(128, abs=0.1)
    assert first.astype(float).std() == pytest.approx(np.hypot(4.0, np.sqrt(1 / 12)), rel=0.02)
    assert np.array_equal(noisy.of_sensor(grey, 0, 0), first)
    others = [noisy.of_sensor(grey, 1, 0), noisy.of_sensor(grey, 0, 1), look(1, noise_std=(4.0, 4.0)).of_sensor(
        grey, 0, 0)]
    for other in others:
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.01
    seen = [fast.render(QPOS, 'cam_high', noisy, frame=frame) for frame in (7, 8, 7)]
    assert np.array_equal(seen[0], seen[2]) and not np.array_equal(seen[0], seen[1])


def test_tones_are_what_their_formulas_say():
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    plain = look()
    wide = ramp.astype(float)
    for values, expected in (({'brightness': 20.0}, wide + 20), ({'contrast': 0.5}, (wide - 127.5) * 0.5 + 127.5),
                             ({'gamma': 2.0}, 255 * (wide / 255) ** 2),
                             ({'gamma': 0.5, 'contrast': 2.0, 'brightness': -5.0},
                              (255 * (wide / 255) ** 0.5 - 127.5) * 2 + 122.5)):
        seen = dataclasses.replace(plain, **values).of_sensor(ramp, 0, 0)
        assert np.abs(seen - np.clip(expected, 0, 255)).max() <= 0.51, values


def test_a_batch_gives_each_world_its_own_look():
    qpos = np.stack([QPOS, QPOS, QPOS])
    looks = [look(1, **RANGES), None, look(2, **RANGES)]
    with BatchRenderer('transfer_cube', ('cam_high', 'cam_angle'), HEIGHT, WIDTH) as batch:
        plain = batch.render_all(qpos)
        seen = batch.render_all(qpos, looks, [0, 0, 3])
        assert np.array_equal(batch.render_all(qpos), plain)
        for appearances, frames in ((looks[:2], None), (None, [0])):
            with pytest.raises(ValueError, match='for 3 worlds'):
                batch.render_all(qpos, appearances, frames)
    assert np.array_equal(seen[1], plain[1]) and not np.array_equal(seen[0], seen[2])
    with WorldRenderer('transfer_cube', HEIGHT, WIDTH) as one:
        for world, frame in ((0, 0), (2, 3)):
            for index, camera in enumerate(('cam_high', 'cam_angle')):
                assert np.array_equal(seen[world, index], one.render(QPOS, camera, looks[world], frame))


def test_black_borders_stay_black():
    with BatchRenderer('transfer_cube', ('cam_high',), 96, 96) as batch:
        bright = look(background=(1.0, 1.0), noise_std=(9.0, 9.0), brightness=(40.0, 40.0))
        seen = batch.render_all(QPOS[None], [bright])
    assert not seen[0, 0, :12].any() and not seen[0, 0, -12:].any() and seen[0, 0, 12:-12].any((1, 2)).all()


def test_an_appearance_of_another_model_is_refused():
    with WorldRenderer('insertion', 24, 32) as renderer:
        qpos = load_model('insertion').start_qpos(load_model('insertion').task.sample_object_pose(0))
        with pytest.raises(AppearanceError, match='1 objects and insertion on vx300s 2: sample it with the model'):
            renderer.render(qpos, 'cam_high', look())


def test_ranges_come_from_a_dictionary():
    ranges = AppearanceRanges.from_dict({'noise_std': [1, 4], 'contrast': (0.8, 1.2)})
    assert ranges == AppearanceRanges(noise_std=(1.0, 4.0), contrast=(0.8, 1.2))
    assert AppearanceRanges.from_dict({}) == AppearanceRanges()
    assert AppearanceRanges.from_dict(dataclasses.asdict(ranges)) == ranges


@pytest.mark.parametrize('values, message', [
    ({'noise': [0, 1]}, "unknown appearance 'noise': known are camera_position_m, .*, gamma"),
    ({3: [0, 1]}, "unknown appearance '3'"),
    ([1, 2], r'must map names to \[lowest, highest\], got \[1, 2\]'),
    ({'noise_std': 3}, r'noise_std must be two numbers \[lowest, highest\], got 3'),
    ({'noise_std': [1, 2, 3]}, 'noise_std must be two numbers'),
    ({'noise_std': ['1', 2]}, 'noise_std must be two numbers'),
    ({'noise_std': [True, 2]}, 'noise_std must be two numbers'),
    ({'noise_std': '12'}, 'noise_std must be two numbers'),
    ({'noise_std': None}, 'noise_std must be two numbers'),
    ({'noise_std': [4, 1]}, 'noise_std is upside down: 4 to 1; write the lowest value first'),
    ({'noise_std': [-1, 1]}, 'noise_std is out of bounds: -1 to 1, allowed 0 to 255'),
    ({'camera_position_m': [0, float('nan')]}, 'camera_position_m is not finite'),
    ({'camera_position_m': [0, float('inf')]}, 'camera_position_m is not finite'),
    ({'gamma': [0, 1]}, 'gamma is out of bounds: 0 to 1, allowed above 0'),
    ({'contrast': [-1, 1]}, 'contrast is out of bounds: -1 to 1, allowed from 0'),
    ({'background': [0, 200]}, 'background is out of bounds: 0 to 200, allowed 0 to 1'),
])
def test_ranges_that_cannot_be_are_one_clear_error(values, message):
    with pytest.raises(AppearanceError, match=message) as error:
        AppearanceRanges.from_dict(values)
    assert '\n' not in str(error.value)
