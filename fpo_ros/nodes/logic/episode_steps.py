"""Steps of a recorded episode, laid out as the episode store wants them."""

from __future__ import annotations

from typing import Any

import numpy as np


class StepAssembler:
    """Lays out one step after the other; an object pose that is lost on the way repeats its last value."""

    def __init__(self) -> None:
        self._start_ns: int | None = None
        self._pose: np.ndarray | None = None
        self._with_pose = False
        #: Newest staged reward.
        self.reward = 0.0

    def assemble(self, stamp_ns: int, measured: np.ndarray, command: np.ndarray,
                 object_pose: np.ndarray | None, operated: bool = False) -> dict[str, Any]:
        """Return the arrays of the next step. An episode has object poses if its first step has one.

        :param stamp_ns: instant of the step [ns].
        :param measured: (14,) measured joints [rad, grippers 0..1].
        :param command: (14,) target commanded at this step.
        :param object_pose: (7 * objects,) newest poses, or None.
        :param operated: an operator drives the arms, not the policy.
        """
        if object_pose is not None:
            self._pose = np.asarray(object_pose, np.float32)
        if self._start_ns is None:
            self._start_ns, self._with_pose = stamp_ns, self._pose is not None
        arrays = {
            'joint_positions': np.asarray(measured, np.float32),
            'action': np.asarray(command, np.float32),
            'reward': np.float32(self.reward),
            'timestamp': (stamp_ns - self._start_ns) * 1e-9,
            'operated': np.bool_(operated),
        }
        return arrays | ({'object_pose': self._pose} if self._with_pose else {})
