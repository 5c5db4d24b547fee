"""Trained policies that come with the package: a directory each, accepted by name wherever a torch policy is."""

from __future__ import annotations

from pathlib import Path


def names() -> list[str]:
    """Return the names of the policies that are there."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob('*/policy.json'))


def is_policy(name: str) -> bool:
    """Return whether a torch policy is named, by its directory or by its name in the package, and no release."""
    return bool(name) and (directory_of(name) / 'policy.json').is_file()


def directory_of(policy: str | Path) -> Path:
    """Return the directory of a policy: the one that is named, or that of a policy of the package.

    A directory of that name in the working directory comes first.
    """
    path = Path(policy)
    if not path.exists() and len(path.parts) == 1 and path.name in names():
        return Path(__file__).parent / path.name
    return path
