"""Recorded episodes as training pairs, and which of them can be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded import PIXELS, add, camera_store, damage

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning.demonstrations import (
    NoDemonstrationsError,
    chunk_starts,
    chunks_of,
    load_demonstrations,
    usable,
)
from fpo_ros.policy.contract import PolicyContract
from fpo_ros.sim.scenes import BAND, GRAPH_SEED, HELD_OUT_SEED

STATE = PolicyContract(horizon=4, execute=2)


@pytest.fixture
def store(tmp_path) -> EpisodeStore:
    return EpisodeStore.create_or_open(tmp_path / 'store')


def test_chunks_follow_each_step_and_repeat_the_last_target():
    actions = np.arange(5.0)[:, None]
    assert chunks_of(actions, np.array([0, 3, 4]), 3)[..., 0].tolist() == [[0, 1, 2], [3, 4, 4], [4, 4, 4]]


@pytest.mark.parametrize(('change', 'options', 'reason'), [
    ({}, {}, ''),
    ({'task': 'juggle'}, {}, 'of another task'),
    ({}, {'source': 'expert'}, 'of another source than expert'),
    ({}, {'source': 'teleop'}, ''),
    ({'success': False}, {}, ''),
    ({'success': False}, {'successes_only': True}, 'not successful'),
    ({'success': None}, {'successes_only': True}, 'not successful'),
    ({'seed': None}, {}, ''),
    ({'seed': HELD_OUT_SEED}, {}, 'of held-out scenes'),
    ({'seed': GRAPH_SEED + 3}, {}, 'of held-out scenes'),
    ({'seed': 7 * BAND + HELD_OUT_SEED}, {}, 'of held-out scenes'),
    ({'seed': 7 * BAND}, {}, ''),
    ({'control_rate_hz': 30.0}, {}, 'of another control rate'),
    ({'pose': False}, {}, 'without object_pose'),
])
def test_an_episode_is_usable_or_there_is_a_reason(store, change, options, reason):
    episode = store.read(add(store, **{'pose': True} | change))
    assert usable(episode, STATE, **options) == reason


def test_an_episode_without_a_camera_of_the_contract_is_not_usable(store):
    episode = store.read(add(store, cameras={'cam_high': [0, 4]}))
    assert usable(episode, PIXELS) == 'without camera cam_low'
    assert usable(episode, replace(PIXELS, cameras=('cam_high',))) == ''
    assert usable(episode, replace(PIXELS, cameras=('cam_left_wrist',))) == 'without camera cam_left_wrist'


def test_an_ordinary_store_gives_what_it_has_and_one_line_about_the_rest(store):
    for change in ({}, {'success': False}, {}, {'task': 'juggle'}, {'seed': GRAPH_SEED}, {'pose': False}):
        add(store, **{'pose': True} | change)
    pairs = load_demonstrations(store, STATE, successes_only=True)
    assert pairs.episodes == 2 and len(pairs.states) == len(pairs.chunks) == 12
    assert pairs.left_out == ('4 of 6 episodes are not used: 1 not successful, 1 of another task, '
                              '1 of held-out scenes, 1 without object_pose')
    assert pairs.origin == str(Path(store.path).resolve())
    whole = load_demonstrations(store, STATE)
    assert whole.episodes == 3 and '3 of 6' in whole.left_out


def test_nothing_is_said_about_episodes_where_all_are_used(store):
    add(store, pose=True)
    assert load_demonstrations(store, STATE).left_out == ''


def test_a_damaged_episode_is_named_and_left_out_while_others_remain(store):
    ids = [add(store, pose=True) for _ in range(3)]
    damage(store, ids[1])
    pairs = load_demonstrations(store, STATE)
    assert pairs.episodes == 2 and '1 of 3 episodes are not used: 1 damaged' in pairs.left_out
    assert ids[1] in pairs.left_out and 'restore it from a copy' in pairs.left_out and '\n' not in pairs.left_out


@pytest.mark.parametrize('make', [
    lambda store: None,
    lambda store: damage(store, add(store, pose=True)),
    lambda store: [add(store, pose=True, seed=GRAPH_SEED), add(store, pose=False)],
])
def test_a_store_without_a_usable_episode_is_one_error_that_says_why(store, make):
    made = make(store)
    with pytest.raises(NoDemonstrationsError, match='record demonstrations first') as caught:
        load_demonstrations(store, STATE)
    message = str(caught.value)
    assert str(store.path) in message and '\n' not in message
    if made:
        assert caught.value.reasons == {'of held-out scenes': 1, 'without object_pose': 1}
        assert '1 of held-out scenes, 1 without object_pose' in message
    else:
        assert ('it is empty' in message) == (not len(store))


def test_chunks_of_a_recorded_policy_begin_where_a_held_target_changes():
    # Held for two steps; a chunk of three rows; held for one; a chunk with no hold before the next; held to the end.
    values = [0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9, 9, 9]
    actions = np.tile(np.array(values, np.float32)[:, None], (1, 14))
    assert chunk_starts(actions, 3).tolist() == [2, 6, 9]
    assert chunk_starts(actions[:1], 3).tolist() == [] and chunk_starts(actions[:2], 3).tolist() == []
    one_joint = np.zeros((14, 14), np.float32)
    one_joint[:, 5] = values
    assert chunk_starts(one_joint, 3).tolist() == [2, 6, 9]


def test_pairs_of_a_recorded_policy_are_its_decisions(store):
    values = np.array([0, 0, 1, 2, 2, 3, 4, 5], np.float32)
    actions = np.tile(values[:, None], (1, 14))
    add(store, steps=8, pose=True, action=actions, source='policy')
    pairs = load_demonstrations(store, STATE)
    assert pairs.chunks[..., 0].tolist() == [[1, 2, 2, 3], [3, 4, 5, 5], [5, 5, 5, 5]]
    joints = store.read(store.ids()[0]).arrays['joint_positions']
    np.testing.assert_array_equal(pairs.states[:, :14], joints[[2, 5, 7]])


def test_an_episode_in_which_a_policy_never_moved_has_no_decision(store):
    add(store, pose=True, action=np.zeros((6, 14), np.float32), source='policy')
    with pytest.raises(NoDemonstrationsError, match='1 without a decision'):
        load_demonstrations(store, STATE)


def test_pairs_of_pixels_start_where_every_camera_has_a_frame(tmp_path):
    store = camera_store(tmp_path / 'store', [0, 4])
    pairs = load_demonstrations(store, PIXELS)
    assert (
        pairs.images.shape == (2, 2, 16, 24, 3)
        and pairs.states.shape == (2, 14)
        and pairs.frame.tolist() == [0, 1]
    )
    episode = next(iter(store.iter()))
    np.testing.assert_array_equal(pairs.chunks[1], np.asarray(episode.arrays['action'])[[4, 5, 5, 5]])
    low = np.asarray(episode.images('cam_low')[0])[1]
    assert abs(float(pairs.images[1, 0, :, 2:22].mean()) - low.mean()) < 3, (
        'cameras in the order of the contract'
    )


def test_cameras_that_have_frames_at_other_steps_share_those_they_have_in_common(tmp_path):
    whole = load_demonstrations(camera_store(tmp_path / 'whole', [0, 4]), PIXELS)
    parts = load_demonstrations(camera_store(tmp_path / 'parts', [1, 4]), PIXELS)
    assert len(parts.states) == 1 and np.array_equal(parts.states[0], whole.states[1])
    assert np.array_equal(parts.images[0], whole.images[1])
    with pytest.raises(NoDemonstrationsError, match='1 without a frame of every camera at a decision'):
        load_demonstrations(camera_store(tmp_path / 'none', [1, 3]), PIXELS)
