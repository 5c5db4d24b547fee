"""The scripted experts of both tasks."""

from __future__ import annotations

import numpy as np
import pytest

from fpo_ros.bench.experts import PROMISES, success
from fpo_ros.policy.contract import START_JOINTS, TASKS
from fpo_ros.policy.limits import JointLimits
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.expert import EXPERTS, InverseKinematicsError, expert_for
from fpo_ros.sim.task import UnknownTaskError, sample_object_pose

LIMITS = JointLimits()
START = {task: sample_object_pose(task, 0) for task in TASKS}


@pytest.fixture(scope='module', params=TASKS)
def expert(request):
    return expert_for(request.param)


@pytest.mark.parametrize('task', TASKS)
def test_experts_succeed_as_often_as_promised_within_300_steps(task):
    result = success(task, 0.0, np.arange(100))
    assert result.successes >= PROMISES[task] * 100
    assert result.successes_strict >= PROMISES[task] * 100


@pytest.mark.parametrize('task', TASKS)
def test_errors_make_demonstrators_that_succeed_now_and_then(task):
    result = success(task, EXPERTS[task].NOISE_M, np.arange(40))
    assert 4 <= result.successes <= 30


def test_plans_keep_position_and_speed_limits(expert):
    for noise in (0.0, expert.NOISE_M):
        plan = expert.plan(START[expert.TASK], np.random.default_rng(0), noise)
        assert plan.shape == (expert.STEPS, 14) and (plan >= LIMITS.lower).all() and (plan <= LIMITS.upper).all()
        steps = np.diff(np.concatenate([START_JOINTS[None], plan]), axis=0)
        assert (np.abs(steps) <= LIMITS.speed * 0.02 + 1e-9).all()


def test_plans_repeat_with_the_seed_and_differ_between_seeds(expert):
    first, again, other = (expert.plan(START[expert.TASK], np.random.default_rng(seed), 0.01) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and np.abs(first - other).max() > 0.02


def test_a_perfect_expert_draws_nothing(expert):
    rng = np.random.default_rng(3)
    expert.plan(START[expert.TASK], rng)
    assert rng.bit_generator.state == np.random.default_rng(3).bit_generator.state


def test_a_longer_plan_holds_the_last_row_of_a_shorter_one(expert):
    long = expert_for(expert.TASK, 300).plan(START[expert.TASK], np.random.default_rng(0))
    short = expert.plan(START[expert.TASK], np.random.default_rng(0))
    assert np.array_equal(long[:len(short)], short) and (long[len(short):] == short[-1]).all()


def test_an_insertion_ends_with_the_peg_in_the_socket_in_the_air():
    expert = expert_for('insertion')
    with BatchedWorlds('insertion', 1) as worlds:
        worlds.reset(np.array([0]))
        outcome = worlds.step(expert.plan(START['insertion'], np.random.default_rng(0))[None])
    peg, socket = outcome.object_pose[0, -1, :3], outcome.object_pose[0, -1, 7:10]
    assert min(peg[2], socket[2]) > 0.1
    assert np.abs(peg - socket)[1:].max() < 0.01, 'the axes are in line'
    # The peg is 12 cm long, the socket 10 cm; the pin that the peg must touch stands 1 cm inside.
    assert 0.06 + 0.05 - (peg[0] - socket[0]) == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: expert_for('transfer_cube', 239), 'steps must be at least 240, where the script of transfer_cube ends'),
    (lambda: expert_for('insertion').plan(START['transfer_cube'], np.random.default_rng(0)), 'must be 14 finite'),
    (lambda: expert_for('insertion').plan(np.full(14, np.nan), np.random.default_rng(0)), 'must be 14 finite'),
    (lambda: expert_for('transfer_cube').plan(START['transfer_cube'], np.random.default_rng(0), -0.01),
     'noise_std must be a length in metres'),
    (lambda: expert_for('transfer_cube').plan(START['transfer_cube'], np.random.default_rng(0), np.nan),
     'noise_std must be a length in metres')])
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_task_has_no_expert():
    with pytest.raises(UnknownTaskError, match='juggle'):
        expert_for('juggle')


@pytest.mark.parametrize(('task', 'column', 'arm'), [('transfer_cube', 1, 'right'), ('insertion', 8, 'left')])
def test_an_object_out_of_reach_is_an_error_that_says_how_far(task, column, arm):
    pose = START[task].copy()
    pose[column] = 3.0
    with pytest.raises(InverseKinematicsError, match=f'{arm} arm cannot reach .* mm short'):
        expert_for(task).plan(pose, np.random.default_rng(0))
