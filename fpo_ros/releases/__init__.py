"""Policy releases: signed, numbered directories, a promotion gate and rollback (no torch)."""

from fpo_ros.releases.errors import PromotionRefused, ReleaseError
from fpo_ros.releases.gate import PromotionGate
from fpo_ros.releases.keys import generate_keypair, load_private_key, load_trusted_keys
from fpo_ros.releases.release import Release, load_release
from fpo_ros.releases.store import ReleaseStore
from fpo_ros.releases.wilson import wilson_interval

__all__ = ['PromotionGate', 'PromotionRefused', 'Release', 'ReleaseError', 'ReleaseStore', 'generate_keypair',
           'load_private_key', 'load_release', 'load_trusted_keys', 'wilson_interval']
