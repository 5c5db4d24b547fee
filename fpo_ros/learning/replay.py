"""Which scenes an iteration trains on: new ones, and those of late in which the policy failed."""

from __future__ import annotations

from collections import deque

import numpy as np

#: Iterations whose failures are tried again.
REMEMBERED = 5


class FailedScenes:
    """Scenes that were new in one of the newest iterations and not rewarded there."""

    def __init__(self) -> None:
        #: (M,) scenes of each iteration, the newest last; part of a checkpoint.
        self.kept: deque[list[int]] = deque(maxlen=REMEMBERED)

    def keep(self, scenes: np.ndarray, rewarded: np.ndarray) -> None:
        """Keep the failures among an iteration's new scenes, (M,) each."""
        self.kept.append([int(scene) for scene in scenes[~rewarded]])

    def newest(self, count: int) -> np.ndarray:
        """Return at most ``count`` of the scenes, those of the newest iterations first."""
        return np.array([scene for scenes in reversed(self.kept) for scene in scenes][:count], np.int64)
