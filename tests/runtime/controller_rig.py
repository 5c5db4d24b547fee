"""A controller with a clock and arms, for tests."""

from __future__ import annotations

import numpy as np

from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.runtime.controller import ArmControllerCore
from fpo_ros.runtime.controller_config import ControllerConfig

PERIOD_NS = 20_000_000
S = 1_000_000_000
AWAY = np.array(START_JOINTS)
AWAY[[0, 10]] += 0.5


class Rig:
    """A controller, a clock, and arms that follow commands at once unless told otherwise.

    Arms that do not follow read the same to the last bit, and others leap, as no real arm does: neither is watched
    unless asked for.
    """

    def __init__(self, joints=START_JOINTS, **config):
        self.core = ArmControllerCore(PolicyContract(horizon=4, execute=3), config=ControllerConfig(
            **{'frozen_distance': 100.0, 'fastest_joint': 0.0} | config))
        self.now = 1000 * S
        self.joints = np.array(joints)
        self.follow = True
        self.joints_stamp = None  # None: fresh
        self.sequence = 0
        self.version = 'v1'

    def tick(self, count=1):
        command = None
        for _ in range(count):
            self.now += PERIOD_NS
            stamp = self.now if self.joints_stamp is None else self.joints_stamp
            command = self.core.tick(self.now, self.joints, stamp)
            if command is not None and self.follow:
                self.joints = np.array(command)
        return command

    def chunk(self, target, **changes):
        self.sequence += 1
        return self.core.accept_chunk(**{
            'chunk': np.tile(START_JOINTS if target is None else target, (4, 1)), 'sequence': self.sequence,
            'observation_stamp_ns': self.now + 1,
            'now_ns': self.now + 2, 'policy_version': self.version} | changes)

    def enter(self, state):
        granted, why = self.core.request(state)
        assert granted, why
        return self.tick()


def near(offset):
    """Return the start pose with the left waist turned by ``offset`` [rad]."""
    pose = np.array(START_JOINTS)
    pose[0] += offset
    return pose
