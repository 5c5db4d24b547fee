"""Looks in the units that their ranges state: places in the picture and lights computed by hand."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np
import pytest
from test_appearance import MODEL, QPOS, look, the_red

from fpo_ros.sim.appearance import Appearance
from fpo_ros.sim.render import WorldRenderer


@pytest.fixture(scope='module')
def renderer():
    with WorldRenderer('transfer_cube', 240, 320) as one:
        yield one


def test_a_camera_that_moves_by_metres_and_sees_more_by_radians_shows_the_cube_where_optics_say(renderer):
    camera, cube = MODEL.mj.camera('angle').id, QPOS[MODEL.object_qpos[:3]]
    data = mujoco.MjData(MODEL.mj)
    mujoco.mj_kinematics(MODEL.mj, data)
    mujoco.mj_camlight(MODEL.mj, data)
    frame, fov = data.cam_xmat[camera].reshape(3, 3), np.deg2rad(MODEL.mj.cam_fovy[camera])

    def seen(shift: tuple[float, float, float], wider: float) -> np.ndarray:
        """Return row and column of the cube's middle."""
        looks = dataclasses.replace(look(), camera_shifts_m=(shift,) * MODEL.mj.ncam,
                                    camera_fov_rad=(wider,) * MODEL.mj.ncam)
        return np.argwhere(the_red(renderer.render(QPOS, 'cam_angle', looks))).mean(0)

    def expected(shift: tuple[float, float, float], wider: float) -> np.ndarray:
        right, up, back = frame.T @ (cube - data.cam_xpos[camera]) - shift
        return np.array([120, 160]) + np.array([-up, right]) / -back * 120 / np.tan((fov + wider) / 2)

    plain = seen((0, 0, 0), 0.0) - expected((0, 0, 0), 0.0)  # the middle of what shows is not that of the cube
    assert np.abs(plain).max() < 3
    for shift, wider in (((0.1, 0, 0), 0.0), ((0, 0.1, 0), 0.0), ((0, 0, 0.3), 0.0), ((0, 0, 0), -0.3)):
        moved = np.linalg.norm(expected(shift, wider) - expected((0, 0, 0), 0.0))
        error = np.abs(seen(shift, wider) - expected(shift, wider) - plain)
        assert moved > 5 and error.max() < max(1.0, 0.05 * moved), (shift, wider)


def test_lights_turn_by_radians_move_by_metres_and_shine_by_their_factors(renderer):
    lights, (x, y, z) = MODEL.mj.nlight, MODEL.mj.light_dir[0]
    turned = dataclasses.replace(
        look(), light_turns_rad=((0.0, 0.3, 0.0),) * lights, light_shifts_m=((0.1, -0.2, 0.3),) * lights,
        light_diffuse=(0.5,) * lights, ambient=0.25, headlight=2.0)
    renderer.render(QPOS, 'cam_high', turned)
    head, first = renderer._renderer.scene.lights[:2]  # what MuJoCo draws with
    length = np.sqrt(x * x + y * y + z * z)
    np.testing.assert_allclose(first.dir * length, [x * np.cos(0.3) + z * np.sin(0.3), y,
                                                    z * np.cos(0.3) - x * np.sin(0.3)], atol=1e-6)
    np.testing.assert_allclose(first.pos, MODEL.mj.light_pos[0] + (0.1, -0.2, 0.3), atol=1e-6)
    np.testing.assert_allclose(first.diffuse, [0.15] * 3, atol=1e-6)  # half of gym-aloha's 0.3
    assert head.headlight
    np.testing.assert_allclose([head.ambient, head.diffuse], [[0.1] * 3, [0.8] * 3], atol=1e-6)  # of 0.4 and 0.4


def test_colours_are_added_in_shares_of_full_intensity(renderer):
    def colours(some: Appearance | None) -> dict[str, np.ndarray]:
        renderer.render(QPOS, 'cam_angle', some)
        scene, mj = renderer._renderer.scene, renderer._model
        of = {int(one.objid): one.rgba[:3].copy() for one in scene.geoms[:scene.ngeom]
              if one.objtype == mujoco.mjtObj.mjOBJ_GEOM}
        arm = next(geom for geom in of if mj.body(mj.geom_bodyid[geom]).name == 'vx300s_left')
        return {'table': of[mj.geom('table').id], 'cube': of[mj.geom('red_box').id], 'arm': of[arm]}

    painted = colours(dataclasses.replace(look(), table_colour=(0.1, 0.2, 0.0), arm_colour=(0.0, 0.05, 0.1),
                                          object_colours=((-0.5, 0.25, 0.5),)))
    plain = colours(None)
    np.testing.assert_allclose(painted['table'], plain['table'] + (0.1, 0.2, 0.0), atol=1e-6)
    np.testing.assert_allclose(painted['arm'], plain['arm'] + (0.0, 0.05, 0.1), atol=1e-6)
    np.testing.assert_allclose(painted['cube'], [0.5, 0.25, 0.5], atol=1e-6)  # gym-aloha's is red
