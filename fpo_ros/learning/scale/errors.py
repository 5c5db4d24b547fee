"""What can go wrong with workers elsewhere."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """The cluster cannot do the work; the message says what is missing and what to do."""


class WorkerVersionError(ClusterError):
    """A worker has other versions than this process: its episodes would be others."""
