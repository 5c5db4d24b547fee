"""Which verified releases a cell may serve: those that its own release store promoted."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from fpo_ros.releases import Release, ReleaseStore


class PromotedOnly:
    """Admits to a :class:`PolicySlot` what the release store of the cell promoted.

    An announced release must lie in that store under its own name and be the one promoted last: neither a copy
    beside a list of its own nor an older release comes in by an announcement. The release the cell is configured
    to serve first may be any that the store has promoted.

    :param store: the store, whose place is taken now; None or empty: no announced release is admitted, and the
        configured one must be promoted in the store it lies in.
    :param keys: where the trusted public keys are, for the commands in messages.
    """

    def __init__(self, store: str | os.PathLike[str] | None, keys: str | os.PathLike[str] = 'KEYS') -> None:
        self._store = Path(store).resolve() if store else None
        self._keys = str(keys)

    def __call__(self, release: Release, configured: bool) -> str:
        """Say why a release may not serve; empty when it may.

        :param configured: it is the one to serve first, not an announced one.
        :raises ReleaseError: when the store's list of promotions is damaged.
        """
        place, version = release.path.resolve(), release.version
        if self._store is None and not configured:
            return ('only releases of the release store of this cell can be announced, and none is named: '
                    'name its directory in parameter releases')
        store = self._store or place.parent
        if place.parent != store:
            return (f'{place} does not lie in the release store of this cell, {store}: '
                    'copy the release and the list of promotions to that store')
        if place.name != version:
            return f'{place} holds release {version} under another name: copy the release again'
        history = ReleaseStore(store).history()
        promote = self._command('promote', str(store), version, '--trusted', self._keys)
        if version not in history:
            return f'it was not promoted in {store} (promoted: {", ".join(history) or "none"}): run "{promote}"'
        if not configured and version != history[-1]:
            return (f'{store} lets {history[-1]} serve, promoted later: announce that one, go back with '
                    f'"{self._command("rollback", str(store))}", or run "{promote}"')
        return ''

    @staticmethod
    def _command(*words: str) -> str:
        return shlex.join(['fpo-ros', 'releases', *words])
