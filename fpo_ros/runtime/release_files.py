"""Reading a release, verified or as a plain directory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.runtime.providers import PolicyError

CONTRACT_FILE, STATS_FILE = 'contract.json', 'norm_stats.json'
PREFIX_FILE, DENOISE_FILE, VECTORS_FILE = 'prefix.onnx', 'denoise.onnx', 'vectors.npz'


class ReleaseFiles:
    """The files of a release.

    :param release: a directory, read as it stands, or a verified ``fpo_ros.releases.Release``, whose
        every file is compared with the signed manifest at the moment it is read.
    :raises PolicyError: when there is no such directory.
    """

    def __init__(self, release: Any) -> None:
        plain = isinstance(release, (str, os.PathLike))
        self._release = None if plain else release
        self.path = Path(release if plain else release.path)
        if not self.path.is_dir():
            raise PolicyError(f'{self.path}: no such release directory')
        self.version: str = self.path.name if plain else release.version
        #: Digest of the manifest [lowercase hex]; empty for a plain directory.
        self.manifest_sha256: str = '' if plain else release.manifest_sha256

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        :raises PolicyError: when it is missing or, in a verified release, was changed.
        """
        try:
            if hasattr(self._release, 'read_bytes'):
                return self._release.read_bytes(name)
            return (self.path / name).read_bytes()
        except (OSError, ValueError) as error:
            raise PolicyError(f'{self.path / name}: cannot be read: {error}') from error

    def contract(self) -> PolicyContract:
        """Return the contract.

        :raises PolicyError: naming the file and what is wrong with it.
        """
        if self._release is not None:
            return self._release.contract
        try:
            return PolicyContract.from_dict(json.loads(self.read(CONTRACT_FILE)))
        except PolicyError:
            raise
        except (ValueError, TypeError) as error:
            raise PolicyError(f'{self.path / CONTRACT_FILE}: {error}') from error

    def stats(self, contract: PolicyContract) -> NormStats:
        """Return the normalisation statistics.

        :raises PolicyError: naming the file and what is wrong with it.
        """
        path = self.path / STATS_FILE
        data = self.read(STATS_FILE)
        try:
            stats = NormStats.from_json(data.decode(), path)
            stats.check(contract)
        except (ContractError, UnicodeDecodeError) as error:
            raise PolicyError(f'{path}: {error}') from error
        return stats
