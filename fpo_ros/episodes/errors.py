"""Errors of the episode store."""

from __future__ import annotations

from pathlib import Path


class EpisodeStoreError(ValueError):
    """A store, an episode or data offered to it is not usable; the message says what and where."""


class UnconfirmedEpisode(EpisodeStoreError):
    """An episode is stored and visible, but the disk did not confirm it. Storing it again would duplicate it.

    :param root: directory of the store.
    :param episode_id: its id.
    :param error: what the system said.
    """

    def __init__(self, root: Path, episode_id: str, error: OSError) -> None:
        super().__init__(f'{root}: stored as {episode_id}, but the disk did not confirm it '
                         f'({error.strerror or error}): a power cut may lose it. Check the disk; do not store it again')
        self.episode_id = episode_id
