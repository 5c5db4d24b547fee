"""Ed25519 keys that sign and verify releases."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fpo_ros.files import explain, make_dirs, sync_dir, write_file
from fpo_ros.releases.errors import ReleaseError

PRIVATE_SUFFIX = '.key'
PUBLIC_SUFFIX = '.pub'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,63}')
_MAX_KEY_BYTES = 1 << 16
_WRITABLE = 'changed by other users, who could trust keys of their own: run "chmod go-w {}"'


@dataclass(frozen=True)
class KeyPair:
    """A key pair on disk.

    :param private_path: PEM file of mode 0600; keep it on the machine that trains.
    :param public_path: PEM file to copy to every machine that runs policies.
    :param key_id: see :func:`key_id`.
    """

    private_path: Path
    public_path: Path
    key_id: str


def key_id(key: Ed25519PublicKey) -> str:
    """Return the first 16 hex digits of the SHA-256 of the raw public key."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def generate_keypair(directory: str | Path, name: str = 'release') -> KeyPair:
    """Make ``<name>.key`` (mode 0600) and ``<name>.pub`` in a directory, which is made if missing (mode 0755).

    :raises ReleaseError: when one of the files exists already, or the directory cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ReleaseError(f'key name {name!r}: use letters, digits, "_", "-" and "."')
    directory = Path(directory)
    private_path, public_path = directory / (name + PRIVATE_SUFFIX), directory / (name + PUBLIC_SUFFIX)
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    contents = {
        private_path: (private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                             serialization.NoEncryption()), 0o600),
        public_path: (public.public_bytes(serialization.Encoding.PEM,
                                          serialization.PublicFormat.SubjectPublicKeyInfo), 0o644)}
    begun: list[Path] = []
    try:
        make_dirs(directory, 0o755)
        for path in contents:
            if path.exists():
                raise ReleaseError(f'{path} exists: keys are never overwritten, '
                                   'choose another name or directory')
        for path, (data, mode) in contents.items():
            begun.append(path)
            write_file(path, data, mode)
        sync_dir(directory)
    except OSError as error:
        if isinstance(error, FileExistsError):
            begun = begun[:-1]  # somebody else just made that one
        for path in begun:
            path.unlink(missing_ok=True)
        raise ReleaseError(f'no keys were made: {explain(error, directory)}') from error
    return KeyPair(private_path, public_path, key_id(public))


def load_private_key(path: str | Path) -> Ed25519PrivateKey:
    """Read a private key.

    :raises ReleaseError: when it is missing, open to other users, or not an Ed25519 key without password.
    """
    path = Path(path)
    try:
        data = _read_guarded(path, 0o077, 'read by other users: run "chmod 600 {}"')
    except OSError as error:
        raise ReleaseError(f'private key {explain(error, path)}') from error
    make = f'make one with {shlex.join(["fpo-ros", "releases", "keygen", str(path.parent)])}'
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ReleaseError(f'{path} is not a PEM private key without password: {make}') from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ReleaseError(f'{path} is not an Ed25519 key: {make}')
    return key


def load_trusted_keys(path: str | Path) -> dict[str, Ed25519PublicKey]:
    """Read the public keys whose releases may run.

    Whoever may write there decides what runs, so that must be the user of this process or root alone.

    :param path: a public key file, or a directory whose ``*.pub`` files are all trusted.
    :returns: key id → key.
    :raises ReleaseError: when there is none, others may write there, or a file is not an Ed25519 public key.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        try:
            _refuse_open(path, os.stat(path), 0o022, _WRITABLE)
            files = sorted(path.glob('*' + PUBLIC_SUFFIX))
        except OSError as error:
            raise ReleaseError(f'trusted keys {explain(error, path)}') from error
    if not files:
        raise ReleaseError(f'{path} holds no trusted key: copy the {PUBLIC_SUFFIX} file of the signer there')
    keys = (_load_public_key(file) for file in files)
    return {key_id(key): key for key in keys}


def _load_public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(_read_guarded(path, 0o022, _WRITABLE))
    except OSError as error:
        raise ReleaseError(f'trusted key {explain(error, path)}') from error
    except ReleaseError:
        raise
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ReleaseError(f'{path} is not a PEM public key') from error
    if not isinstance(key, Ed25519PublicKey):
        raise ReleaseError(f'{path} is not an Ed25519 public key')
    return key


def _read_guarded(path: Path, forbidden: int, what: str) -> bytes:
    """Return the bytes of a key file, after checking on the open file who else has access.

    :param forbidden: permission bits it must not have.
    :param what: see :func:`_refuse_open`.
    :raises OSError: as the system reports it.
    :raises ReleaseError: when others have access, or it is not a plain file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_KEY_BYTES:
            raise ReleaseError(f'{path} is not a key file')
        _refuse_open(path, status, forbidden, what)
        return os.read(fd, _MAX_KEY_BYTES)
    finally:
        os.close(fd)


def _refuse_open(path: Path, status: os.stat_result, forbidden: int, what: str) -> None:
    """Refuse what others have access to.

    :param forbidden: permission bits it must not have.
    :param what: what these bits let others do and the remedy, with {} for the path.
    :raises ReleaseError: saying what to do.
    """
    name = shlex.quote(str(path))
    if status.st_uid not in (0, os.geteuid()):
        raise ReleaseError(f'{path} belongs to another user (id {status.st_uid}): run "chown {os.geteuid()} {name}" '
                           'as root, or copy it')
    if status.st_mode & forbidden:
        raise ReleaseError(f'{path} can be {what.format(name)}')
