"""The part of the zarr v3 format that episodes use: arrays chunked along their first axis.

Written here rather than through the zarr library because that library's version 3 needs Python 3.11,
leaves flushing to disk to the operating system, and costs several milliseconds for every array; the files
are ordinary zarr v3, and any zarr reader opens them.

Format: zarr-specs, "Zarr core specification version 3", sections "Array metadata", "Chunk key encoding"
("default" with separator "."), and the zstd codec with its checksum on, so that damaged bytes are noticed.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import zstd

from fpo_ros.episodes.errors import EpisodeStoreError

METADATA = 'zarr.json'
COMPRESSION_LEVEL = 1
DTYPES = ('bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64',
          'float32', 'float64')
_CODECS = [
    {'name': 'bytes', 'configuration': {'endian': 'little'}},
    {'name': 'zstd', 'configuration': {'level': COMPRESSION_LEVEL, 'checksum': True}},
]
_KEYS = {'name': 'default', 'configuration': {'separator': '.'}}
_NODE = re.compile(r'[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}')


def check_name(name: str) -> str:
    """Return the name of an array if it may be one.

    :raises EpisodeStoreError: when it could not be a plain directory name, or zarr reserves it.
    """
    if not isinstance(name, str) or not _NODE.fullmatch(name):
        raise EpisodeStoreError(f'array name {name!r}: use letters, digits, "_", "-" and "."')
    if name == METADATA or name.startswith('__'):
        raise EpisodeStoreError(f'array name {name!r} is reserved by the zarr format: choose another')
    return name


def array_metadata(shape: tuple[int, ...], chunk_rows: int, dtype: np.dtype) -> dict[str, Any]:
    """Return the zarr.json of an array.

    :param shape: at least one axis; rows are the first.
    :param chunk_rows: rows per chunk.
    """
    fill: bool | int | float = {'b': False, 'f': 0.0}.get(dtype.kind, 0)
    return {
        'zarr_format': 3, 'node_type': 'array', 'shape': list(shape), 'data_type': dtype.name,
        'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': [chunk_rows, *shape[1:]]}},
        'chunk_key_encoding': _KEYS, 'fill_value': fill, 'codecs': _CODECS, 'attributes': {},
    }


def group_metadata(attributes: dict[str, Any],
                   arrays: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the zarr.json of a group, with the metadata of its arrays inside where given."""
    data = {'zarr_format': 3, 'node_type': 'group', 'attributes': attributes}
    if arrays is not None:
        data['consolidated_metadata'] = {'kind': 'inline', 'must_understand': False, 'metadata': arrays}
    return data


def dumps(metadata: dict[str, Any]) -> bytes:
    """Return metadata as the bytes of a zarr.json."""
    return json.dumps(metadata, indent=1, allow_nan=False).encode() + b'\n'


def read_group(path: Path, what: str) -> dict[str, Any]:
    """Return the zarr.json of a group.

    :param what: the thing expected there, for messages.
    :raises EpisodeStoreError: when it is missing, not JSON, or not a zarr v3 group.
    """
    file = path / METADATA
    try:
        data = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise EpisodeStoreError(f'{path} is not {what}: {METADATA} is missing') from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise EpisodeStoreError(
            f'{file} is damaged, it is not JSON ({error}): restore it from a copy') from error
    except OSError as error:
        raise EpisodeStoreError(f'{file} cannot be read: {error.strerror}') from error
    if not isinstance(data, dict) or data.get('zarr_format') != 3 or data.get('node_type') != 'group':
        raise EpisodeStoreError(f'{path} is not {what}: {file} does not describe a zarr v3 group')
    return data


def chunk_key(number: int, ndim: int) -> str:
    """Return the file name of one chunk of rows."""
    return '.'.join(['c', str(number), *['0'] * (ndim - 1)])


def encode_chunk(rows: np.ndarray, chunk_rows: int) -> bytes:
    """Return the bytes of a chunk file; missing rows at the end are zeros.

    :param rows: (n, ...) with n <= chunk_rows.
    """
    if len(rows) < chunk_rows:
        padded = np.zeros((chunk_rows, *rows.shape[1:]), rows.dtype)
        padded[:len(rows)] = rows
        rows = padded
    little = np.ascontiguousarray(rows, rows.dtype.newbyteorder('<'))
    return zstd.compress(little.reshape(-1).view(np.uint8), COMPRESSION_LEVEL, True)


class ZarrArray:
    """One array on disk, read chunk by chunk on access.

    Indexing takes what numpy takes and returns a new numpy array; a leading integer or slice reads only
    the chunks it touches.

    :param path: directory of the array.
    :param metadata: its zarr.json.
    :raises EpisodeStoreError: for metadata this store does not write.
    """

    def __init__(self, path: Path, metadata: Any) -> None:
        self.path = path
        try:
            self.shape = tuple(metadata['shape'])
            chunk = tuple(metadata['chunk_grid']['configuration']['chunk_shape'])
            name = metadata['data_type']
            counts = all(type(size) is int and size >= 0 for size in (*self.shape, *chunk))
            fits = (counts and name in DTYPES and bool(self.shape) and chunk[0] > 0
                    and metadata == array_metadata(self.shape, chunk[0], np.dtype(name)))
        except (KeyError, TypeError, IndexError):
            fits = False
        if not fits:
            raise EpisodeStoreError(f'{path}: damaged or foreign array description; restore it from a copy')
        self.chunk_rows: int = chunk[0]
        self.dtype = np.dtype(name)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f'<ZarrArray {self.path.name} {self.shape} {self.dtype}>'

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        data = self.rows(0, len(self))
        return data if dtype is None else data.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(first, (int, np.integer)):
            row = int(first) + (len(self) if first < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f'row {first} of {len(self)}')
            return self.rows(row, row + 1)[(0, *rest)]
        if isinstance(first, slice):
            touched = range(len(self))[first]
            if not touched:
                return self.rows(0, 0)[(slice(None), *rest)]
            low, high = min(touched[0], touched[-1]), max(touched[0], touched[-1]) + 1
            data = self.rows(low, high)[::touched.step]
            return data[(slice(None), *rest)]
        return self.rows(0, len(self))[key]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1.

        :raises EpisodeStoreError: naming a chunk that is missing or damaged, or an array too large for the memory.
        """
        shape = (stop - start, *self.shape[1:])
        if not math.prod(shape):
            return np.empty(shape, self.dtype)
        numbers = range(start // self.chunk_rows, -(-stop // self.chunk_rows))
        for number in numbers:  # a description that is wrong about the size does not get that much memory
            if not self._file(number).exists():
                raise self._missing(number)
        try:
            out = np.empty(shape, self.dtype)
        except (MemoryError, ValueError) as error:
            raise EpisodeStoreError(f'{self.path}: {shape} {self.dtype} do not fit into the memory') from error
        for number in numbers:
            chunk, first = self._chunk(number), number * self.chunk_rows
            low, high = max(start, first), min(stop, first + self.chunk_rows)
            out[low - start:high - start] = chunk[low - first:high - first]
        return out

    def _file(self, number: int) -> Path:
        return self.path / chunk_key(number, self.ndim)

    def _missing(self, number: int) -> EpisodeStoreError:
        return EpisodeStoreError(f'{self._file(number)} is missing: the episode is damaged; restore it from a copy')

    def _chunk(self, number: int) -> np.ndarray:
        file = self._file(number)
        shape = (self.chunk_rows, *self.shape[1:])
        try:
            data = zstd.decompress(file.read_bytes())
        except FileNotFoundError:
            raise self._missing(number) from None
        except OSError as error:
            raise EpisodeStoreError(f'{file} cannot be read: {error.strerror}') from error
        except (RuntimeError, ValueError, MemoryError) as error:
            raise EpisodeStoreError(f'{file} is damaged ({error}); restore it from a copy') from error
        if len(data) != math.prod(shape) * self.dtype.itemsize:
            raise EpisodeStoreError(f'{file} holds {len(data)} bytes instead of an array of shape {shape}')
        return np.frombuffer(data, self.dtype.newbyteorder('<')).reshape(shape)
