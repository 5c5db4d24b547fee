"""Demonstrations of the scripted expert."""

from __future__ import annotations

import numpy as np
import pytest

from fpo_ros.episodes.store import EpisodeStore
from fpo_ros.learning import record
from fpo_ros.learning.demonstrations import load_demonstrations
from fpo_ros.learning.record import record_demonstrations, recorded_scenes
from fpo_ros.policy.contract import START_JOINTS, PolicyContract
from fpo_ros.sim.scenes import SeedError, is_held_out
from fpo_ros.sim.task import sample_object_pose

#: First scene of the demonstrations of seed 0.
FIRST = 900_000


@pytest.fixture(scope='module')
def demonstrations(tmp_path_factory):
    """Return a store of two scripted episodes and the number of successes."""
    store = EpisodeStore.create_or_open(tmp_path_factory.mktemp('store') / 'episodes')
    return store, record_demonstrations(store, PolicyContract(), 2, 0.0)


def test_recorded_demonstrations_hold_what_was_seen_before_each_target(demonstrations):
    store, successes = demonstrations
    assert successes == 2 and len(store) == 2
    for row, episode in enumerate(store.iter()):
        assert episode.meta.source == 'expert' and episode.meta.success and episode.meta.seed == FIRST + row
        joints, pose = episode.arrays['joint_positions'], episode.arrays['object_pose']
        # The arms hold their start against gravity, and the cube has come to rest on the table.
        np.testing.assert_allclose(joints[0], START_JOINTS, atol=0.02)
        np.testing.assert_allclose(pose[0, :2], sample_object_pose('transfer_cube', episode.meta.seed)[:2], atol=1e-3)
        np.testing.assert_allclose(pose[:5, 2], pose[0, 2], atol=1e-4)
        assert episode.arrays['reward'].max() == 4
        np.testing.assert_allclose(np.diff(episode.arrays['timestamp']), 0.02, atol=1e-9)


def test_training_pairs_join_an_observation_with_the_targets_that_followed(demonstrations):
    store, _ = demonstrations
    pairs = load_demonstrations(store, PolicyContract())
    episode = next(iter(store.iter()))
    actions = episode.arrays['action']
    assert pairs.episodes == 2 and pairs.images is None and len(pairs.states) == 2 * len(actions)
    np.testing.assert_array_equal(pairs.chunks[30], actions[30:50])
    np.testing.assert_array_equal(pairs.states[30, :14], episode.arrays['joint_positions'][30])
    short = PolicyContract(prompt='x', horizon=3, execute=3)
    assert load_demonstrations(store, short).chunks.shape[1:] == (3, 14)


def test_recording_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    store = EpisodeStore.create_or_open(tmp_path / 'store')
    plain, done = EpisodeStore.write, []

    def interrupted(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(plain(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, 'write', interrupted)
        with pytest.raises(KeyboardInterrupt):
            record_demonstrations(store, PolicyContract(), 4, 0.0)
    assert recorded_scenes(store, PolicyContract(), 0.0) == {FIRST: True, FIRST + 1: True}
    seen = []
    assert record_demonstrations(store, PolicyContract(), 4, 0.0, progress=lambda *now: seen.append(now)) == 4
    assert [episode.meta.seed for episode in store.iter()] == [FIRST + row for row in range(4)]
    assert seen == [(3, 3), (4, 4)]
    monkeypatch.setattr(record, 'expert_for', None)  # nothing is planned any more
    assert record_demonstrations(store, PolicyContract(), 4, 0.0) == 4 and len(store) == 4


def test_the_same_scene_with_another_error_or_seed_is_another_demonstration(tmp_path):
    store = EpisodeStore.create_or_open(tmp_path / 'store')
    record_demonstrations(store, PolicyContract(), 1, 0.0)
    record_demonstrations(store, PolicyContract(), 1, 0.001)
    record_demonstrations(store, PolicyContract(), 1, 0.0, seed=10)
    seeds = [episode.meta.seed for episode in store.iter()]
    assert seeds[0] == seeds[1] == FIRST != seeds[2] and not any(map(is_held_out, seeds))


@pytest.mark.parametrize('options', [{'seed': -1}, {'seed': 1000}, {'episodes': 100_001}])
def test_scenes_out_of_bounds_are_refused_before_anything_is_recorded(tmp_path, options):
    store = EpisodeStore.create_or_open(tmp_path / 'store')
    with pytest.raises(SeedError, match='out of bounds'):
        record_demonstrations(store, PolicyContract(), **{'episodes': 1, 'noise_std': 0.0} | options)
    assert not len(store)
