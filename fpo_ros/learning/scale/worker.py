"""What runs in a worker of a Ray cluster. Knows nothing of Ray but how to fetch a policy."""

from __future__ import annotations

import numpy as np

from fpo_ros.learning.scale import wire
from fpo_ros.learning.scale.unit import EpisodeOptions, UnitRunner


class RolloutWorker:
    """Runs units of work, and keeps the newest policy and its worlds between them.

    :param threads: of the physics.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._runner: UnitRunner | None = None
        self._made_for: tuple[str, int] | None = None

    def describe(self) -> dict:
        """Return host, process, processor and versions; the first answer of a worker."""
        return wire.description()

    def run(self, digest: str, policy: list, size: int, scenes: np.ndarray, options: dict) -> dict:
        """Run one unit.

        :param digest: of the policy, which is fetched when it is another than the last one.
        :param policy: where the policy's message is; in a list, as Ray would fetch a bare reference every time.
        :param size: the most scenes of a unit.
        :param options: fields of ``EpisodeOptions``.
        :returns: the message of a rollout.
        """
        if self._made_for != (digest, size):
            import ray

            if self._runner is not None:
                self._runner.close()
                self._runner = self._made_for = None
            self._runner = UnitRunner(wire.policy_of(ray.get(policy[0])), size, self._threads)
            self._made_for = (digest, size)
        return wire.rollout_message(self._runner.run(scenes, EpisodeOptions.from_dict(options)))
