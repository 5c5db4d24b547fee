"""The release store: numbered releases and the list of those promoted.

Layout: ``<store>/v000001/``, ``<store>/v000002/`` … and ``<store>/promoted``, a text file with one version
per line in order of promotion; the last line is the one that serves.
"""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fpo_ros.files import NotConfirmed, explain, locked, make_dirs, new_file, replace_file, sync_dir, write_file
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.releases.errors import ReleaseError
from fpo_ros.releases.gate import DEFAULT_GATE, PromotionGate
from fpo_ros.releases.keys import key_id, load_private_key
from fpo_ros.releases.manifest import (
    FILE_NAME,
    MANIFEST,
    REQUIRED_FILES,
    SIGNATURE,
    VERSION,
    FileEntry,
    Manifest,
    copy_plain,
    digest,
    is_version,
    read_plain,
)
from fpo_ros.releases.release import Release, load_release, parse_interface

PROMOTED = 'promoted'
#: Files of a release that are looked into before it is published.
_READ = ('contract.json', 'norm_stats.json', 'vectors.npz')
_LOCK = '.lock'
_INCOMING = '.incoming-'


class ReleaseStore:
    """Releases in a directory, which is made when something is first published.

    Any number of processes may publish, promote and read at once.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f'ReleaseStore({str(self.path)!r})'

    def versions(self) -> list[str]:
        """Return all versions, oldest first.

        :raises ReleaseError: when the directory is missing.
        """
        try:
            numbers = self._numbers()
        except OSError as error:
            raise ReleaseError(f'release store {explain(error, self.path)}') from error
        return [_name(number) for number in numbers]

    def load(self, version: str, trusted_keys: Mapping[str, Ed25519PublicKey]) -> Release:
        """Open and verify one release.

        :raises ReleaseError: when there is none of that name, it does not verify, or it is another
            version under that name.
        """
        if not is_version(version):
            raise ReleaseError(f'{version!r} is not a version: versions look like v000001')
        if not (self.path / version).is_dir():
            raise ReleaseError(f'{self.path} has no release {version}: it has '
                               f'{", ".join(self.versions()) or "none"}')
        release = load_release(self.path / version, trusted_keys)
        if release.version != version:
            raise ReleaseError(f'{release.path} holds release {release.version} under the name {version}: '
                               'restore the directory from where it came')
        return release

    def publish(self, staging_dir: str | Path, *, contract: PolicyContract, metrics: dict[str, Any],
                parent: str | None, private_key: Ed25519PrivateKey | str | Path, created: str) -> Release:
        """Copy, list and sign the files of a new release.

        :param staging_dir: directory with norm_stats.json, prefix.onnx, denoise.onnx, vectors.npz and
            whatever else the release shall hold, flat. contract.json is written from ``contract``.
        :param metrics: JSON values; ``metrics['evaluation']`` is what the promotion gate reads.
        :param parent: version this one was trained from, None for the first.
        :param private_key: the key, or the path of its PEM file.
        :param created: ISO 8601 time.
        :raises ReleaseError: naming the file that is missing, not plain or unfit; nothing is published then, unless
            it says "published as".
        """
        key = private_key if isinstance(private_key, Ed25519PrivateKey) else load_private_key(private_key)
        if parent is not None and not is_version(parent):
            raise ReleaseError(f'parent {parent!r} is not a version: versions look like v000001')
        contents = _read_staging(Path(staging_dir), contract)
        signer = key_id(key.public_key())
        try:
            make_dirs(self.path)
            with locked(self.path / _LOCK):
                version = self._next()

                def signed(files: dict[str, FileEntry]) -> dict[str, bytes]:
                    data = Manifest(version, created, parent, signer, metrics, files).to_bytes()
                    return {MANIFEST: data, SIGNATURE: key.sign(data)}

                self._place(version, contents, signed)
        except OSError as error:
            raise ReleaseError(f'nothing was published: {explain(error, self.path)}') from error
        return self.load(version, {signer: key.public_key()})

    def promoted(self) -> str | None:
        """Return the version that serves, None if none was promoted.

        :raises ReleaseError: when the list is damaged.
        """
        history = self.history()
        return history[-1] if history else None

    def history(self) -> list[str]:
        """Return the promoted versions, newest last.

        :raises ReleaseError: when the list is damaged.
        """
        file = self.path / PROMOTED
        try:
            lines = file.read_text(encoding='ascii').splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise ReleaseError(f'{file} cannot be read: {error}') from error
        for line in lines:
            if not is_version(line):
                raise ReleaseError(f'{file} holds {line!r}, which is not a version: '
                                   'correct or remove that line')
        return lines

    def promote(self, version: str, trusted_keys: Mapping[str, Ed25519PublicKey], gate: PromotionGate = DEFAULT_GATE,
                replace_unverified: Callable[[str], None] | None = None) -> Release:
        """Make a release the one that serves, if it verifies and passes the gate.

        Promoting the release that serves already changes nothing.

        :param replace_unverified: called with the reason when the release that serves is missing or does not verify
            (any more); the new one is then compared with none. None: that is an error.
        :raises PromotionRefused: with the gate's reason.
        :raises ReleaseError: when a release does not verify.
        """
        release = self.load(version, trusted_keys)
        with self._locked():
            history = self.history()
            if not history or history[-1] != version:
                serving = self._serving(history[-1], trusted_keys, replace_unverified) if history else None
                gate.check(release, serving)
                history.append(version)
            self._write_history(history)  # even unchanged: the disk may not have confirmed the last time
        return release

    def _serving(self, version: str, trusted_keys: Mapping[str, Ed25519PublicKey],
                 replace_unverified: Callable[[str], None] | None) -> Release | None:
        """Return the release that serves; None if it does not verify and may be replaced all the same."""
        try:
            return self.load(version, trusted_keys)
        except ReleaseError as error:
            if replace_unverified is None:
                raise ReleaseError(f'{version} serves, and nothing can be compared with it: {error}. Restore it, or '
                                   'promote with --replace-unverified to compare with nothing') from error
            replace_unverified(str(error))
            return None

    def rollback(self) -> str:
        """Make the release that served before the present one serve again.

        :returns: the version that serves now.
        :raises ReleaseError: when there is none to go back to.
        """
        with self._locked():
            history = self.history()
            if len(history) < 2:
                raise ReleaseError(f'{self.path} has no earlier promoted release to go back to')
            if not (self.path / history[-2]).is_dir():
                raise ReleaseError(f'{self.path / history[-2]} is missing: it cannot serve again')
            self._write_history(history[:-1])
            return history[-2]

    def _locked(self) -> Any:
        self.versions()  # names a missing store before a lock file is made in it
        return locked(self.path / _LOCK)

    def _write_history(self, history: list[str]) -> None:
        try:
            replace_file(self.path / PROMOTED, ''.join(f'{version}\n' for version in history).encode())
        except NotConfirmed as error:
            raise ReleaseError(f'{history[-1]} serves now, but that may not survive a power cut: '
                               f'{explain(error, self.path / PROMOTED)}. Check the disk') from error
        except OSError as error:
            raise ReleaseError(f'nothing was changed: {explain(error, self.path / PROMOTED)}') from error

    def _numbers(self) -> list[int]:
        matches = (VERSION.fullmatch(name) for name in os.listdir(self.path))
        return sorted(int(match.group(1)) for match in matches if match)

    def _next(self) -> str:
        """Return the first version that no release here has or had."""
        numbers = self._numbers() + [int(version[1:]) for version in self.history()]
        return _name(max(numbers, default=0) + 1)

    def _place(self, version: str, contents: Mapping[str, bytes | Path],
               signed: Callable[[dict[str, FileEntry]], dict[str, bytes]]) -> None:
        """Let a release directory appear, complete and durable; the caller holds the lock.

        :param contents: bytes of a file, or the file that is copied.
        :param signed: makes manifest and signature of what was written.
        """
        for leftover in self.path.glob(_INCOMING + '*'):  # of publishers that were killed
            shutil.rmtree(leftover)
        incoming = self.path / f'{_INCOMING}{uuid.uuid4().hex}'
        try:
            incoming.mkdir()
            files = {name: _write(incoming / name, data) for name, data in contents.items()}
            for name, data in signed(files).items():
                write_file(incoming / name, data)
            sync_dir(incoming)
            os.rename(incoming, self.path / version)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        try:
            sync_dir(self.path)
        except OSError as error:
            raise ReleaseError(f'{self.path}: published as {version}, but the disk did not confirm it '
                               f'({error.strerror or error}): a power cut may lose it. Check the disk; do not publish '
                               'it again') from error


def _name(number: int) -> str:
    return f'v{number:06d}'


def _write(path: Path, data: bytes | Path) -> FileEntry:
    """Write a new file, wait until the disk has it, and return its size and digest.

    :param data: its bytes, or the plain file that is copied.
    """
    if isinstance(data, bytes):
        write_file(path, data)
        return digest(data)
    with new_file(path) as write:
        return copy_plain(data, write)


def _read_staging(staging: Path, contract: PolicyContract) -> dict[str, bytes | Path]:
    """Return what a release shall hold: files that are looked into as bytes, others as where they are."""
    try:
        names = sorted(os.listdir(staging))
    except OSError as error:
        raise ReleaseError(f'staging directory {explain(error, staging)}') from error
    for name in names:
        if not FILE_NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise ReleaseError(f'{staging / name}: files of a release have plain names and are not '
                               f'{MANIFEST} or {SIGNATURE}')
    contents: dict[str, bytes | Path] = {
        name: read_plain(staging / name) if name in _READ else staging / name for name in names}
    own = contract.to_json().encode()
    if contents.setdefault('contract.json', own) != own:
        raise ReleaseError(f'{staging / "contract.json"} differs from the contract given: remove it, '
                           'it is written from the contract')
    missing = [name for name in REQUIRED_FILES if name not in contents]
    if missing:
        raise ReleaseError(f'{staging / missing[0]} is missing: a release has {", ".join(REQUIRED_FILES)}')
    parse_interface(contents, staging)
    _check_vectors(contents['vectors.npz'], staging / 'vectors.npz')
    return contents


def _check_vectors(data: bytes, where: Path) -> None:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as vectors:
            for name in vectors.files:
                vectors[name]
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise ReleaseError(f'{where} is not an .npz archive of plain arrays: {error}') from error
