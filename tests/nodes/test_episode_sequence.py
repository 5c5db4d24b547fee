"""The course of an episode, driven by a fake clock."""

from __future__ import annotations

import pytest

from fpo_ros.nodes.logic.episode_sequence import (
    EpisodeSequence,
    Phase,
    SceneOrder,
    SequenceLimits,
    SetState,
)
from fpo_ros.runtime.controller_config import ArmState

S = 1_000_000_000


class Course:
    """An episode and the clock it runs by."""

    def __init__(self, max_steps: int = 3, operated: bool = False, **limits: float) -> None:
        self.now = 0
        self.sequence = EpisodeSequence('transfer_cube', 7, max_steps, SequenceLimits(**limits), 0, operated=operated)

    def status(
        self, state: ArmState, at_home: bool = True, why: str = 'because', version: str = 'v000001'
    ) -> bool:
        """Let 20 ms pass and deliver a status, an observation and a reward."""
        self.now += S // 50
        self.sequence.on_observation(self.now)
        recorded = self.sequence.on_status(self.now, state, why, at_home, version)
        self.sequence.on_reward(self.now, 0, False)
        return recorded

    def step(self):
        return self.sequence.step(self.now)

    def grant(self, message: str = '', granted: bool = True) -> None:
        self.sequence.on_controller_reply(self.now, granted, message)

    def until_settled(self) -> None:
        assert self.step() == SetState(ArmState.HOMING, 'episode with seed 7')
        self.grant()
        for _ in range(6):
            self.status(ArmState.HOMING, at_home=False)
        self.status(ArmState.HOLD)
        assert self.step() == SceneOrder('transfer_cube', 7)
        assert self.step() is None
        self.sequence.on_reset_reply(self.now, True, '')
        for _ in range(6):
            self.status(ArmState.HOLD)

    def until_running(self) -> None:
        self.until_settled()
        assert self.step() == SetState(ArmState.POLICY, 'episode with seed 7')
        self.grant()
        self.status(ArmState.POLICY)
        assert self.sequence.phase is Phase.RUNNING

    def until_done(self) -> None:
        assert isinstance(self.step(), SetState)
        self.status(ArmState.HOLD)
        assert self.step() is None and self.sequence.phase is Phase.DONE


def test_time_out_after_max_steps_holds_and_ends() -> None:
    course = Course(max_steps=3)
    course.until_running()
    assert [course.status(ArmState.POLICY) for _ in range(2)] == [True, True]
    assert course.sequence.reason == 'timeout' and course.sequence.steps == 3
    assert course.step() == SetState(ArmState.HOLD, 'episode ended: timeout')
    course.status(ArmState.HOLD)
    assert course.step() is None and course.sequence.phase is Phase.DONE
    assert course.sequence.policy_version == 'v000001'


def test_an_operator_who_shall_drive_is_waited_for_and_the_policy_is_not_asked() -> None:
    course = Course(max_steps=3, operated=True)
    course.until_settled()
    assert course.step() is None and course.sequence.phase is Phase.TAKING_OVER
    for _ in range(200):  # 4 s: twice as long as a policy is waited for
        course.status(ArmState.HOLD)
        assert course.step() is None
    course.status(ArmState.TELEOP)
    assert course.sequence.phase is Phase.RUNNING
    assert [course.status(ArmState.TELEOP, version='') for _ in range(3)] == [True, True, False]
    assert course.sequence.reason == 'timeout' and course.sequence.operated == 3
    assert course.sequence.by_operator and course.sequence.policy_version == ''


def test_an_operator_who_does_not_take_over_ends_the_episode_with_what_to_do() -> None:
    course = Course(operated=True, takeover_s=1.0)
    course.until_settled()
    while not course.sequence.reason:
        course.step()
        course.status(ArmState.HOLD)
    assert course.sequence.reason == 'setup' and 'squeeze both leader grippers' in course.sequence.message
    course = Course(operated=True)
    course.until_settled()
    course.step()
    course.status(ArmState.STOPPED, why='pressed')
    assert course.sequence.reason == 'controller'
    assert 'before the operator took over: pressed' in course.sequence.message


def test_success_wins_and_the_first_cause_stays() -> None:
    course = Course(max_steps=100)
    course.until_running()
    course.sequence.on_reward(course.now, 4, True)
    course.sequence.stop('canceled')
    assert course.sequence.success and course.sequence.max_stage == 4
    course.until_done()


def test_success_before_the_policy_runs_does_not_count() -> None:
    course = Course()
    course.sequence.on_reward(0, 4, True)
    assert course.sequence.reason == '' and course.sequence.max_stage == 0


def test_controller_leaving_policy_ends_the_episode_with_its_reason() -> None:
    course = Course(max_steps=100)
    course.until_running()
    assert not course.status(ArmState.HOLD, why='joint states are 0.30 s old')
    assert course.sequence.reason == 'controller' and '0.30 s old' in course.sequence.message


def test_latched_stop_ends_homing_at_once() -> None:
    course = Course()
    course.step()
    course.grant('emergency stop is latched', granted=False)
    course.status(ArmState.STOPPED, why='emergency stop pressed')
    assert course.sequence.reason == 'controller' and 'emergency stop pressed' in course.sequence.message


def test_refused_homing_is_asked_for_again_for_a_while() -> None:
    course = Course()
    assert course.step().state is ArmState.HOMING
    course.grant('no joint states received yet', granted=False)
    assert course.step() is None
    course.now += S // 4
    assert course.step().state is ArmState.HOMING
    course.now += 11 * S
    course.grant('no joint states received yet', granted=False)
    assert course.sequence.reason == 'controller' and 'no joint states' in course.sequence.message


@pytest.mark.parametrize(
    ('silent', 'why'), [('status', 'no controller status'), ('reward', 'no task reward')]
)
def test_silent_stream_is_named(silent: str, why: str) -> None:
    course = Course(max_steps=1000)
    course.until_running()
    for _ in range(30):
        course.now += S // 50
        if silent == 'reward':
            course.sequence.on_status(course.now, ArmState.POLICY, '', True, '')
        else:
            course.sequence.on_reward(course.now, 0, False)
        course.step()
    assert course.sequence.reason == 'stream' and why in course.sequence.message


def miss_home(course: Course) -> None:
    """Let one homing end off the start pose."""
    course.grant()
    for _ in range(6):
        course.status(ArmState.HOMING, at_home=False)
    course.status(ArmState.HOLD, at_home=False, why='homing ended off the start pose')


def test_arms_that_miss_home_home_again_after_the_reset() -> None:
    course = Course()
    course.step()
    miss_home(course)
    assert course.step() == SceneOrder('transfer_cube', 7)
    course.sequence.on_reset_reply(course.now, True, '')
    course.now += S // 10
    assert course.step() == SetState(ArmState.HOMING, 'episode with seed 7')
    course.grant()
    for _ in range(6):
        course.status(ArmState.HOMING, at_home=False)
    course.status(ArmState.HOLD)
    assert course.sequence.phase is Phase.SETTLING and not course.sequence.reason


def test_home_missed_after_the_reset_is_a_set_up_fault() -> None:
    course = Course()
    course.step()
    miss_home(course)
    course.step()
    course.sequence.on_reset_reply(course.now, True, '')
    course.now += S // 10
    course.step()
    miss_home(course)
    assert course.sequence.reason == 'setup' and 'off the start pose' in course.sequence.message


def test_failed_reset_is_a_set_up_fault() -> None:
    course = Course()
    course.step()
    miss_home(course)
    course.step()
    course.sequence.on_reset_reply(course.now, False, 'no such task')
    assert course.sequence.reason == 'setup' and 'no such task' in course.sequence.message


def test_no_take_over_without_an_observation_after_the_reset() -> None:
    course = Course()
    course.step()
    course.grant()
    for _ in range(7):
        course.status(ArmState.HOLD)
    course.step()
    course.sequence.on_reset_reply(course.now, True, '')
    for _ in range(300):
        course.now += S // 50
        course.sequence.on_status(course.now, ArmState.HOLD, '', True, '')
        assert not isinstance(course.step(), SetState) or course.sequence.reason
    assert course.sequence.reason == 'setup' and 'no observation since the reset' in course.sequence.message


def test_episode_ends_even_if_the_controller_never_answers_the_hold() -> None:
    course = Course(max_steps=1000)
    course.until_running()
    course.sequence.stop('canceled')
    assert course.step().state is ArmState.HOLD
    course.now += 3 * S
    course.step()
    assert course.sequence.phase is Phase.DONE


def test_a_status_older_than_the_grant_does_not_end_homing_asked_for_again() -> None:
    course = Course()
    course.step()
    course.grant('no joint states received yet', granted=False)
    course.now += S
    course.step()
    course.grant()
    course.status(ArmState.IDLE, at_home=False, why='activated')
    assert not course.sequence.reason and course.sequence.phase is Phase.HOMING


def until_resetting(course: Course) -> None:
    course.step()
    course.grant()
    for _ in range(7):
        course.status(ArmState.HOLD)
    assert course.step() == SceneOrder('transfer_cube', 7)


def test_a_reset_that_a_person_has_not_confirmed_is_asked_for_again_until_its_limit() -> None:
    course = Course(reset_s=3.0)
    until_resetting(course)
    asked = 0
    while not course.sequence.reason:
        course.sequence.on_reset_reply(course.now, False, 'waiting for the operator', pending=True)
        for _ in range(26):
            course.status(ArmState.HOLD)
            asked += isinstance(course.step(), SceneOrder)
    assert course.sequence.reason == 'setup' and asked == 5
    assert course.sequence.message == 'resetting took longer than 3 s: waiting for the operator'


def test_after_the_reset_the_arms_rest_until_hands_have_left() -> None:
    course = Course(start_delay_s=2.0)
    until_resetting(course)
    course.sequence.on_reset_reply(course.now, True, '')
    confirmed = course.now
    while not isinstance(course.step(), SetState):
        course.status(ArmState.HOLD)
    assert 2 * S <= course.now - confirmed <= 2.1 * S


def test_homing_again_after_the_reset_waits_too() -> None:
    course = Course(start_delay_s=2.0)
    course.step()
    miss_home(course)
    course.step()
    course.sequence.on_reset_reply(course.now, True, '')
    confirmed = course.now
    while course.step() is None:
        course.status(ArmState.HOLD, at_home=False)
    assert course.sequence.phase is Phase.HOMING and course.now - confirmed >= 2 * S


def test_requests_without_an_answer_are_sent_again() -> None:
    """A server that has just been restarted may miss one."""
    course = Course()
    orders = [course.step()]
    for _ in range(60):
        course.status(ArmState.IDLE)
        orders.append(course.step())
    assert orders.count(SetState(ArmState.HOMING, 'episode with seed 7')) == 2
    course.grant()
    for _ in range(7):
        course.status(ArmState.HOLD)
    orders = [course.step()]
    for _ in range(60):
        course.status(ArmState.HOLD)
        orders.append(course.step())
    assert orders.count(SceneOrder('transfer_cube', 7)) == 2


def test_a_granted_request_is_not_sent_again() -> None:
    course = Course()
    course.step()
    course.grant()
    for _ in range(100):
        course.status(ArmState.HOMING, at_home=False)
        assert course.step() is None


def test_judged_failure_ends_the_episode() -> None:
    course = Course(max_steps=100)
    course.until_running()
    course.sequence.on_reward(course.now, 2, False, failure=True)
    assert (course.sequence.reason, course.sequence.success) == ('failure', False)
    course.until_done()


def test_arms_that_are_still_homing_do_not_confirm_the_hold() -> None:
    course = Course()
    course.step()
    course.grant()
    course.sequence.stop('canceled')
    assert course.step().state is ArmState.HOLD
    course.status(ArmState.HOMING)
    assert course.step() is None and course.sequence.phase is Phase.HOLDING
    course.status(ArmState.HOLD)
    course.step()
    assert course.sequence.phase is Phase.DONE


def test_every_release_that_drove_the_arms_is_noted() -> None:
    course = Course(max_steps=100)
    course.until_running()
    for version in ('v000001', '', 'v000002', 'v000002'):
        course.status(ArmState.POLICY, version=version)
    assert course.sequence.policy_versions == ['v000001', 'v000002']
    assert course.sequence.policy_version == 'v000002'


def test_absent_server_is_named_after_a_while() -> None:
    course = Course()
    until_resetting(course)
    course.sequence.on_no_server(course.now, '/reset_scene')
    assert not course.sequence.reason
    course.now += 5 * S + 1
    course.sequence.on_no_server(course.now, '/reset_scene')
    assert course.sequence.reason == 'setup' and 'nobody serves /reset_scene' in course.sequence.message


def test_a_pause_of_the_episode_manager_is_no_silence_of_the_others() -> None:
    course = Course(max_steps=1000)
    course.until_running()
    course.step()
    course.now += S
    assert course.step() is None and not course.sequence.reason, 'what they sent meanwhile waits to be read'
    course.status(ArmState.POLICY)
    for _ in range(30):
        course.now += S // 50
        course.step()
    assert course.sequence.reason == 'stream'
