"""Opening a release: nothing in it is used before its signature and every digest were verified."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fpo_ros.files import explain
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.releases.errors import ReleaseError
from fpo_ros.releases.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Manifest,
    copy_plain,
    read_plain,
    verify_signature,
)


@dataclass(frozen=True)
class Release:
    """A verified release.

    :param path: its directory.
    :param manifest: what it says about itself.
    :param manifest_sha256: hex digest of manifest.json, which through the listed digests pins every byte.
    :param contract: interface of the policy.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str
    contract: PolicyContract

    @property
    def version(self) -> str:
        """Its name, such as ``'v000001'``."""
        return self.manifest.version

    @property
    def metrics(self) -> dict[str, Any]:
        """JSON values recorded at publication."""
        return self.manifest.metrics

    @property
    def parent(self) -> str | None:
        """Version this one was trained from."""
        return self.manifest.parent

    def read_bytes(self, name: str) -> bytes:
        """Return the bytes of one file, verified against the manifest at this moment.

        :raises ReleaseError: when it is not listed, missing, or was changed.
        """
        parts: list[bytes] = []
        _check_listed(self.path, self.manifest, name, lambda block: parts.append(bytes(block)))
        return b''.join(parts)

    def copy(self, name: str, target: Callable[[memoryview], object]) -> None:
        """Pass the bytes of one file on in blocks; they are verified when this returns, and not before.

        :param target: called with each block; what it raises is passed on.
        :raises ReleaseError: when it is not listed, missing, or was changed.
        """
        _check_listed(self.path, self.manifest, name, target)


def load_release(directory: str | Path, trusted_keys: Mapping[str, Ed25519PublicKey]) -> Release:
    """Open a release after verifying its signature and every file.

    :param trusted_keys: see :func:`fpo_ros.releases.keys.load_trusted_keys`.
    :raises ReleaseError: naming the file that is unsigned, changed, missing, surplus or not plain.
    """
    path = Path(directory)
    if not path.is_dir():
        raise ReleaseError(f'{path}: no such release')
    if not os.path.lexists(path / SIGNATURE) and os.path.lexists(path / MANIFEST):
        raise ReleaseError(f'{path} is not signed ({SIGNATURE} is missing): publish it with a private key')
    data = read_plain(path / MANIFEST, MAX_MANIFEST_BYTES)
    signer = verify_signature(data, read_plain(path / SIGNATURE, 4096), trusted_keys, path)
    manifest = Manifest.from_bytes(data, path / MANIFEST)
    if manifest.key_id != signer:
        raise ReleaseError(f'{path / MANIFEST} names key {manifest.key_id}, but {signer} signed it')
    _refuse_surplus(path, manifest)
    contents = {'contract.json': b'', 'norm_stats.json': b''}
    for name in manifest.files:  # only the two small ones are kept in memory
        _check_listed(path, manifest, name, partial(_keep, contents, name) if name in contents else None)
    return Release(path, manifest, hashlib.sha256(data).hexdigest(), parse_interface(contents, path))


def _keep(contents: dict[str, bytes], name: str, block: memoryview) -> None:
    contents[name] += block


def _check_listed(path: Path, manifest: Manifest, name: str, target: Callable[[memoryview], object] | None) -> None:
    entry = manifest.files.get(name)
    if entry is None:
        raise ReleaseError(f'{path} has no file {name!r}: it has {", ".join(sorted(manifest.files))}')
    file = path / name
    if copy_plain(file, target, entry.size) != entry:
        raise ReleaseError(f'{file} does not have the digest in the manifest: '
                           'the file was changed after signing; copy the release again')


def parse_interface(contents: Mapping[str, bytes], where: Path) -> PolicyContract:
    """Return the contract in contract.json, after checking that norm_stats.json fits it.

    :raises ReleaseError: naming the file and the entry.
    """
    try:
        contract = PolicyContract.from_dict(json.loads(contents['contract.json']))
    except (ValueError, TypeError, RecursionError) as error:
        raise ReleaseError(f'{where / "contract.json"}: {error}') from error
    try:
        text = contents['norm_stats.json'].decode()
        NormStats.from_json(text, where / 'norm_stats.json').check(contract)
    except (ContractError, UnicodeDecodeError) as error:
        raise ReleaseError(f'{where / "norm_stats.json"}: {error}') from error
    return contract


def _refuse_surplus(path: Path, manifest: Manifest) -> None:
    try:
        found = set(os.listdir(path))
    except OSError as error:
        raise ReleaseError(explain(error, path)) from error
    surplus = sorted(found - set(manifest.files) - {MANIFEST, SIGNATURE})
    if surplus:
        raise ReleaseError(f'{path / surplus[0]} is not in the manifest: '
                           'a release holds signed files only; remove it or copy the release again')
