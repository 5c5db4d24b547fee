"""The one error of the episode store."""

from __future__ import annotations


class EpisodeStoreError(ValueError):
    """A store, an episode or data offered to it is not usable; the message says what and where."""
