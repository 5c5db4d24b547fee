"""Joints, object and pictures of one instant, as a policy sees them in training."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fpo_ros.hardware.alignment import Aligned, Aligner


def depth_for(rate_hz: float, limits_s: Iterable[float]) -> int:
    """Return how many samples of joints reach back to the oldest part that an observation may have.

    :param rate_hz: of the joint states [Hz].
    :param limits_s: oldest sample accepted of each stream [s].
    """
    return math.ceil(rate_hz * max(limits_s)) + 2


def with_joints_of_then(aligner: Aligner, newest: Aligned, joints: Iterable[str]) -> Aligned:
    """Return an observation's parts with the joints as they were when the oldest of the others was measured.

    While arms are held for the next chunk they catch up with the last target. Joints that are newer than the object or
    the picture beside them look farther on than they were, and a policy leaves out what it takes for done.

    :param newest: what ``aligner`` gave.
    :param joints: streams of the joints; the others are objects and pictures.
    :returns: ``newest`` itself where there are no others, or no joints of then, as just after the start.
    """
    others = newest.ages_s.keys() - set(joints)
    if not others:
        return newest
    instant = newest.stamp_ns - round(max(newest.ages_s[name] for name in others) * 1e9)
    then = {name: aligner.streams[name].at(instant) for name in joints}
    if None in then.values():
        return newest
    ages = {name: (newest.stamp_ns - sample.stamp_ns) * 1e-9 for name, sample in then.items()}
    return Aligned(newest.stamp_ns, {**newest.values, **{name: sample.value for name, sample in then.items()}},
                   {**newest.ages_s, **ages})
