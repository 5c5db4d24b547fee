"""Meshes with fewer faces: how far they depart, how they are kept, and what becomes of the pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from fpo_ros.sim import decimation
from fpo_ros.sim.decimation import CacheWarning, Mesh, cache_directory, cached, decimate, decimate_model
from fpo_ros.sim.model import load_model
from fpo_ros.sim.render import WorldRenderer
from fpo_ros.sim.robots import VX300S

MODEL = load_model('transfer_cube')


@pytest.fixture(autouse=True)
def nothing_in_memory(monkeypatch):
    monkeypatch.setattr(decimation, '_MEMORY', {})


def mesh_of(name: str) -> Mesh:
    model = MODEL.mj
    index = model.mesh(name).id
    first, face = model.mesh_vertadr[index], model.mesh_faceadr[index]
    return Mesh(model.mesh_vert[first:first + model.mesh_vertnum[index]].copy(),
                model.mesh_face[face:face + model.mesh_facenum[index]].copy())


def ball(faces: int = 20, radius: float = 0.05) -> Mesh:
    """Return a closed sphere of ``2 * faces**2`` triangles or so [m]."""
    height, around = np.meshgrid(np.linspace(0, np.pi, faces + 1)[1:-1], np.arange(faces) * 2 * np.pi / faces,
                                 indexing='ij')
    points = np.stack([np.sin(height) * np.cos(around), np.sin(height) * np.sin(around), np.cos(height)], -1)
    vertices = radius * np.concatenate([points.reshape(-1, 3), [[0, 0, 1], [0, 0, -1]]])
    at = np.arange((faces - 1) * faces).reshape(faces - 1, faces)
    right = np.roll(at, -1, 1)
    sides = [np.stack([at[:-1], at[1:], right[1:]], -1), np.stack([at[:-1], right[1:], right[:-1]], -1)]
    top, bottom = len(vertices) - 2, len(vertices) - 1
    caps = [np.stack([np.full(faces, top), at[0], right[0]], -1),
            np.stack([np.full(faces, bottom), right[-1], at[-1]], -1)]
    triangles = np.concatenate([part.reshape(-1, 3) for part in sides + caps])
    return Mesh(vertices.astype(np.float32), triangles.astype(np.int32))


def sampled(mesh: Mesh, count: int = 4000) -> np.ndarray:
    """Return random points of a surface."""
    rng = np.random.default_rng(0)
    corners = mesh.vertices[mesh.faces].astype(float)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    shares = rng.dirichlet(np.ones(3), count)
    return np.einsum('nk,nkd->nd', shares, corners[rng.choice(len(area), count, p=area / area.sum())])


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest distance of a point of ``one`` from the nearest one of ``other``."""
    return max(np.linalg.norm(part[:, None] - other, axis=2).min(1).max() for part in np.array_split(one, 40))


@pytest.mark.parametrize('tolerance', [0.001, 0.004])
def test_a_reduced_ball_stays_within_the_tolerance_and_loses_most_faces(tolerance):
    full = ball(40)
    small = decimate(full, tolerance)
    assert len(small.faces) < len(full.faces) / 4
    radius = np.linalg.norm(small.vertices, axis=1)
    assert radius.max() <= 0.05 + tolerance and radius.min() >= 0.05 - tolerance
    # The faces between the vertices too: from inside, no hole can be seen.
    assert np.linalg.norm(sampled(small), axis=1).min() > 0.05 - 2.5 * tolerance
    outward = np.einsum('fd,fd->f', small.normals(), small.vertices[small.faces].mean(1))
    assert (outward > 0).mean() > 0.99


def test_a_wider_tolerance_takes_fewer_faces():
    full = ball(40)
    counts = [len(decimate(full, tolerance).faces) for tolerance in (0.0005, 0.002, 0.008)]
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize('name', ['vx300s_10_gripper_finger_left', 'vx300s_2_shoulder'])
def test_parts_of_the_arm_keep_their_shape(name):
    full = mesh_of(name)
    small = decimate(full)
    assert len(small.faces) < len(full.faces) / 4
    assert gap(small.vertices.astype(float), sampled(full, 20_000)) < decimation.TOLERANCE_M + 0.001
    assert gap(full.vertices.astype(float)[::7], sampled(small, 20_000)) < decimation.TOLERANCE_M + 0.001


def test_a_mesh_of_few_faces_stays_as_it_is():
    table = mesh_of('tabletop')
    assert decimate(table) is table


def test_points_off_a_triangle_are_as_far_as_geometry_says():
    corners = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]], float)
    points = np.array([[0.2, 0.2, 0.5], [-1, 0.5, 0], [2, 0, 0], [1, 1, 0], [0.3, 0.3, 0], [0, 3, 4]], float)
    expected = [0.5, 1, 1, np.sqrt(0.5), 0, np.sqrt(4 + 16)]
    assert np.allclose(np.sqrt(decimation._squares(points, corners)), expected)
    flat = np.array([[[0, 0, 0], [1, 0, 0], [0.5, 0, 0]]], float)
    assert np.allclose(np.sqrt(decimation._squares(points[:1], flat)), np.hypot(0.2, 0.5))


def test_what_was_reduced_once_is_read_from_disk(tmp_path, monkeypatch):
    full = ball()
    first = cached(full, 0.002, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == ['.npz'], 'one file, and no remains of writing it'
    decimation._MEMORY.clear()
    monkeypatch.setattr(decimation, 'decimate', lambda *_: pytest.fail('it was reduced again'))
    again = cached(full, 0.002, tmp_path)
    assert np.array_equal(again.vertices, first.vertices) and np.array_equal(again.faces, first.faces)


def test_another_mesh_or_tolerance_is_another_file(tmp_path):
    other = ball(radius=0.06)
    for mesh, tolerance in ((ball(), 0.002), (ball(), 0.003), (other, 0.002)):
        cached(mesh, tolerance, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert np.linalg.norm(cached(other, 0.002, tmp_path).vertices, axis=1).max() > 0.057


def overwrite(path: Path, **arrays: np.ndarray) -> None:
    with open(path, 'wb') as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize('damage', ['empty', 'cut', 'flipped', 'text', 'pickle', 'beyond', 'nan', 'missing', 'shape'])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    full = ball()
    good = cached(full, 0.002, tmp_path)
    path = next(tmp_path.iterdir())
    data = path.read_bytes()
    if damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'cut':
        path.write_bytes(data[:len(data) // 2])
    elif damage == 'flipped':
        middle = len(data) // 3
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1:])
    elif damage == 'text':
        path.write_text('no mesh')
    elif damage == 'pickle':
        overwrite(path, vertices=np.array([{}], object), faces=good.faces)
    elif damage == 'beyond':
        overwrite(path, vertices=good.vertices, faces=good.faces + len(good.vertices))
    elif damage == 'nan':
        overwrite(path, vertices=good.vertices * np.float32(np.nan), faces=good.faces)
    elif damage == 'missing':
        overwrite(path, vertices=good.vertices)
    elif damage == 'shape':
        overwrite(path, vertices=good.vertices[:, :2], faces=good.faces)
    decimation._MEMORY.clear()
    again = cached(full, 0.002, tmp_path)
    assert np.array_equal(again.vertices, good.vertices) and np.array_equal(again.faces, good.faces)
    assert path.read_bytes() == data, 'and the file is whole again'


def test_where_nothing_can_be_written_a_warning_says_so_and_it_works(tmp_path):
    (tmp_path / 'file').write_text('')
    full = ball()
    with pytest.warns(CacheWarning, match='XDG_CACHE_HOME'):
        small = cached(full, 0.002, tmp_path / 'file' / 'meshes')
    assert len(small.faces) < len(full.faces)


def test_files_lie_where_xdg_cache_home_says(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache_directory() == tmp_path / 'fpo_ros' / 'meshes'
    cached(ball())
    assert len(list((tmp_path / 'fpo_ros' / 'meshes').iterdir())) == 1
    for unset in ('', 'relative/path'):
        monkeypatch.setenv('XDG_CACHE_HOME', unset)
        assert cache_directory() == Path.home() / '.cache' / 'fpo_ros' / 'meshes'


def test_processes_that_start_at_once_share_the_cache(tmp_path):
    code = ('import numpy as np\nfrom fpo_ros.sim.decimation import Mesh, cached\n'
            'corners = np.random.default_rng(0).uniform(size=(300, 3)).astype(np.float32)\n'
            'faces = np.random.default_rng(1).permuted(np.tile(np.arange(300), (200, 1)), axis=1)[:, :3]\n'
            'print(len(cached(Mesh(corners, faces.astype(np.int32)), 0.05).faces))\n')
    running = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True,
                                env={**os.environ, 'XDG_CACHE_HOME': str(tmp_path)}) for _ in range(2)]
    said = [process.communicate(timeout=100)[0] for process in running]
    assert said[0] == said[1] and said[0].strip().isdigit()
    assert [path.suffix for path in (tmp_path / 'fpo_ros' / 'meshes').iterdir()] == ['.npz']


def test_the_model_of_the_physics_keeps_its_meshes():
    before = MODEL.mj.mesh_facenum.copy(), MODEL.mj.mesh_vert.copy()
    with WorldRenderer('transfer_cube', 24, 32):
        pass
    assert np.array_equal(MODEL.mj.mesh_facenum, before[0]) and np.array_equal(MODEL.mj.mesh_vert, before[1])


def test_a_model_for_pictures_has_a_fraction_of_the_faces_and_looks_the_same():
    full, small = MODEL.mj.__copy__(), MODEL.mj.__copy__()
    decimate_model(small)
    assert small.mesh_facenum.sum() < 0.15 * full.mesh_facenum.sum()
    qpos = MODEL.start_qpos(np.array([0.1, 0.5, 0.02, 1, 0, 0, 0]))
    size = (224, 224)
    pictures = []
    for model in (full, small):
        model.vis.quality.offsamples = 0
        data = mujoco.MjData(model)
        data.qpos[:] = qpos
        mujoco.mj_forward(MODEL.mj, data)
        with mujoco.Renderer(model, *size) as renderer:
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            pictures.append([])
            for camera in VX300S.cameras.values():
                renderer.update_scene(data, camera)
                pictures[-1].append(renderer.render().copy())
    difference = np.abs(np.array(pictures[0], int) - pictures[1]).mean((1, 2, 3))
    assert (0 < difference).all() and difference.max() < 2.0, difference
    assert difference[:3].max() < 1.0, 'the cameras that do not move with an arm'


def test_a_textured_mesh_stays_as_it_is(tmp_path):
    mesh = ball(12)
    lines = [f'v {x:.6f} {y:.6f} {z:.6f}' for x, y, z in mesh.vertices] + ['vt 0 0', 'vt 1 0', 'vt 0 1']
    lines += ['f ' + ' '.join(f'{corner + 1}/{number + 1}' for number, corner in enumerate(face))
              for face in mesh.faces]
    (tmp_path / 'ball.obj').write_text('\n'.join(lines))
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><asset><mesh name="ball" file="ball.obj"/></asset><worldbody><geom type="mesh" mesh="ball"/>'
        '</worldbody></mujoco>', {'ball.obj': (tmp_path / 'ball.obj').read_bytes()})
    assert model.mesh_texcoordadr[0] >= 0
    before = model.mesh_facenum[0]
    decimate_model(model, directory=tmp_path)
    assert model.mesh_facenum[0] == before
