"""Who drives: leaders that go with their followers, and the ways in which an operator takes over and hands back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.nodes.logic.leaders import Leaders, LeaderSettings, LeaderState, Order
from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.runtime.controller_config import ArmState

MS = 1_000_000
OPEN = np.array(START_JOINTS)
OPEN[[6, 13]] = 1.0


def pose(waist: float = 0.0, grippers: float = 1.0) -> np.ndarray:
    out = OPEN.copy()
    out[0] += waist
    out[[6, 13]] = grippers
    return out


class Desk:
    """Leaders, a clock and a controller."""

    def __init__(self, controller: ArmState = ArmState.HOLD):
        self.leaders, self.now, self.controller = Leaders(LeaderSettings(), 0.02), 0, controller
        self.at, self.command = pose(), pose()

    def step(self, count: int = 1):
        for _ in range(count):
            self.now += 20 * MS
            step = self.leaders.step(self.now, self.at, self.command, self.controller, True)
        return step

    def tracking(self):
        assert self.step().order is Order.ENGAGE
        self.leaders.done(Order.ENGAGE, '')
        return self

    def operated(self):
        self.tracking().step()
        assert self.leaders.take_over() == (True, '')
        assert self.step().order is Order.RELEASE
        self.leaders.done(Order.RELEASE, '')
        assert self.step().ask is ArmState.TELEOP
        self.controller = ArmState.TELEOP
        assert self.step().ask is None
        return self


def test_leaders_go_to_their_followers_no_faster_than_asked():
    desk = Desk().tracking()
    desk.command = pose(0.1)
    waists = []
    for _ in range(8):
        desk.at = desk.step().target
        waists.append(desk.at[0])
    np.testing.assert_allclose(np.diff([0.0, *waists]), [0.02] * 5 + [0.0] * 3, atol=1e-9)


@pytest.mark.parametrize('controller', [ArmState.IDLE, ArmState.STOPPED, None])
def test_leaders_rest_where_the_followers_do(controller):
    desk = Desk(controller)
    step = desk.step(5)
    assert step.order is None and step.target is None and desk.leaders.state is LeaderState.RESTING
    assert not desk.leaders.take_over()[0]


def test_squeezed_grippers_take_over_from_arms_that_hold():
    desk = Desk().tracking()
    desk.step(2)
    desk.at = pose(grippers=0.05)
    assert desk.step().order is Order.RELEASE


def test_grippers_that_were_closed_all_along_are_no_gesture():
    desk = Desk()
    desk.at = pose(grippers=0.0)
    desk.tracking()
    assert desk.step(10).order is None
    desk.at = pose()
    desk.step()
    desk.at = pose(grippers=0.0)
    assert desk.step().order is Order.RELEASE


def test_squeezed_grippers_do_not_take_over_from_a_policy():
    desk = Desk(ArmState.POLICY).tracking()
    desk.step(2)
    desk.at = pose(grippers=0.0)
    assert desk.step(20).order is None


def test_a_grabbed_leader_takes_over_from_a_policy_after_a_while():
    desk = Desk(ArmState.POLICY).tracking()
    desk.step(2)
    desk.at = pose(0.2)
    assert desk.step(4).order is None
    assert desk.step().order is Order.RELEASE


def test_a_leader_that_was_only_pushed_takes_over_nothing():
    desk = Desk(ArmState.POLICY).tracking()
    for _ in range(5):
        desk.at = pose(0.2)
        assert desk.step(4).order is None
        desk.at = pose()
        assert desk.step().order is None


@pytest.mark.parametrize('before', [ArmState.POLICY, ArmState.HOLD])
def test_the_arms_go_back_to_what_drove_them_before(before):
    desk = Desk(before).operated()
    assert desk.leaders.hand_back() == (True, '')
    step = desk.step()
    assert step.ask is before and step.order is Order.ENGAGE
    desk.controller = before
    desk.leaders.done(Order.ENGAGE, '')
    assert desk.step().target is not None


def test_a_refused_takeover_engages_the_leaders_again_and_asks_for_nothing():
    desk = Desk().tracking()
    desk.leaders.take_over()
    desk.step()
    desk.leaders.done(Order.RELEASE, '')
    desk.step()
    desk.leaders.refused('left_waist of the leader stands 0.50 rad from its follower')
    step = desk.step()
    assert step.order is Order.ENGAGE and step.ask is None and '0.50 rad' in desk.leaders.problem


def test_a_controller_that_does_not_answer_in_a_second_is_given_up():
    desk = Desk().tracking()
    desk.leaders.take_over()
    desk.step()
    desk.leaders.done(Order.RELEASE, '')
    assert desk.step(51).order is None
    assert desk.step(2).order is Order.ENGAGE or desk.leaders.state is LeaderState.ENGAGING


def test_leaders_engage_when_the_controller_stops_following_them():
    desk = Desk().operated()
    desk.controller = ArmState.HOLD
    assert desk.step().order is Order.ENGAGE


def test_drivers_that_fail_leave_the_leaders_at_rest_until_the_next_motion():
    desk = Desk()
    desk.step()
    desk.leaders.done(Order.ENGAGE, 'leader_left: Torque_Enable of waist: wanted 1, found 0')
    assert desk.step(5).order is None and desk.leaders.state is LeaderState.RESTING
    desk.controller = ArmState.IDLE
    desk.step()
    desk.controller = ArmState.HOLD
    assert desk.step().order is Order.ENGAGE


@given(st.lists(st.tuples(st.sampled_from([*ArmState, None]), st.floats(-0.5, 0.5), st.floats(0, 1),
                          st.sampled_from(['', 'pedal', 'back', 'ok', 'bad', 'refused', 'lost'])), max_size=60))
def test_leaders_are_never_driven_while_an_operator_holds_them(events):
    desk = Desk()
    for controller, waist, grippers, event in events:
        desk.controller, desk.at = controller, None if event == 'lost' else pose(waist, grippers)
        if event == 'pedal':
            desk.leaders.take_over()
        elif event == 'back':
            desk.leaders.hand_back()
        elif event in ('ok', 'bad'):
            for order in Order:
                desk.leaders.done(order, '' if event == 'ok' else 'broken')
        elif event == 'refused':
            desk.leaders.refused('no')
        before = desk.leaders.state
        step = desk.step()
        if step.target is not None:
            assert before is LeaderState.TRACKING and desk.leaders.state is LeaderState.TRACKING
        if step.ask is ArmState.TELEOP:
            assert before is LeaderState.OPERATED


@pytest.mark.parametrize(('carried', 'both', 'taken'),
                         [(True, False, True), (False, False, False), (False, True, True)])
def test_leaders_that_nothing_carries_must_both_be_grabbed(carried, both, taken):
    desk = Desk(ArmState.POLICY).tracking()
    desk.step()
    desk.at = pose(0.3)
    if both:
        desk.at[8] += 0.3
    orders = [desk.leaders.step(0, desk.at, desk.command, ArmState.POLICY, carried).order for _ in range(10)]
    assert (Order.RELEASE in orders) is taken, 'the other leader would fall, and its follower with it'
