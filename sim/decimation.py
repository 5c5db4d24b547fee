"""Meshes with fewer faces, for pictures alone: reduced once, within a tolerance, and kept on disk.

What is drawn costs time by the face. Close vertices are welded first, which removes engravings and threads that keep
a quadric reduction from going on, and then the reduction takes as few faces as stay within the tolerance.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import fast_simplification
import mujoco
import numpy as np

#: A drawn surface departs from the real one by no more than this [m].
TOLERANCE_M = 0.002
#: Meshes of so few faces are left as they are.
_SMALL = 32
#: Vertices of one cell of such a size are welded, the finest first; in shares of the tolerance.
_WELDS = (0.25, 0.5)
#: Change it when other faces result from the same mesh: what is on disk is then made anew.
_RECIPE = f'1/{version("fast-simplification")}'
#: Largest extent of what is handed to the reduction, whose thresholds are absolute: with meshes in metres it would
#: count 1.5 mm as nothing.
_EXTENT = 1000.0
#: Cells of the grid along the longest side, in which points are compared with faces.
_CELLS = 12
#: Numbers of faces to try.
_TARGETS = np.unique(np.geomspace(8, 100_000, 100).astype(int))
_MEMORY: dict[str, Mesh] = {}


class CacheWarning(UserWarning):
    """Reduced meshes cannot be kept on disk, so that every process reduces them anew."""


@dataclass(frozen=True)
class Mesh:
    """A surface of triangles.

    :param vertices: (V, 3) float32 [m].
    :param faces: (F, 3) int32 vertices of each triangle, counter-clockwise from outside.
    """

    vertices: np.ndarray
    faces: np.ndarray

    def normals(self) -> np.ndarray:
        """Return the (F, 3) float32 unit normals of the faces; zero for a face without area."""
        a, b, c = (self.vertices[self.faces[:, corner]].astype(float) for corner in range(3))
        normals = np.cross(b - a, c - a)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        return np.divide(normals, length, out=np.zeros_like(normals), where=length > 0).astype(np.float32)


def cache_directory() -> Path:
    """Return where reduced meshes are kept: ``fpo_ros/meshes`` in XDG_CACHE_HOME, or in ``~/.cache``.

    XDG Base Directory Specification: a path that is not absolute counts as unset.
    """
    base = Path(os.environ.get('XDG_CACHE_HOME', ''))
    return (base if base.is_absolute() else Path.home() / '.cache') / 'fpo_ros' / 'meshes'


def decimate(mesh: Mesh, tolerance_m: float = TOLERANCE_M) -> Mesh:
    """Return the mesh with as few faces as keep it within a tolerance; itself where none can go.

    :param tolerance_m: largest distance of a vertex of either surface from the other [m].
    """
    best = mesh
    if len(mesh.faces) <= _SMALL:
        return best
    for share in _WELDS:
        welded = _weld(mesh, share * tolerance_m)
        # Upwards, since more faces do not always come closer.
        for target in _TARGETS[_TARGETS < len(best.faces)]:
            tried = _reduce(welded, int(target))
            if len(tried.faces) < len(best.faces) and _agree(mesh, tried, tolerance_m):
                best = tried
                break
            if target >= len(welded.faces):
                break
    return best


def _reduce(mesh: Mesh, faces: int) -> Mesh:
    """Return the mesh with about so many faces."""
    if faces >= len(mesh.faces):
        return mesh
    scale = _EXTENT / float(np.ptp(mesh.vertices, axis=0).max())
    points, triangles = fast_simplification.simplify(mesh.vertices * np.float32(scale), mesh.faces, target_count=faces)
    return Mesh((points / scale).astype(np.float32), triangles.astype(np.int32))


def _weld(mesh: Mesh, size: float) -> Mesh:
    """Return the mesh with one vertex, the most central one, for all in a cell of a cubic grid, without flat faces."""
    cells = np.floor((mesh.vertices - mesh.vertices.min(0)) / size).astype(np.int64)
    _, group = np.unique(cells, axis=0, return_inverse=True)
    group = group.reshape(-1)
    count = group.max() + 1
    centre = np.stack([np.bincount(group, column, count) for column in mesh.vertices.T.astype(float)], 1)
    centre /= np.bincount(group, minlength=count)[:, None]
    order = np.lexsort((np.linalg.norm(mesh.vertices - centre[group], axis=1), group))
    kept = order[np.searchsorted(group[order], np.arange(count))]
    faces = group[mesh.faces]
    a, b, c = faces.T
    return Mesh(mesh.vertices[kept], faces[(a != b) & (b != c) & (c != a)].astype(np.int32))


def _agree(one: Mesh, other: Mesh, tolerance_m: float) -> bool:
    """Return whether every used vertex of either mesh lies within a tolerance of the surface of the other [m]."""
    return all(_near(first.vertices[np.unique(first.faces)], second, tolerance_m)
               for first, second in ((one, other), (other, one)))


def _near(points: np.ndarray, mesh: Mesh, tolerance_m: float) -> bool:
    """Return whether each of (N, 3) points lies within a tolerance of a face of a mesh [m].

    Points are taken a cell of a grid at a time, with the faces whose bounding box comes close to theirs.
    """
    corners = mesh.vertices[mesh.faces].astype(float)
    lowest, highest = corners.min(1) - tolerance_m, corners.max(1) + tolerance_m
    cells = np.floor((points - points.min(0)) / (np.ptp(points, axis=0).max() / _CELLS)).astype(np.int64)
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(cell.reshape(-1), kind='stable')
    for group in np.split(points[order].astype(float), np.flatnonzero(np.diff(cell.reshape(-1)[order])) + 1):
        close = ((lowest <= group.max(0)) & (highest >= group.min(0))).all(1)
        if not close.any() or _squares(group, corners[close]).max() > tolerance_m**2:
            return False
    return True


def _squares(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return the (N,) squared distances of (N, 3) points from the nearest of (F, 3, 3) faces.

    Nearest is a point inside a face, by its barycentric coordinates, or one on an edge (C. Ericson, Real-Time
    Collision Detection, 5.1.5).
    """
    a, b, c = corners.swapaxes(0, 1)
    ab, ac = b - a, c - a
    aa, bb, cross = _dot(ab, ab), _dot(ac, ac), _dot(ab, ac)
    area = aa * bb - cross * cross
    flat = area <= 1e-12 * aa * bb  # only its edges count
    area = np.where(flat, 1.0, area)
    to = points[:, None] - a
    along, across = _dot(to, ab), _dot(to, ac)
    v, w = (bb * along - cross * across) / area, (aa * across - cross * along) / area
    square = np.minimum(np.minimum(_to_edge(to, ab), _to_edge(to, ac)), _to_edge(to - ab, c - b))
    within = (v >= 0) & (w >= 0) & (v + w <= 1) & ~flat
    return np.where(within, np.minimum(square, _dot(to, to) - v * along - w * across), square).min(1)


def _to_edge(to: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Return (N, F) squared distances of points at (N, F, 3) from the start of (F, 3) edges."""
    length = _dot(edge, edge)
    share = np.clip(_dot(to, edge) / np.where(length > 0, length, 1), 0, 1)
    rest = to - share[..., None] * edge
    return _dot(rest, rest)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum('...k,...k->...', a, b)


def cached(mesh: Mesh, tolerance_m: float = TOLERANCE_M, directory: Path | None = None) -> Mesh:
    """Return :func:`decimate` of a mesh, from memory or disk if it was made before.

    A damaged file is made anew. Where nothing can be written, a :class:`CacheWarning` says so.

    :param directory: of the files; :func:`cache_directory` if None.
    """
    content = hashlib.sha256(f'{_RECIPE} {tolerance_m!r} {len(mesh.vertices)} '.encode())
    content.update(np.ascontiguousarray(mesh.vertices, np.float32).tobytes())
    content.update(np.ascontiguousarray(mesh.faces, np.int32).tobytes())
    key = content.hexdigest()
    path = (directory or cache_directory()) / f'{key}.npz'
    if key not in _MEMORY:
        found = _read(path)
        if found is None:
            found = decimate(mesh, tolerance_m)
            _write(path, found)
        _MEMORY[key] = found
    return _MEMORY[key]


def _read(path: Path) -> Mesh | None:
    """Return the mesh of a file; None if there is none or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mesh = Mesh(file['vertices'], file['faces'])
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return None
    shapes = mesh.vertices.ndim == mesh.faces.ndim == 2 and mesh.vertices.shape[1] == mesh.faces.shape[1] == 3
    types = mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int32
    if not shapes or not types or not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        return None
    # OpenGL would read beyond its arrays.
    return mesh if 0 <= mesh.faces.min() and mesh.faces.max() < len(mesh.vertices) else None


def _write(path: Path, mesh: Mesh) -> None:
    """Write a mesh so that no other process ever sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix='.part')
        try:
            with os.fdopen(handle, 'wb') as file:
                np.savez(file, vertices=mesh.vertices, faces=mesh.faces)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        warnings.warn(f'reduced meshes cannot be kept in {path.parent}, so every process makes them anew, which takes '
                      f'seconds: {error}. Set XDG_CACHE_HOME to a directory that can be written',
                      CacheWarning, stacklevel=2)


def decimate_model(model: mujoco.MjModel, tolerance_m: float = TOLERANCE_M, directory: Path | None = None) -> None:
    """Replace the meshes of a model by reduced ones of flat faces, where MuJoCo's renderer reads them.

    The reduced meshes take the place of the originals in the same arrays, so nothing is compiled, and frames of
    bodies and geoms stay. Collisions and ray casts of this copy of the model would be wrong: use it for pictures.
    A mesh with texture coordinates stays as it is, and one whose reduced faces outnumber its normals.
    """
    for index in range(model.nmesh):
        vertices = slice(model.mesh_vertadr[index], model.mesh_vertadr[index] + model.mesh_vertnum[index])
        faces = slice(model.mesh_faceadr[index], model.mesh_faceadr[index] + model.mesh_facenum[index])
        if model.mesh_texcoordadr[index] >= 0:
            continue
        full = Mesh(model.mesh_vert[vertices].copy(), model.mesh_face[faces].copy())
        small = cached(full, tolerance_m, directory)
        count = len(small.faces)
        if count >= len(full.faces) or count > model.mesh_normalnum[index] or len(small.vertices) > len(full.vertices):
            continue
        start, end = faces.start, faces.start + count
        model.mesh_vert[vertices.start:vertices.start + len(small.vertices)] = small.vertices
        model.mesh_face[start:end] = small.faces
        # Flat shading: smooth normals of so few vertices show light and shadow that no surface has.
        normal = model.mesh_normaladr[index]
        model.mesh_normal[normal:normal + count] = small.normals()
        model.mesh_facenormal[start:end] = np.arange(count)[:, None]
        model.mesh_vertnum[index], model.mesh_normalnum[index] = len(small.vertices), count
        model.mesh_facenum[index] = count
        model.mesh_graphadr[index] = -1  # the convex hull's vertices are gone
