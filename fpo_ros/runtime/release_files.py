"""Reading a release, verified or as a plain directory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fpo_ros.files import explain
from fpo_ros.policy.contract import ContractError, PolicyContract
from fpo_ros.policy.normalisation import NormStats
from fpo_ros.releases import Release, ReleaseError
from fpo_ros.releases.manifest import copy_plain
from fpo_ros.runtime.providers import PolicyError

CONTRACT_FILE, STATS_FILE = 'contract.json', 'norm_stats.json'
PREFIX_FILE, DENOISE_FILE, VECTORS_FILE = 'prefix.onnx', 'denoise.onnx', 'vectors.npz'
#: The graph of an actor over the start noise, of policies that have one.
LATENT_FILE = 'latent.onnx'
#: The graph of a step that is guided towards the rows of the chunk before, of policies that are executed in real time.
GUIDED_FILE = 'guided.onnx'
#: The graph of a flow that goes on from those rows, of policies that were trained to.
CONTINUED_FILE = 'continued.onnx'
#: An entry ``location`` of an initialiser's external data: message StringStringEntryProto of onnx.proto, with key
#: as field 1 and value as field 2, which begins with its length in groups of 7 bits, low ones first.
_LOCATION = b'\x0a\x08location\x12'
_LENGTH = re.compile(rb'[\x80-\xff]{0,4}[\x00-\x7f]')
#: Bytes that are searched at a time: while one search runs, no other thread runs Python.
_STRIDE = 1 << 20


class ReleaseFiles:
    """The files of a release.

    :param release: a directory, read as it stands, or a verified ``fpo_ros.releases.Release``, whose
        every file is compared with the signed manifest at the moment it is read.
    :raises PolicyError: when there is no such directory.
    """

    def __init__(self, release: str | os.PathLike[str] | Release) -> None:
        plain = isinstance(release, (str, os.PathLike))
        self._release: Release | None = None if plain else release
        self.path = Path(release if plain else release.path)
        if not self.path.is_dir():
            raise PolicyError(f'{self.path}: no such release directory')
        self.version: str = self.path.name if plain else release.version
        #: Digest of the manifest [lowercase hex]; empty for a plain directory.
        self.manifest_sha256: str = '' if plain else release.manifest_sha256

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name; in a verified release, whether it is a signed one."""
        if self._release is not None:
            return name in self._release.manifest.files
        return os.path.lexists(self.path / name)

    def read(self, name: str) -> bytes:
        """Return the bytes of one file.

        :raises PolicyError: when it is missing or, in a verified release, was changed.
        """
        try:
            if self._release is not None:
                return self._release.read_bytes(name)
            return (self.path / name).read_bytes()
        except (OSError, ValueError) as error:
            raise PolicyError(f'{self.path / name}: cannot be read: {error}') from error

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a graph and the weights beside it, in hexadecimal.

        :raises PolicyError: as :meth:`graph`.
        """
        parts = [f'{file} {self._digest(file)}\n' for file in (name, *self._weights(name, self.read(name)))]
        return hashlib.sha256(''.join(parts).encode()).hexdigest()

    def _digest(self, name: str) -> str:
        if self._release is not None:
            return self._release.manifest.files[name].sha256
        try:
            return copy_plain((self.path / name).resolve()).sha256
        except ReleaseError as error:
            raise PolicyError(str(error)) from error

    def _weights(self, name: str, model: bytes) -> list[str]:
        """Return the files in which a graph keeps weights.

        :raises PolicyError: for one that a verified release does not list.
        """
        needed = external_files(model)
        for file in needed if self._release is not None else ():
            if file not in self._release.manifest.files:
                raise PolicyError(f'{self.path / name}: its weights lie in {file!r}, which is no file of the signed '
                                  'release: export the policy again and publish all of its files')
        return needed

    @contextlib.contextmanager
    def graph(self, name: str) -> Iterator[tuple[Path, bool]]:
        """Give the file from which onnxruntime may take a graph, and whether it has large weights in others beside it.

        onnxruntime reads a file without holding Python's lock, as it holds it for bytes. It maps large weights into
        memory and sees every later change of them. So for a verified release the file lies in a directory of this
        user alone, with copies of the verified bytes of the graph and its weights; it is removed in the end, while
        what was mapped stays. For a plain directory it is the file itself.

        :param name: name of the graph.
        :raises PolicyError: when it cannot be read, it refers to a file that the release does not list, a file was
            changed, or there is no room for the copies.
        """
        model = self.read(name)
        needed = self._weights(name, model)
        if self._release is None:
            del model
            yield self.path / name, bool(needed)
            return
        with contextlib.ExitStack() as stack:
            try:
                private = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='fpo_ros-graph-')))
                with _private(private / name) as file:
                    file.write(model)
                for weights in needed:
                    self._copy(weights, private / weights)
            except OSError as error:
                place = Path(tempfile.gettempdir())
                raise PolicyError(f'{self.path / name} cannot be copied: {explain(error, place)} '
                                  '(the variable TMPDIR names another place)') from error
            del model
            yield private / name, bool(needed)

    def _copy(self, name: str, target: Path) -> None:
        """Copy a file without waiting for the disk; what is in the copy is verified.

        :raises PolicyError: when the file is missing or was changed.
        """
        with _private(target) as file:
            try:
                self._release.copy(name, file.write)
            except ValueError as error:
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


def external_files(model: bytes) -> list[str]:
    """Return the names of the files in which a graph keeps weights."""
    names = {}
    for start in range(0, len(model), _STRIDE):
        end, place = start + _STRIDE + len(_LOCATION) - 1, start
        while (place := model.find(_LOCATION, place, end)) >= 0:
            place += len(_LOCATION)
            if length := _LENGTH.match(model, place):
                size = sum((byte & 0x7f) << 7 * group for group, byte in enumerate(length[0]))
                names[model[length.end():length.end() + size].decode(errors='backslashreplace')] = None
    return list(names)


def _private(path: Path) -> BinaryIO:
    """Open a new file that this user alone may read, to write."""
    return open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), 'wb')
