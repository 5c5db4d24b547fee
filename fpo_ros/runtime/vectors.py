"""The test vectors of a release: inputs, and the chunks that the policy must make of them."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from fpo_ros.policy.contract import ACTION_DIM, PolicyContract
from fpo_ros.runtime.providers import PolicyError
from fpo_ros.runtime.release_files import VECTORS_FILE, ReleaseFiles

#: A larger tolerance in a release's own test vectors would prove nothing [rad, grippers 0..1].
LARGEST_ATOL = 0.01


def read_vectors(files: ReleaseFiles, contract: PolicyContract, tokens: np.ndarray,
                 guided: bool) -> dict[str, np.ndarray]:
    """Return N test vectors.

    :param tokens: (1, n) of the contract's prompt.
    :param guided: whether the release has a graph that goes on from leftovers, which its vectors then show, too.
    :returns: ``state`` (N, state_dim) normalised, ``noise`` (N, H, action_dim), ``chunk`` (N, H, 14), ``tokens``
        (N, n), ``joints`` (N, 14), zeros where no action counts from them, and ``atol``; of a policy with cameras
        ``images`` (N, cameras, height, width, 3) and ``seen`` (N, cameras), which of them the chunk answers, all but
        for optional ones; ``leftover`` (N, rows, 14), ``guided`` (N, H, 14) and ``delay``
        where guided.
    :raises PolicyError: for vectors that are missing, cannot be read or do not fit, naming the part.
    """
    path = files.path / VECTORS_FILE
    try:
        with np.load(io.BytesIO(files.read(VECTORS_FILE)), allow_pickle=False) as archive:
            vectors = {name: archive[name] for name in archive.files}
    except PolicyError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise PolicyError(f'{path}: cannot read the test vectors: {error}') from error
    shapes = _shapes(contract, guided, vectors)
    missing = {*shapes, 'tokens', 'atol', *(('delay',) if guided else ())} - set(vectors)
    if missing:
        raise PolicyError(f'{path}: lacks {sorted(missing)}')
    count = len(vectors['chunk']) if vectors['chunk'].ndim else 0
    if not count:
        raise PolicyError(f'{path}: holds no test vector')
    for name, shape in shapes.items():
        if vectors[name].shape != (count, *shape):
            raise PolicyError(f'{path}: {name} has shape {vectors[name].shape}, the contract wants {(count, *shape)}')
    known = np.atleast_2d(vectors['tokens']).astype(np.int64)
    if known.shape[0] not in (1, count):
        raise PolicyError(f'{path}: tokens has shape {known.shape}, wanted one row or {count}')
    if not np.array_equal(known, np.broadcast_to(tokens, (len(known), tokens.shape[1]))):
        raise PolicyError(f'{path}: its tokens are not those of the prompt {contract.prompt!r}: '
                          'export the policy again')
    vectors['tokens'] = np.ascontiguousarray(np.broadcast_to(known, (count, known.shape[1])))
    if contract.optional_cameras and vectors['seen'].dtype != bool:
        raise PolicyError(f"{path}: seen must be of bool, got {vectors['seen'].dtype}")
    for name in ('chunk', *(('guided',) if guided else ())):
        if not np.isfinite(vectors[name]).all():
            raise PolicyError(f'{path}: a stored {name} is not finite')
    if vectors['atol'].ndim or not 0 < vectors['atol'] <= LARGEST_ATOL:
        raise PolicyError(f"{path}: atol must lie in 0..{LARGEST_ATOL}, got {vectors['atol']}")
    return {'joints': np.zeros((count, ACTION_DIM), np.float32),
            'seen': np.ones((count, len(contract.cameras)), bool), **vectors}


def _shapes(contract: PolicyContract, guided: bool, vectors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each part of a vector."""
    chunk = (contract.horizon, contract.action_dim)
    shapes = {'state': (contract.state_dim,), 'noise': chunk, 'chunk': (contract.horizon, ACTION_DIM)}
    if contract.cameras:
        shapes['images'] = (len(contract.cameras), contract.image_height, contract.image_width, 3)
    if contract.optional_cameras:
        shapes['seen'] = (len(contract.cameras),)
    if contract.relative:
        shapes['joints'] = (ACTION_DIM,)
    if guided:
        left = vectors['leftover'].shape[1] if np.ndim(vectors.get('leftover')) == 3 else contract.horizon
        shapes |= {'guided': shapes['chunk'], 'leftover': (min(left, contract.horizon), ACTION_DIM)}
    return shapes
