"""The policy slot: serves one verified policy and exchanges it for a newer one between two chunks."""

from __future__ import annotations

import collections
import enum
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpo_ros.policy.contract import Observation, PolicyContract
from fpo_ros.policy.realtime import Leftover
from fpo_ros.releases import Release, load_release
from fpo_ros.runtime.admission import PromotedOnly
from fpo_ros.runtime.providers import DEFAULT_OPTIONS, PolicyError, ProviderOptions
from fpo_ros.runtime.session import PolicySession

#: Entries of the contract a release must share with the cell. Prompt, flow steps, the network's units and what
#: pads an action are the policy's own.
CELL_ENTRIES = ('task', 'observation', 'cameras', 'image_height', 'image_width', 'state_dim',
                'horizon', 'execute', 'control_rate_hz')

_NO_STORE = PromotedOnly(None)


class SlotState(enum.IntEnum):
    """States of the slot, numbered as PolicyStatus.STATE_*."""

    IDLE = 0
    SERVING = 1
    VERIFYING = 2


def misfit(cell: PolicyContract, policy: PolicyContract) -> str:
    """Say which entry of a policy's contract does not fit the cell; empty when all do."""
    for name in CELL_ENTRIES:
        wanted, found = getattr(cell, name), getattr(policy, name)
        if wanted != found:
            return f'{name} is {found!r}, the cell has {wanted!r}'
    return ''


@dataclass(frozen=True)
class _Offer:
    """A release to check, and what was said of it."""

    path: Path
    manifest_sha256: str
    version: str
    configured: bool


class PolicySlot:
    """Serves one policy; checks offered releases beside it in a worker thread and swaps at a chunk edge.

    A release serves only after its signature and digests verified, ``admit`` let it pass, its contract
    fits the cell and its test vectors reproduced here, on a provider no slower than that of the policy that serves
    (the first may have passed faster ones over, or fallen back). On any failure the old policy keeps serving, and
    :attr:`last_refusal` says why. :meth:`infer` and :meth:`at_chunk_edge` belong to one thread; :meth:`offer`
    and :meth:`rollback` may come from any.

    :param cell: the contract of this cell.
    :param trusted_keys: keys releases must be signed with (``fpo_ros.releases.load_trusted_keys``).
    :param provider: as :meth:`PolicySession.load`.
    :param threads: as :meth:`PolicySession.load`.
    :param options: as :meth:`PolicySession.load`.
    :param admit: called with each verified release and whether it is the one configured to serve first; returns
        why it may not serve, or an empty string; see :class:`PromotedOnly`, which without a store admits the
        configured release only. None: any verified release may.
    """

    def __init__(self, cell: PolicyContract, trusted_keys: Any, provider: str = 'cpu', threads: int = 1,
                 admit: Callable[[Release, bool], str] | None = _NO_STORE,
                 options: ProviderOptions = DEFAULT_OPTIONS) -> None:
        options.check(provider)
        self.cell = cell
        self._trusted_keys = trusted_keys
        self._provider, self._threads, self._options = provider, threads, options
        self._admit = admit
        self._lock = threading.Condition()
        self._offers: collections.deque[_Offer] = collections.deque()
        self._checking = False
        self._worker: threading.Thread | None = None
        self._closed = False
        self._ready: PolicySession | None = None
        self._previous: PolicySession | None = None
        self._rolled_back: set[str] = set()
        #: The policy that answers now, or None.
        self.session: PolicySession | None = None
        #: The policy that made the newest chunk; after a rollback meanwhile it is not the one above.
        self.answered: PolicySession | None = None
        #: Why that chunk does not go on from the leftover it was asked for with; empty if it does, or there was none.
        self.apart = ''
        #: Releases swapped in, the first included, and releases refused [count].
        self.swaps = 0
        self.refusals = 0
        #: Why the newest refused release was refused; empty if none.
        self.last_refusal = ''

    @property
    def state(self) -> SlotState:
        """What the slot does now."""
        if self.session is None:
            return SlotState.IDLE
        return SlotState.VERIFYING if self._checking or self._offers else SlotState.SERVING

    @property
    def version(self) -> str:
        """Version of the policy that answers now; empty without one."""
        return '' if self.session is None else self.session.version

    def offer(self, release: str | os.PathLike[str] | Release, manifest_sha256: str = '', version: str = '',
              configured: bool = False) -> None:
        """Queue a release for checking; returns at once.

        :param release: its directory, or the release. It is verified again either way.
        :param manifest_sha256: the announced digest, which the manifest must have; empty: any trusted one.
        :param version: the announced version, which the release must have; empty: any.
        :param configured: it is the release the cell is configured to serve first, not an announced one.
        :raises PolicyError: when the slot was closed.
        """
        path = Path(release if isinstance(release, (str, os.PathLike)) else release.path)
        with self._lock:
            if self._closed:
                raise PolicyError('the policy slot is closed')
            self._offers.append(_Offer(path, manifest_sha256, version, configured))
            self._lock.notify_all()
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name='policy-check', daemon=True)
                self._worker.start()

    def at_chunk_edge(self) -> bool:
        """Swap a checked release in; call between two chunks. Returns True when the policy changed."""
        with self._lock:
            ready, self._ready = self._ready, None
            if ready is None:
                return False
            self._previous, self.session = self.session, ready
            self.swaps += 1
            return True

    def infer(self, observation: Observation, noise: np.ndarray | None = None,
              rng: np.random.Generator | None = None, leftover: Leftover | None = None) -> np.ndarray:
        """Swap if a release is ready, then sample a chunk.

        Parameters and errors as :meth:`PolicySession.infer`; but a policy that cannot go on from the leftover leaves it
        alone, and :attr:`apart` says why: it may be the one that was swapped in just now.

        :raises PolicyError: also when no policy is loaded.
        """
        self.at_chunk_edge()
        session = self.session
        if session is None:
            raise PolicyError('no policy is loaded: announce a release'
                              + (f' (newest refusal: {self.last_refusal})' if self.last_refusal else ''))
        apart = '' if leftover is None else session.objection(observation.images, leftover.delay)
        chunk = session.infer(observation, noise, rng, None if apart else leftover)
        self.answered, self.apart = session, apart
        return chunk

    def rollback(self) -> str:
        """Return to the policy served before, at once; the one left is refused when offered again.

        :returns: the version that serves now.
        :raises PolicyError: when there is none.
        """
        with self._lock:
            if self._previous is None or self.session is None:
                raise PolicyError('no earlier policy to roll back to')
            self._rolled_back.add(self.session.manifest_sha256)
            self._ready = None
            self.session, self._previous = self._previous, None
            self.swaps += 1
            return self.session.version

    def wait(self, timeout: float) -> bool:
        """Wait until every offer was checked.

        :param timeout: longest wait [s].
        :returns: False on time-out.
        """
        with self._lock:
            return self._lock.wait_for(lambda: not (self._checking or self._offers), timeout)

    def close(self, timeout: float = 10.0) -> bool:
        """End the worker thread; offers not checked yet are dropped.

        :param timeout: longest wait for a check under way [s].
        :returns: False when the thread did not end in time.
        """
        with self._lock:
            self._closed = True
            self._offers.clear()
            self._lock.notify_all()
            worker = self._worker
        if worker is None:
            return True
        worker.join(timeout)
        return not worker.is_alive()

    # ---- worker thread

    def _work(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._offers or self._closed)
                if not self._offers:
                    return
                offer, self._checking = self._offers.popleft(), True
            try:
                self._consider(offer)
            finally:
                with self._lock:
                    self._checking = False
                    self._lock.notify_all()

    def _consider(self, offer: _Offer) -> None:
        try:
            session = self._check(offer)
        except Exception as error:  # noqa: BLE001 (whatever a bad release provokes, the old policy keeps serving)
            reason = str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
            with self._lock:
                self.refusals += 1
                self.last_refusal = reason
            return
        with self._lock:
            if session is None or session.manifest_sha256 in self._rolled_back:
                return
            # Meanwhile a rollback may have brought that very release back.
            serves = self.session is not None and self.session.manifest_sha256 == session.manifest_sha256
            self._ready = None if serves else session

    def _check(self, offer: _Offer) -> PolicySession | None:
        """Return the checked session, or None when that very release serves (or is about to).

        One that waits to take over from the release announced now is dropped: the newest announcement counts.
        """
        if not self._trusted_keys:
            raise PolicyError('no trusted release keys are configured, so no release can be verified: '
                              'name them in parameter trusted_keys')
        verified = load_release(offer.path.resolve(), self._trusted_keys)  # the place admitted is the place read
        name = f'release {verified.version}'
        if offer.version and verified.version != offer.version:
            raise PolicyError(f'{offer.path} holds {name}, announced was {offer.version}: '
                              'announce the directory of that version')
        if offer.manifest_sha256 and verified.manifest_sha256 != offer.manifest_sha256:
            raise PolicyError(f'{name}: manifest digest is {verified.manifest_sha256[:12]}…, announced was '
                              f'{offer.manifest_sha256[:12]}…: {offer.path} is not the release that was announced')
        with self._lock:
            if self.session is not None and self.session.manifest_sha256 == verified.manifest_sha256:
                self._ready = None
                return None
            if self._ready is not None and self._ready.manifest_sha256 == verified.manifest_sha256:
                return None
            if verified.manifest_sha256 in self._rolled_back:
                raise PolicyError(f'{name} was rolled back here: publish a newer one')
        problem = self._admit(verified, offer.configured) if self._admit else ''
        if problem:
            raise PolicyError(f'{name} is not admitted: {problem}')
        problem = misfit(self.cell, verified.contract)
        if problem:
            raise PolicyError(f'{name} does not fit the cell: {problem}. Announce a policy made for this cell, or '
                              f'start the graph anew with {verified.path} as its first policy, for which it is laid '
                              'out then')
        with self._lock:
            beside = self._ready or self.session
        session = PolicySession.load(verified, self._provider, self._threads, self._options, beside)
        session.verify_vectors()
        return session
