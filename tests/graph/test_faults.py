"""The fault table on one running graph: each row recovers before the next, whose episode shows that it did."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from fault_rig import STALL, FaultRig, fault_rig  # noqa: E402
from fault_table import TABLE, Row, run_row  # noqa: E402

from fpo_ros.runtime.controller_config import ArmState  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.serial]


@pytest.fixture(scope='module')
def rig(tmp_path_factory) -> Iterator[FaultRig]:
    """The cell, all nodes active."""
    with fault_rig(tmp_path_factory.mktemp('cell')) as rig:
        yield rig


@pytest.mark.parametrize('row', TABLE, ids=lambda row: row.name.replace(' ', '_'))
def test_fault(rig, row: Row) -> None:
    try:
        run_row(rig, row)
    except BaseException:
        print(*(f'{node}: {line}' for _, node, line in rig.lines[-40:]), sep='\n')
        raise


def test_without_the_episode_manager_homing_ends_too(rig) -> None:
    rig.drive()
    rig.end_episode()
    rig.client.start_episode(3, max_steps=5000)
    rig.client.wait_for(lambda: rig.client.controller_status().state == ArmState.HOMING, 'homing to begin', 5.0)
    rig.kill('episode_manager')
    reason = rig.client.wait_for_state(ArmState.HOLD, 2.0).reason
    assert re.search(f'no sign of who asked for the motion|{STALL}', reason), reason


def test_recorder_that_fails_ends_the_episode_and_the_arms_hold(rig) -> None:
    rig.drive()
    (rig.store / '.incoming').rename(rig.store.parent / 'gone')  # at once, whatever is being written there
    outcome = rig.outcome(20.0)
    assert outcome.reason == 'recording' and '.incoming' in outcome.message and not outcome.episode_id
    rig.client.wait_for_state(ArmState.HOLD, 2.0)
    assert rig.client.run_episode(3, max_steps=10).episode_id, 'the next episode is recorded again'
