"""The path home."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.policy.contract import GRIPPER_COLUMNS, START_JOINTS
from fpo_ros.runtime.homing import STILL, STILL_PERIODS, HomingPath, Standstill

GRIPPERS = list(GRIPPER_COLUMNS)
ARMS = [column for column in range(14) if column not in GRIPPERS]


def path_from(start: np.ndarray, speed: float = 1.0) -> tuple[HomingPath, np.ndarray]:
    path = HomingPath(start, START_JOINTS, np.full(14, speed), 0.02)
    targets = [start]
    while path.overrun < 3:
        targets.append(path.next())
    return path, np.array(targets)


def test_grippers_open_before_any_arm_moves():
    start = START_JOINTS + 0.3
    start[GRIPPERS] = 0.5
    _, targets = path_from(start)
    opened = int(np.argmax((targets[:, GRIPPERS] >= 1.0).all(1)))
    assert opened > 1
    assert np.array_equal(targets[:opened + 1, ARMS], np.tile(start[ARMS], (opened + 1, 1)))


@given(st.lists(st.floats(-1.5, 1.5), min_size=14, max_size=14))
def test_the_path_ends_at_home_to_the_last_bit_and_keeps_its_speed(offset):
    start = START_JOINTS + np.array(offset)
    start[GRIPPERS] = np.clip(start[GRIPPERS], 0, 1)
    path, targets = path_from(start)
    assert path.overrun == 3
    assert np.array_equal(targets[-1], START_JOINTS)
    assert np.abs(np.diff(targets, axis=0)).max() <= 1.0 * 0.02 * (1 + 1e-9)


def test_a_path_of_no_length_ends_at_once():
    start = START_JOINTS.copy()
    start[GRIPPERS] = 1.0
    path = HomingPath(start, start, np.ones(14), 0.02)
    path.next()
    path.next()
    assert path.overrun == 0
    assert path.next() == pytest.approx(start)


def test_joints_stand_still_after_five_periods_without_motion():
    watch, joints = Standstill(), START_JOINTS.copy()
    assert [watch.look(joints) for _ in range(STILL_PERIODS + 1)] == [False] * STILL_PERIODS + [True]
    joints[3] += 2 * STILL
    assert not watch.look(joints)
    assert [watch.look(joints) for _ in range(STILL_PERIODS)] == [False] * (STILL_PERIODS - 1) + [True]


def test_slow_motion_is_no_standstill():
    watch = Standstill()
    slow = [START_JOINTS + 0.3 * STILL * period for period in range(60)]  # STILL within four periods
    assert not any(watch.look(joints) for joints in slow)
