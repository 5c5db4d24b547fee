"""Errors of releases."""

from __future__ import annotations


class ReleaseError(ValueError):
    """A release, a key or a release store is not usable; the message says which file and what to do."""


class PromotionRefused(ReleaseError):
    """A release did not pass the promotion gate; the message gives the reason."""
