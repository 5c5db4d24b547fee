"""What the simulation refuses, and what it does when the physics fails."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from mujoco import rollout

from fpo_ros.policy.contract import START_JOINTS
from fpo_ros.sim import divergence
from fpo_ros.sim.actions import ActionError, checked_targets
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.divergence import DivergenceWarning
from fpo_ros.sim.model import load_model
from fpo_ros.sim.robots import UnknownRobotError

MODEL = load_model('transfer_cube')


def still(worlds: int, steps: int = 5) -> np.ndarray:
    """Return (worlds, steps, 14) targets that hold the start pose."""
    return np.tile(START_JOINTS, (worlds, steps, 1))


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    """Return three worlds at scenes 4, 5 and 6."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into MUJOCO_LOG.TXT
    with BatchedWorlds('transfer_cube', 3, dump_directory=tmp_path / 'dumps') as some:
        some.reset(np.array([4, 5, 6]))
        yield some


@pytest.mark.parametrize(('targets', 'message'), [
    (still(2), r'shape \(2, 5, 14\), expected \(3, any, 14\)'),
    (still(3)[..., :13], r'shape \(3, 5, 13\), expected \(3, any, 14\)'),
    (still(3)[0], r'shape \(5, 14\), expected \(3, any, 14\)'),
    (still(3).astype(str), 'type <U32, expected real numbers'),
    (still(3).astype(complex), 'type complex128, expected real numbers'),
    (np.where(np.arange(14) == 9, np.nan, still(3)), r'not finite: right_elbow at \(0, 0\) is nan \(15 such values\)'),
    (np.where(np.arange(14) == 0, np.inf, still(3)), 'not finite: left_waist .* is inf'),
    (np.where(np.arange(14) == 1, 1.3, still(3)), 'left_shoulder .* is 1.3 .*, allowed -1.85005 to 1.25664.*clip'),
    (np.where(np.arange(14) == 13, -0.01, still(3)), 'right_gripper .* is -0.01 .*, allowed 0 to 1')])
def test_targets_that_no_arm_can_be_given_are_refused_and_nothing_moves(worlds, targets, message):
    before = worlds.qpos.copy()
    with pytest.raises(ActionError, match=message):
        worlds.step(targets)
    assert np.array_equal(worlds.qpos, before) and np.array_equal(worlds.last_target, still(3)[:, 0])


def test_targets_out_of_range_are_clipped_where_asked():
    targets = START_JOINTS + np.array([9.0] * 7 + [-9.0] * 7)
    got = checked_targets(targets, MODEL, 'clip')
    assert np.array_equal(got, np.concatenate([MODEL.upper[:7], MODEL.lower[7:]]))
    with pytest.raises(ActionError, match='not finite'):
        checked_targets(targets * np.nan, MODEL, 'clip')


def test_targets_at_the_edges_of_the_range_and_of_single_precision_are_taken():
    for edge in (MODEL.lower, MODEL.upper):
        assert np.array_equal(checked_targets(edge, MODEL), edge)
        rounded = checked_targets(edge.astype(np.float32), MODEL)
        assert (rounded >= MODEL.lower).all() and (rounded <= MODEL.upper).all()


@pytest.mark.parametrize(('options', 'error', 'message'), [
    ({'robot': 'r2d2'}, UnknownRobotError, "unknown robot 'r2d2': known robots are vx300s"),
    ({'out_of_range': 'ignore'}, ValueError, "cannot be 'ignore': use refuse or clip"),
    ({'worlds': 0}, ValueError, 'at least 1, got 0')])
def test_bad_options_are_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        BatchedWorlds('transfer_cube', **{'worlds': 1, **options})


def test_a_diverged_world_is_found_dumped_counted_and_begun_anew(worlds, tmp_path):
    start = worlds.qpos.copy()
    worlds.step(still(3))
    good = worlds.qpos[1].copy()
    velocities = slice(1 + MODEL.mj.nq, 1 + MODEL.mj.nq + MODEL.mj.nv)
    worlds._state[1, velocities] = 1e9
    with pytest.warns(DivergenceWarning, match=f'scene 5, world 1 diverged.*{tmp_path}'):
        outcome = worlds.step(still(3))
    assert outcome.diverged.tolist() == [False, True, False] and worlds.divergences.tolist() == [0, 1, 0]
    assert np.isfinite(outcome.qpos).all() and (np.abs(outcome.qpos) < mujoco.mjMAXVAL).all()
    assert not outcome.stage[1].any() and not outcome.strict[1].any()
    assert np.array_equal(worlds.qpos[1], start[1]) and np.array_equal(worlds.last_target[1], START_JOINTS)
    [file] = (tmp_path / 'dumps').glob('transfer_cube-5-*.npz')
    with np.load(file, allow_pickle=False) as dump:
        assert np.array_equal(dump['states'][0, 1:1 + MODEL.mj.nq], good), 'the last good state comes first'
        assert (dump['states'][0, velocities] == 1e9).all() and len(dump['controls']) == len(dump['states'])
        assert int(dump['seed']) == 5 and int(dump['world']) == 1


def test_the_others_go_on_as_if_nothing_had_diverged(worlds):
    with BatchedWorlds('transfer_cube', 3) as sound:
        sound.reset(np.array([4, 5, 6]))
        worlds._state[1, 1 + MODEL.mj.nq:] = 1e9
        with pytest.warns(DivergenceWarning):
            worlds.step(still(3))
        sound.step(still(3))
        again, plain = worlds.step(still(3)), sound.step(still(3))
    assert np.array_equal(again.qpos[[0, 2]], plain.qpos[[0, 2]]) and not again.diverged.any()


def test_a_world_that_diverged_repeats_its_episode_from_the_start(worlds):
    first = worlds.step(still(3)).qpos[1]
    worlds._state[1, 1 + MODEL.mj.nq:] = 1e9
    with pytest.warns(DivergenceWarning):
        worlds.step(still(3))
    assert np.array_equal(worlds.step(still(3)).qpos[1], first)


def test_a_state_that_goes_bad_in_the_last_step_is_found_in_that_call(worlds, monkeypatch):
    """MuJoCo itself would only complain when it steps on from there."""
    def spoilt(self, *inputs, state, **options):
        rolled(self, *inputs, state=state, **options)
        state[0, -1, 5] = np.inf

    rolled = rollout.Rollout.rollout
    monkeypatch.setattr(rollout.Rollout, 'rollout', spoilt)
    with pytest.warns(DivergenceWarning):
        outcome = worlds.step(still(1), np.array([1]))
    assert outcome.diverged.all() and np.isfinite(outcome.qpos).all() and np.isfinite(worlds.qpos).all()


def test_a_directory_full_of_dumps_takes_no_more(worlds, tmp_path, monkeypatch):
    monkeypatch.setattr(divergence, 'MOST_DUMPS', 2)
    for told in ('states are in', 'states are in', 'holds 2 dumps already: clear it'):
        worlds._state[1, 1 + MODEL.mj.nq:] = 1e9
        with pytest.warns(DivergenceWarning, match=told):
            worlds.step(still(3))
    assert len(list((tmp_path / 'dumps').iterdir())) == 2


def test_a_dump_that_cannot_be_written_is_told_and_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('in the way')
    with BatchedWorlds('transfer_cube', 1, dump_directory=tmp_path / 'file') as worlds:
        worlds._state[0, 1 + MODEL.mj.nq:] = 1e9
        with pytest.warns(DivergenceWarning, match='could not be written to .*file'):
            assert worlds.step(still(1)).diverged.all()
