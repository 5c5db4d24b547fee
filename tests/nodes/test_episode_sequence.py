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

    def __init__(self, max_steps: int = 3) -> None:
        self.now = 0
        self.sequence = EpisodeSequence('transfer_cube', 7, max_steps, SequenceLimits(), 0)

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

    def until_running(self) -> None:
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
