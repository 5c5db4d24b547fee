"""Delays, offsets, noise and losses between worlds and a policy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from randomised import ALL, stepped, wander

from fpo_ros.policy.contract import GRIPPER_COLUMNS, START_JOINTS
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.divergence import DivergenceWarning
from fpo_ros.sim.latency import Latency
from fpo_ros.sim.model import SUBSTEPS, load_model
from fpo_ros.sim.randomisation import Randomisation
from fpo_ros.sim.render import BatchRenderer, WorldRenderer

MODEL = load_model('transfer_cube')
ARMS = np.delete(np.arange(14), GRIPPER_COLUMNS)


def fixed(**values: float) -> Randomisation:
    """Return a randomisation of fixed values."""
    return Randomisation(**{name: (value, value) for name, value in values.items()})


def in_chunks(worlds: BatchedWorlds, targets: np.ndarray, lengths: list[int]) -> np.ndarray:
    """Return the (N, T, nq) positions of (N, T, 14) targets that are executed in chunks."""
    ends = np.cumsum(lengths)
    return np.concatenate([worlds.step(targets[:, end - length:end]).qpos
                           for end, length in zip(ends, lengths, strict=True)], 1)


@pytest.mark.parametrize('steps', [1, 7, 10, 23])
def test_targets_reach_the_servos_so_many_physics_steps_later_across_chunks(steps):
    targets = wander(1, 12)
    with BatchedWorlds('transfer_cube', 1, randomisation=fixed(action_latency_s=steps * 0.002)) as worlds:
        worlds.reset(np.array([3]))
        start = worlds.qpos[0].copy()
        qpos = in_chunks(worlds, targets, [1, 2, 1, 8])
        assert np.array_equal(worlds.last_target[0], targets[0, -1]), 'the last target is the one that was sent'
    controls = np.repeat(MODEL.controls_of(targets[0]), SUBSTEPS, 0)
    waiting = np.tile(MODEL.controls_of(START_JOINTS), (steps, 1))
    expected = stepped(MODEL.mj, start, np.concatenate([waiting, controls])[:len(controls)])
    assert np.array_equal(qpos[0], expected[SUBSTEPS - 1::SUBSTEPS])


def test_a_reset_clears_targets_that_are_on_their_way():
    targets = wander(1, 6)
    with BatchedWorlds('transfer_cube', 1, randomisation=fixed(action_latency_s=0.1)) as worlds:
        worlds.reset(np.array([3]))
        first = worlds.step(targets).qpos
        worlds.step(targets)
        worlds.reset(np.array([3]))
        assert np.array_equal(worlds.step(targets).qpos, first)


def test_worlds_that_are_not_stepped_keep_what_is_on_its_way():
    targets, some = wander(2, 6), fixed(action_latency_s=0.03, joint_latency_s=0.05)
    with BatchedWorlds('transfer_cube', 2, randomisation=some) as together, \
            BatchedWorlds('transfer_cube', 2, randomisation=some) as apart:
        for worlds in (together, apart):
            worlds.reset(np.array([1, 2]))
        qpos = together.step(targets).qpos
        for world in (1, 0):
            where = np.array([world])
            parts = [apart.step(targets[where, part], where).qpos for part in (slice(4), slice(4, None))]
            assert np.array_equal(np.concatenate(parts, 1), qpos[where])
        assert np.array_equal(apart.observed_joints(), together.observed_joints())
        assert np.array_equal(apart.observed_joints(np.array([1, 0])), together.observed_joints()[::-1])


@pytest.mark.parametrize('steps', [0, 3, 20, 65])
def test_measured_joints_are_those_of_so_many_physics_steps_ago(steps):
    targets = wander(1, 12)
    with BatchedWorlds('transfer_cube', 1, randomisation=fixed(joint_latency_s=steps * 0.002)) as worlds:
        worlds.reset(np.array([4]))
        start, seen = worlds.qpos[0].copy(), [worlds.observed_joints()[0]]
        for first, last in ((0, 1), (1, 4), (4, 12)):
            worlds.step(targets[:, first:last])
            seen.append(worlds.observed_joints()[0])
        assert np.array_equal(seen[-1], worlds.joints()[0]) == (steps == 0), 'the truth stays within reach'
    true = np.concatenate([[start], stepped(MODEL.mj, start, np.repeat(MODEL.controls_of(targets[0]), SUBSTEPS, 0))])
    expected = [MODEL.joints_of(true[max(0, now - steps)]) for now in (0, 10, 40, 120)]
    assert np.array_equal(seen, expected)


def test_every_camera_has_a_delay_of_its_own():
    some = Randomisation(camera_latency_s={'cam_high': (0.02, 0.02), 'cam_low': (0.06, 0.06)})
    targets = wander(1, 8)
    with BatchedWorlds('transfer_cube', 1, randomisation=some) as worlds:
        worlds.reset(np.array([4]))
        positions = [worlds.qpos[0].copy(), *worlds.step(targets).qpos[0]]
        for camera, ago in (('cam_high', 1), ('cam_low', 3), ('cam_angle', 0)):
            assert np.array_equal(worlds.camera_qpos(camera)[0], positions[8 - ago])
            assert worlds.camera_frames(camera) == [8], 'the number of a frame is when it arrives'


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=8), st.integers(0, 25), st.floats(0.0, 0.9),
       st.integers(0, 10**6))
def test_a_lost_frame_is_replaced_by_the_one_before_however_time_is_cut(lengths, delay, lost, scene):
    some = Randomisation(camera_latency_s={'cam_high': (delay * 0.002,) * 2}, camera_drop_probability=(lost, lost))
    latency, whole = (Latency(MODEL, some, 1) for _ in range(2))
    total, where = sum(lengths), np.array([0])
    # The position says which physics step it is of.
    line = np.arange(total * SUBSTEPS + 1)[None, :, None] * np.ones(MODEL.mj.nq)
    controls = np.zeros((1, total * SUBSTEPS, MODEL.mj.nu))
    for one in (latency, whole):
        one.begin(0, some.draw(scene, MODEL), line[0, 0])
    done, frames = 0, [0]
    for length in lengths:
        part = slice(done * SUBSTEPS, (done + length) * SUBSTEPS)
        latency.advance(where, controls[:, part], line[:, 1:][:, part])
        done += length
        [frame] = latency.camera_frames('cam_high', where)
        assert frames[-1] <= frame <= done and (lost or frame == done)
        assert latency.camera_qpos('cam_high', where)[0, 0] == (max(0, SUBSTEPS * frame - delay) if frame else 0)
        frames.append(frame)
    whole.advance(where, controls, line[:, 1:])
    for camera in ('cam_high', 'cam_low'):
        assert np.array_equal(whole.camera_qpos(camera, where), latency.camera_qpos(camera, where))
        assert whole.camera_frames(camera, where) == latency.camera_frames(camera, where)


def test_frames_are_lost_as_often_as_drawn_each_camera_on_its_own():
    some, kept = fixed(camera_drop_probability=0.3), []
    latency = Latency(MODEL, some, 1)
    latency.begin(0, some.draw(1, MODEL), np.zeros(MODEL.mj.nq))
    for frame in range(1, 1001):
        latency.advance(np.array([0]), np.zeros((1, 10, MODEL.mj.nu)), np.zeros((1, 10, MODEL.mj.nq)))
        kept.append([latency.camera_frames(camera, np.array([0]))[0] == frame for camera in MODEL.robot.cameras])
    share = 1 - np.mean(kept, 0)
    assert (np.abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 1000)).all()
    assert np.abs(np.corrcoef(np.array(kept).T) - np.eye(len(share))).max() < 0.15


def test_an_arm_whose_zeros_are_off_measures_its_targets_and_stands_beside_them():
    some = Randomisation(joint_offset_rad=(-0.05, 0.05))
    target = np.tile(START_JOINTS, (1, 100, 1))
    with BatchedWorlds('transfer_cube', 1, randomisation=some) as worlds, BatchedWorlds('transfer_cube', 1) as plain:
        worlds.reset(np.array([2]))
        plain.reset(np.array([2]))
        [drawn] = worlds.drawn()
        np.testing.assert_allclose(worlds.observed_joints()[0], START_JOINTS, atol=1e-12)
        np.testing.assert_allclose(worlds.joints()[0], START_JOINTS - drawn.joint_offset_rad, atol=1e-12)
        worlds.step(target)
        plain.step(target)
        # Gravity pulls both alike.
        np.testing.assert_allclose(worlds.observed_joints()[0], plain.joints()[0], atol=2e-3)
        np.testing.assert_allclose(worlds.observed_joints()[0] - worlds.joints()[0], drawn.joint_offset_rad, atol=1e-12)
    assert np.abs(drawn.joint_offset_rad).max() > 0.02 and not drawn.joint_offset_rad[list(GRIPPER_COLUMNS)].any()


def test_noise_is_fresh_every_step_the_same_when_asked_again_and_not_on_grippers():
    some, noise = fixed(joint_noise_rad=0.01), []
    with BatchedWorlds('transfer_cube', 3, randomisation=some) as worlds, \
            BatchedWorlds('transfer_cube', 1, randomisation=some) as alone:
        worlds.reset(np.array([1, 2, 3]))
        alone.reset(np.array([2]))
        for _ in range(40):
            seen = worlds.observed_joints()
            assert np.array_equal(seen, worlds.observed_joints())
            assert np.array_equal(seen[1], alone.observed_joints()[0])
            noise.append(seen - worlds.joints())
            worlds.step(wander(3, 1))
            alone.step(wander(3, 1)[1:2])
    noise = np.array(noise)
    assert not noise[..., GRIPPER_COLUMNS].any()
    values = noise[..., ARMS].ravel()
    assert len(set(values)) == len(values), 'no number comes twice'
    assert abs(values.std() - 0.01) < 0.0006 and abs(values.mean()) < 0.001


def test_a_world_that_diverged_begins_with_its_own_physics_and_nothing_on_its_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into MUJOCO_LOG.TXT
    targets = wander(2, 5)
    with BatchedWorlds('transfer_cube', 2, dump_directory=tmp_path, randomisation=ALL) as worlds:
        worlds.reset(np.array([4, 5]))
        start, measured, first = worlds.qpos.copy(), worlds.observed_joints(), worlds.step(targets)
        worlds._state[1, 1 + MODEL.mj.nq:] = 1e9
        with pytest.warns(DivergenceWarning):
            assert worlds.step(targets).diverged.tolist() == [False, True]
        assert np.array_equal(worlds.qpos[1], start[1]) and np.array_equal(worlds.observed_joints()[1], measured[1])
        assert np.array_equal(worlds.camera_qpos('cam_high')[1], start[1]) and worlds.camera_frames('cam_low')[1] == 0
        assert np.array_equal(worlds.step(targets).qpos[1], first.qpos[1])


def test_pictures_of_cameras_show_each_its_own_time_looks_and_noise():
    some = Randomisation.from_dict({
        'camera_latency_s': {'cam_high': [0.3, 0.3]}, 'object_size': [0.7, 1.4],
        'appearance': {'table_colour': [0.2, 0.4], 'noise_std': [2, 4]}})
    cameras = ('cam_high', 'cam_angle')
    with BatchedWorlds('insertion', 2, randomisation=some) as worlds, WorldRenderer('insertion', 48, 64) as single, \
            BatchRenderer('insertion', cameras, 48, 64) as renderer:
        worlds.reset(np.array([1, 2]))
        worlds.step(wander(2, 20))
        qpos, frames = (np.stack([seen(camera) for camera in cameras], 1)
                        for seen in (worlds.camera_qpos, worlds.camera_frames))
        looks = worlds.appearances()
        pictures = renderer.render_all(qpos, looks, frames)
        for world in range(2):
            for index, camera in enumerate(cameras):
                expected = single.render(qpos[world, index], camera, looks[world], 20)
                assert np.array_equal(pictures[world, index], expected)
        again = renderer.render_all(worlds.qpos, looks, frames[:, 0])
        assert np.array_equal(again[:, 1], pictures[:, 1]) and not np.array_equal(again[:, 0], pictures[:, 0])


@pytest.mark.parametrize('task', ['transfer_cube', 'insertion'])
def test_pictures_show_the_size_of_objects_that_is_felt(task):
    def area(factor: float) -> int:
        some = fixed(object_size=factor)
        with BatchedWorlds(task, 1, randomisation=some) as worlds:
            worlds.reset(np.array([3]))
            picture = renderer.render(worlds.qpos[0], 'cam_high', *worlds.appearances()).astype(int)
        red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
        return int(((np.maximum(red, blue) > 100) & (green < 60) & (np.abs(red - blue) > 80)).sum())

    with WorldRenderer(task, 480, 640) as renderer:
        plain, small, large = area(1.0), area(0.7), area(1.3)
        assert small == pytest.approx(0.49 * plain, rel=0.15) and large == pytest.approx(1.69 * plain, rel=0.15)
        assert area(1.0) == plain > 100, 'the model is left as it was'
