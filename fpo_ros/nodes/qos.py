"""Named QoS profiles of every stream of the graph (after REP-2003 and nav2's qos_profiles)."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, reliable: bool, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)


#: Subscriptions to cameras, joint states and observations: the newest matters, a lost one does not.
SENSOR = _profile(5, reliable=False)
#: Arrivals that are counted and must wait for a reader that is busy.
COUNTED = _profile(100, reliable=False)
#: What drivers publish (Interbotix and realsense defaults): matches reliable and best-effort readers.
DRIVER = _profile(10, reliable=True)
#: Observations: large, frequent, only the newest is of use.
OBSERVATION = _profile(1, reliable=False)
#: Action chunks and commands to arms: none may be lost, an old one is worse than none.
COMMAND = _profile(1, reliable=True)
#: Controller status and rewards: the recorder wants every one.
STATUS = _profile(50, reliable=True)
#: Events that matter one by one, such as the emergency stop; its device repeats its position.
EVENT = _profile(10, reliable=True)
#: What late joiners must learn: releases, policy and learner status.
LATCHED = _profile(1, reliable=True, latched=True)
#: /diagnostics (REP-107).
DIAGNOSTICS = _profile(10, reliable=True)
