"""The manifest of a release: what it is, and the size and SHA-256 of each of its files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fpo_ros.files import explain
from fpo_ros.releases.errors import ReleaseError

FORMAT = 'fpo_ros release'
FORMAT_VERSION = 1
MANIFEST = 'manifest.json'
SIGNATURE = 'manifest.sig'
REQUIRED_FILES = ('contract.json', 'norm_stats.json', 'prefix.onnx', 'denoise.onnx', 'vectors.npz')
MAX_MANIFEST_BYTES = 1 << 20
#: Numbers have six digits, and more only where six do not suffice: each number has one name.
VERSION = re.compile(r'v([0-9]{6}|[1-9][0-9]{6,11})')
#: Files lie flat in the release directory: no separators, no leading dot.
FILE_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,99}')
#: What is read of a file at once [bytes].
_BLOCK = 1 << 22
_ENTRIES = {'format', 'format_version', 'version', 'created', 'parent', 'key_id', 'metrics', 'files'}


@dataclass(frozen=True)
class FileEntry:
    """Size [bytes] and SHA-256 [hex] of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Contents of manifest.json.

    :param version: such as ``'v000001'``.
    :param created: ISO 8601 time of publication.
    :param parent: version this one was trained from, None for the first.
    :param key_id: id of the key that signed.
    :param metrics: JSON values; ``metrics['evaluation']`` is what the promotion gate reads.
    :param files: file name → size and digest, every file but the manifest and its signature.
    """

    version: str
    created: str
    parent: str | None
    key_id: str
    metrics: dict[str, Any]
    files: dict[str, FileEntry]

    def to_bytes(self) -> bytes:
        """Return the bytes that are signed.

        :raises ReleaseError: for metrics that JSON cannot hold.
        """
        data = {'format': FORMAT, 'format_version': FORMAT_VERSION, 'version': self.version,
                'created': self.created, 'parent': self.parent, 'key_id': self.key_id,
                'metrics': self.metrics,
                'files': {name: {'size': entry.size, 'sha256': entry.sha256}
                          for name, entry in self.files.items()}}
        try:
            return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode() + b'\n'
        except (TypeError, ValueError) as error:
            raise ReleaseError(f'metrics of a release must be JSON values: {error}') from error

    @classmethod
    def from_bytes(cls, data: bytes, where: Path) -> Manifest:
        """Read what :meth:`to_bytes` wrote, after the signature was verified.

        :raises ReleaseError: naming the entry that is wrong.
        """
        try:
            entries = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ReleaseError(f'{where} is not JSON: {error}') from error
        if not isinstance(entries, dict) or entries.get('format') != FORMAT:
            raise ReleaseError(f'{where} is not the manifest of a release')
        if entries.get('format_version') != FORMAT_VERSION:
            raise ReleaseError(f'{where} has format {entries.get("format_version")!r}, this program '
                               f'reads {FORMAT_VERSION}: use the version of fpo_ros that wrote it')
        if set(entries) != _ENTRIES:
            raise ReleaseError(f'{where}: entries missing: {sorted(_ENTRIES - set(entries))}, '
                               f'unknown: {sorted(set(entries) - _ENTRIES)}')
        files = entries['files'] if isinstance(entries['files'], dict) else {}
        manifest = cls(entries['version'], entries['created'], entries['parent'], entries['key_id'],
                       entries['metrics'],
                       {name: _file_entry(name, entry, where) for name, entry in files.items()})
        manifest._check(where)
        return manifest

    def _check(self, where: Path) -> None:
        if not is_version(self.version) or not (self.parent is None or is_version(self.parent)):
            raise ReleaseError(f'{where}: version {self.version!r} or parent {self.parent!r} '
                               'is not like v000001')
        if not isinstance(self.created, str) or not isinstance(self.key_id, str):
            raise ReleaseError(f'{where}: created and key_id must be text')
        if not isinstance(self.metrics, dict):
            raise ReleaseError(f'{where}: metrics must be an object')
        missing = [name for name in REQUIRED_FILES if name not in self.files]
        if missing:
            raise ReleaseError(f'{where} does not list {missing[0]}: '
                               f'a release has {", ".join(REQUIRED_FILES)}')


def is_version(text: object) -> bool:
    """Return whether a value is a version name such as ``'v000001'``."""
    return isinstance(text, str) and VERSION.fullmatch(text) is not None


def _file_entry(name: str, entry: Any, where: Path) -> FileEntry:
    if not FILE_NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
        raise ReleaseError(f'{where} lists {name!r}: files of a release lie in its own directory '
                           'and have plain names')
    if (not isinstance(entry, dict) or set(entry) != {'size', 'sha256'} or type(entry['size']) is not int
            or not isinstance(entry['sha256'], str) or not re.fullmatch('[0-9a-f]{64}', entry['sha256'])):
        raise ReleaseError(f'{where}: entry of {name} must give its size and sha256')
    return FileEntry(entry['size'], entry['sha256'])


def digest(data: bytes) -> FileEntry:
    """Return size and SHA-256 of a file's bytes."""
    return FileEntry(len(data), hashlib.sha256(data).hexdigest())


@contextmanager
def open_plain(path: Path, limit: int | None = None, size: int | None = None) -> Iterator[BinaryIO]:
    """Open a regular file; links and devices are refused.

    :param limit: refuse larger files [bytes].
    :param size: refuse files of another size [bytes], before anything is read.
    :raises ReleaseError: naming the file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ReleaseError(f'{path} is missing: copy the release again') from None
    except OSError as error:
        if path.is_symlink():
            raise ReleaseError(f'{path} is a symbolic link: a release holds plain files only') from error
        raise ReleaseError(explain(error, path)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ReleaseError(f'{path} is not a plain file')
        if limit is not None and status.st_size > limit:
            raise ReleaseError(f'{path} is larger than {limit} bytes')
        if size is not None and status.st_size != size:
            raise ReleaseError(f'{path} has {status.st_size} bytes, the manifest says {size}: '
                               'the file is truncated or was changed; copy the release again')
        with os.fdopen(fd, 'rb', buffering=0, closefd=False) as file:
            yield file
    finally:
        os.close(fd)


def read_plain(path: Path, limit: int | None = None, size: int | None = None) -> bytes:
    """Return the bytes of a regular file; see :func:`open_plain`.

    :raises ReleaseError: naming the file.
    """
    with open_plain(path, limit, size) as file:
        try:
            return file.read()
        except OSError as error:
            raise ReleaseError(explain(error, path)) from error


def copy_plain(path: Path, target: Callable[[memoryview], object] | None = None, size: int | None = None) -> FileEntry:
    """Return size and digest of a regular file, read in blocks: a file may be larger than the memory.

    :param target: called with each block; what it raises is passed on.
    :param size: refuse files of another size [bytes].
    :raises ReleaseError: naming the file.
    """
    sha, total, block = hashlib.sha256(), 0, memoryview(bytearray(_BLOCK))
    with open_plain(path, size=size) as file:
        while True:
            try:
                count = file.readinto(block)
            except OSError as error:
                raise ReleaseError(explain(error, path)) from error
            if not count:
                return FileEntry(total, sha.hexdigest())
            total += count
            sha.update(block[:count])
            if target is not None:
                target(block[:count])


def verify_signature(data: bytes, signature: bytes, trusted: Mapping[str, Ed25519PublicKey],
                     where: Path) -> str:
    """Return the id of the trusted key that signed some bytes.

    :raises ReleaseError: when none did.
    """
    if not trusted:
        raise ReleaseError(f'{where}: no trusted keys were given, so no release can be trusted')
    for identity, key in trusted.items():
        try:
            key.verify(signature, data)
        except InvalidSignature:
            continue
        return identity
    raise ReleaseError(f'{where / MANIFEST}: the signature is not by a trusted key '
                       f'({", ".join(sorted(trusted))}): '
                       'the release was changed after signing, or its signer is not trusted here')
