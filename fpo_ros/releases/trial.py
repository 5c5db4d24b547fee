"""A release of a policy for a trial on simulated arms, signed by a key that lasts as long as the trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from fpo_ros.policies import directory_of
from fpo_ros.releases.keys import generate_keypair
from fpo_ros.releases.publishing import publish_policy
from fpo_ros.releases.store import ReleaseStore


@contextmanager
def trial_release(policy: str) -> Iterator[tuple[Path, Path]]:
    """Export a torch policy, and sign it with a new key; give the release and the key to trust.

    No gate has seen it: it is for simulated arms. Both are gone at the end.

    :raises fpo_ros.releases.errors.ReleaseError: when publication fails, or torch is missing.
    :raises fpo_ros.policy.contract.ContractError: when there is no readable policy.
    """
    with TemporaryDirectory(prefix='fpo_ros-trial-') as place:
        keys = generate_keypair(Path(place) / 'keys')
        release, _ = publish_policy(ReleaseStore(Path(place) / 'store'), directory_of(policy), {}, keys.private_path,
                                    parent=None, created=datetime.now(timezone.utc).isoformat(timespec='seconds'))
        yield release.path, keys.public_path
