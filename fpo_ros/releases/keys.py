"""Ed25519 keys that sign and verify releases."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fpo_ros.files import explain, sync_dir, write_file
from fpo_ros.releases.errors import ReleaseError

PRIVATE_SUFFIX = '.key'
PUBLIC_SUFFIX = '.pub'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]{0,63}')


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
    """Make ``<name>.key`` (mode 0600) and ``<name>.pub`` in a directory, which is made if missing.

    :raises ReleaseError: when one of the files exists already, or the directory cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ReleaseError(f'key name {name!r}: use letters, digits, "_", "-" and "."')
    directory = Path(directory)
    private_path, public_path = directory / (name + PRIVATE_SUFFIX), directory / (name + PUBLIC_SUFFIX)
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in (private_path, public_path):
            if path.exists():
                raise ReleaseError(f'{path} exists: keys are never overwritten, '
                                   'choose another name or directory')
        write_file(private_path, private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()), 0o600)
        write_file(public_path, public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
        sync_dir(directory)
    except OSError as error:
        raise ReleaseError(f'no keys were made: {explain(error, directory)}') from error
    return KeyPair(private_path, public_path, key_id(public))


def load_private_key(path: str | Path) -> Ed25519PrivateKey:
    """Read a private key.

    :raises ReleaseError: when it is missing, readable by others, or not an Ed25519 key without password.
    """
    path = Path(path)
    try:
        if os.stat(path).st_mode & 0o077:
            raise ReleaseError(f'{path} can be read by other users: run "chmod 600 {path}"')
        data = path.read_bytes()
    except OSError as error:
        raise ReleaseError(f'private key {explain(error, path)}') from error
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ReleaseError(f'{path} is not a PEM private key without password: '
                           'make one with "fpo-ros releases keygen"') from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ReleaseError(f'{path} is not an Ed25519 key: make one with "fpo-ros releases keygen"')
    return key


def load_trusted_keys(path: str | Path) -> dict[str, Ed25519PublicKey]:
    """Read the public keys whose releases may run.

    :param path: a public key file, or a directory whose ``*.pub`` files are all trusted.
    :returns: key id → key.
    :raises ReleaseError: when there is none, or a file is not an Ed25519 public key.
    """
    path = Path(path)
    files = sorted(path.glob('*' + PUBLIC_SUFFIX)) if path.is_dir() else [path]
    if not files:
        raise ReleaseError(f'{path} holds no trusted key: copy the {PUBLIC_SUFFIX} file of the signer there')
    keys = (_load_public_key(file) for file in files)
    return {key_id(key): key for key in keys}


def _load_public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ReleaseError(f'trusted key {explain(error, path)}') from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ReleaseError(f'{path} is not a PEM public key') from error
    if not isinstance(key, Ed25519PublicKey):
        raise ReleaseError(f'{path} is not an Ed25519 public key')
    return key
