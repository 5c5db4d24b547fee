"""Cameras that show the same picture again and again, with fresh stamps, while the arms they see move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Joints that carry the hand through a picture: waist, shoulder and elbow of the left and of the right arm.
_CARRIERS = {'left': [0, 1, 2], 'right': [7, 8, 9]}
_ARMS = [column for columns in _CARRIERS.values() for column in columns]


#: Arms whose joints stay within this [rad] for so long [ns] have come to rest.
_REST, _REST_NS = 0.02, 2_000_000_000


@dataclass
class _Seen:
    picture: Any
    stamp_ns: int
    joints: np.ndarray
    rest_ns: int
    rest: np.ndarray


class FrozenPictures:
    """Compares each camera's pictures, bit by bit, with the joints at their instants.

    No two pictures of a real sensor are equal. Simulated ones of resting arms are, so a camera is called frozen where
    its picture stays while both arms move, or its own where it is at a wrist. Since a simulated camera may not have
    them in view, it is believed again when they have come to rest, and looked at anew when they move.

    :param moved: how far a joint must have gone [rad].
    :param least_s: how long a picture must have stayed [s].
    """

    def __init__(self, moved: float = 0.1, least_s: float = 0.3) -> None:
        self._moved, self._least_ns = moved, round(least_s * 1e9)
        self._seen: dict[str, _Seen] = {}
        #: Camera that is frozen → what to say of it.
        self.problems: dict[str, str] = {}

    def look(self, camera: str, picture: Any, stamp_ns: int, joints: np.ndarray | None) -> None:
        """Take a picture.

        :param picture: its bytes, compared by ``==``.
        :param stamp_ns: when it was taken [ns].
        :param joints: (14,) joints of then; None: not known.
        """
        if joints is None:
            return
        seen = self._seen.get(camera)
        if seen is None or seen.picture != picture or stamp_ns < seen.stamp_ns:
            self._begin(camera, picture, stamp_ns, joints)
            return
        if np.abs(joints - seen.rest)[_ARMS].max() > _REST:
            seen.rest, seen.rest_ns = joints, stamp_ns
        elif camera in self.problems and stamp_ns - seen.rest_ns >= _REST_NS:
            self._begin(camera, picture, stamp_ns, joints)
            return
        distance = min(float(np.abs(joints - seen.joints)[columns].max()) for columns in _in_view(camera))
        lasted = stamp_ns - seen.stamp_ns
        if distance >= self._moved and lasted >= self._least_ns:
            self.problems[camera] = (f'{camera} shows the same picture for {lasted * 1e-9:.2f} s, though the arms '
                                      f'moved by {distance:.2f} rad: it is frozen, restart its driver')

    def _begin(self, camera: str, picture: Any, stamp_ns: int, joints: np.ndarray) -> None:
        self._seen[camera] = _Seen(picture, stamp_ns, joints, stamp_ns, joints)
        self.problems.pop(camera, None)


def _in_view(camera: str) -> list[list[int]]:
    """Return the joints, arm by arm, whose motion a camera must show: those of its own arm for one at a wrist."""
    own = [columns for arm, columns in _CARRIERS.items() if camera.endswith('_wrist') and f'_{arm}_' in camera]
    return own or list(_CARRIERS.values())
