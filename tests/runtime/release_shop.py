"""A store of signed releases that can be told apart, and what tests do with a slot."""

from __future__ import annotations

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.releases import ReleaseStore, generate_keypair, load_trusted_keys, wilson_interval

WAIT_S = 60


class Shop:
    """A store of signed releases with distinguishable policies: a zero-noise chunk is -bias everywhere."""

    def __init__(self, root, make_release):
        self.keys = generate_keypair(root / 'keys')
        self.trusted = load_trusted_keys(self.keys.public_path)
        self.store = ReleaseStore(root / 'store')
        self._root, self._make = root, make_release

    def publish(self, bias, promote=True, contract=None, **options):
        contract = contract or PolicyContract(horizon=4, execute=3)
        folder = self._root / f'staging-{len(list(self._root.iterdir()))}'
        staging = self._make(folder, contract, bias=bias, **options)
        (staging / 'contract.json').unlink()
        low, high = wilson_interval(50, 100)
        release = self.store.publish(
            staging, contract=contract, parent=None, private_key=self.keys.private_path,
            created='2025-01-01T00:00:00Z', metrics={'evaluation': {
                'successes': 50, 'episodes': 100, 'wilson_low': low, 'wilson_high': high}})
        if promote:
            self.store.promote(release.version, self.trusted)
        return release


def offered(slot, release, **options):
    slot.offer(release, **options)
    assert slot.wait(WAIT_S), 'the check did not end'


def value(slot, observation):
    chunk = slot.infer(observation)
    assert (chunk == chunk[0, 0]).all()
    return round(float(chunk[0, 0]), 4)
