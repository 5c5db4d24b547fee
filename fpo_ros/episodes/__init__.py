"""Recorded episodes: a zarr v3 store that many processes write and read at once (numpy only)."""

from fpo_ros.episodes.errors import EpisodeStoreError, UnconfirmedEpisode
from fpo_ros.episodes.meta import EpisodeMeta
from fpo_ros.episodes.store import Episode, EpisodeStore

__all__ = ['Episode', 'EpisodeMeta', 'EpisodeStore', 'EpisodeStoreError', 'UnconfirmedEpisode']
