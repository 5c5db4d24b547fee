"""The emergency stop latches from every state until a deliberate reset."""

from __future__ import annotations

import numpy as np
import pytest
from controller_rig import AWAY, Rig, near

from fpo_ros.policy.contract import PolicyContract
from fpo_ros.runtime.controller import ArmControllerCore
from fpo_ros.runtime.controller_config import ArmState


@pytest.fixture
def rig():
    rig = Rig()
    rig.tick()
    return rig


@pytest.mark.parametrize('state', [state for state in ArmState if state is not ArmState.STOPPED], ids=lambda s: s.name)
def test_the_emergency_stop_latches_from_every_state(rig, state):
    rig.core.teleoperation.offer(rig.joints, rig.now)
    rig.enter(state)
    assert rig.core.state is state
    rig.chunk(near(0.5))
    rig.core.emergency_stop(True)
    assert rig.tick(10) is None
    for wanted in ArmState:
        if wanted is ArmState.STOPPED:
            continue
        granted, why = rig.core.request(wanted)
        assert not granted and 'emergency stop is latched' in why
    assert rig.core.reset_emergency_stop() == (False, 'emergency stop still pressed: release it first')
    rig.core.emergency_stop(False)
    assert rig.core.state is ArmState.STOPPED and rig.tick() is None
    assert rig.core.reset_emergency_stop() == (True, '')
    assert rig.core.state is ArmState.IDLE and rig.tick() is None
    assert rig.core.reset_emergency_stop() == (False, 'emergency stop is not latched')


def test_a_requested_stop_does_not_release_a_pressed_button(rig):
    rig.core.emergency_stop(True, 'button')
    assert rig.core.request(ArmState.STOPPED) == (True, '')
    assert rig.core.reason == 'button pressed'
    assert not rig.core.reset_emergency_stop()[0]


def test_every_device_that_was_pressed_must_be_released(rig):
    rig.core.emergency_stop(True, 'button')
    rig.core.emergency_stop(True, 'pedal')
    rig.core.emergency_stop(False, 'keyboard')
    assert rig.core.reset_emergency_stop() == (False, 'button and pedal still pressed: release it first')
    rig.core.emergency_stop(False, 'pedal')
    assert rig.core.reset_emergency_stop() == (False, 'button still pressed: release it first')
    rig.core.emergency_stop(False, 'button')
    assert rig.core.reset_emergency_stop() == (True, '')


def test_after_a_reset_the_arms_are_taken_over_where_they_fell(rig):
    rig.enter(ArmState.HOLD)
    rig.core.request(ArmState.STOPPED, 'operator')
    rig.tick()
    rig.core.reset_emergency_stop()
    rig.joints = np.array(AWAY)
    rig.tick()
    np.testing.assert_array_equal(rig.enter(ArmState.HOLD), AWAY)


def test_a_new_core_takes_over_a_latched_stop_and_the_pressed_button(rig):
    rig.tick()
    rig.core.emergency_stop(True)
    rig.tick()
    fresh = ArmControllerCore(PolicyContract())
    fresh.inherit_emergency_stop(rig.core)
    assert fresh.state is ArmState.STOPPED and 'pressed' in fresh.reason
    assert fresh.reset_emergency_stop() == (False, 'emergency stop still pressed: release it first')
    fresh.emergency_stop(False)
    assert fresh.reset_emergency_stop() == (True, '')


def test_a_new_core_does_not_stop_without_reason(rig):
    rig.tick()
    fresh = ArmControllerCore(PolicyContract())
    fresh.inherit_emergency_stop(rig.core)
    assert fresh.state is ArmState.IDLE
