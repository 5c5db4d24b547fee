"""Faithful pictures are gym-aloha's own, every byte of them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('dm_control', reason='gym-aloha draws with dm_control')
from fpo_ros.sim.render import CAMERA_SIZE, WorldRenderer  # noqa: E402
from fpo_ros.sim.robots import VX300S  # noqa: E402

TASKS = ('transfer_cube', 'insertion')


def motion(physics, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the positions at the start, after a motion of all joints, and with the objects moved and turned."""
    seen = [physics.data.qpos.copy()]
    # One control per joint of the arms, in the order of the positions.
    physics.set_control(seen[0][:physics.model.nu] + rng.uniform(-0.3, 0.3, physics.model.nu))
    for _ in range(100):
        physics.step()
    seen.append(physics.data.qpos.copy())
    moved = seen[-1].copy()
    for start in range(16, len(moved), 7):
        moved[start:start + 3] += rng.uniform(0.02, 0.08, 3)
        turn = rng.normal(size=4)
        moved[start + 3:start + 7] = turn / np.linalg.norm(turn)
    return [*seen, moved]


@pytest.mark.parametrize('task', TASKS)
def test_faithful_pictures_equal_those_of_gym_aloha(task):
    from gym_aloha.env import AlohaEnv

    env = AlohaEnv(task, obs_type='pixels_agent_pos')
    env.reset(seed=5)
    physics = env._env.physics
    positions = motion(physics, np.random.default_rng(1))
    wanted = [(number, ours) for number in range(len(positions)) for ours in ('cam_high', 'cam_low', 'cam_angle')]
    wanted.append((1, 'cam_left_wrist'))
    theirs = []
    # dm_control does not make its GL context current again after another one was: all of its pictures come first.
    for number, ours in wanted:
        physics.data.qpos[:] = positions[number]
        physics.forward()
        theirs.append(physics.render(*CAMERA_SIZE, camera_id=VX300S.cameras[ours]).copy())
    env.close()
    physics.free()
    assert all(picture.std() > 5 for picture in theirs)
    assert len({picture.tobytes() for picture in theirs}) == len(theirs), 'every picture shows something else'
    with WorldRenderer(task, *CAMERA_SIZE, mode='faithful') as renderer:
        for (number, ours), picture in zip(wanted, theirs, strict=True):
            drawn = renderer.render(positions[number], ours)
            differing = int((drawn != picture).sum())
            assert differing == 0, f'{ours} of state {number}: {differing} of {picture.size} bytes differ'


def test_a_faithful_picture_is_not_a_fast_one():
    from fpo_ros.sim.model import load_model

    qpos = load_model().start_qpos(np.array([0.1, 0.5, 0.02, 1, 0, 0, 0]))
    pictures = []
    for mode in ('faithful', 'fast'):
        with WorldRenderer('transfer_cube', 120, 160, mode=mode) as renderer:
            pictures.append(renderer.render(qpos, 'cam_angle'))
    assert not np.array_equal(*pictures)
