"""What is written is what is read, whole or step by step, here or through the zarr library."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from episode_data import META, frames, row, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fpo_ros.episodes import EpisodeMeta, EpisodeStore
from fpo_ros.episodes.writer import FLUSH_STEPS


def assert_same(found, expected) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_batch_reads_back_equal(store):
    data = steps(400)
    pictures, at = frames(20), np.arange(20, dtype=np.int32) * 20
    identity = store.write(data, META | {'success': True}, {'cam_high': (pictures, at)})
    episode = EpisodeStore.open(store.path).read(identity)
    assert_same(episode.arrays, data)
    assert episode.meta == EpisodeMeta(**META, success=True, steps=400)
    assert episode.cameras == ('cam_high',)
    found, found_at = episode.images('cam_high')
    assert found.dtype == np.uint8 and found_at.dtype == np.int32
    np.testing.assert_array_equal(found, pictures)
    np.testing.assert_array_equal(found_at, at)


@pytest.mark.parametrize('count', [1, FLUSH_STEPS - 1, FLUSH_STEPS, FLUSH_STEPS + 1, 3 * FLUSH_STEPS])
def test_steps_appended_one_by_one_read_back_equal(store, count):
    data, pictures = steps(count), frames(count)
    writer = store.writer(META)
    for index in range(count):
        writer.append(row(data, index), {'cam_high': pictures[index]} if index % 2 == 0 else None)
    identity = writer.commit(success=np.bool_(False), policy_version='v000003')
    episode = store.read(identity)
    assert_same(episode.arrays, data)
    assert episode.meta == EpisodeMeta(**META, success=False, policy_version='v000003', steps=count)
    found, at = episode.images('cam_high')
    np.testing.assert_array_equal(found, pictures[::2])
    np.testing.assert_array_equal(at, np.arange(0, count, 2))


def test_a_frame_buffer_may_be_reused_after_append(store):
    writer, buffer = store.writer(META), np.zeros((4, 4, 3), np.uint8)
    data = steps(3)
    joints = np.zeros(14, np.float32)
    for index in range(3):
        buffer[:], joints[:] = index, index
        writer.append(row(data, index) | {'joint_positions': joints}, {'cam': buffer})
    episode = store.read(writer.commit())
    np.testing.assert_array_equal(episode.images('cam')[0][:, 0, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(episode.arrays['joint_positions'][:, 0], [0, 1, 2])


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_arrays_of_any_shape_and_type_round_trip(data):
    count = data.draw(st.integers(1, 12))
    extra = data.draw(st.dictionaries(
        st.from_regex(r'[a-z][a-z0-9_.-]{0,8}', fullmatch=True).filter(lambda name: 'image' not in name),
        hnp.arrays(st.sampled_from([np.bool_, np.int16, np.int64, np.uint8, np.float32, np.float64]),
                   hnp.array_shapes(min_dims=0, max_dims=3, max_side=4).map(lambda shape: (count, *shape))),
        max_size=3))
    arrays = steps(count) | extra
    with tempfile.TemporaryDirectory() as directory:
        store = EpisodeStore.create_or_open(Path(directory) / 's')
        episode = store.read(store.write(arrays, META))
        writer = store.writer(META)
        for index in range(count):
            writer.append(row(arrays, index))
        for found in (episode, store.read(writer.commit())):
            for name, value in arrays.items():
                assert found.arrays[name].dtype == value.dtype
                np.testing.assert_array_equal(found.arrays[name], value)


@pytest.fixture(scope='module')
def camera_episode(tmp_path_factory):
    store = EpisodeStore.create_or_open(tmp_path_factory.mktemp('frames') / 'store')
    return store.read(store.write(steps(37), META, {'cam': (frames(37, 2, 2), np.arange(37))}))


@settings(max_examples=100, deadline=None)
@given(key=st.one_of(st.slices(37), st.integers(-37, 36),
                     st.lists(st.integers(0, 36), max_size=5).map(lambda rows: np.array(rows, int))))
def test_indexing_frames_equals_indexing_the_whole_array(camera_episode, key):
    pictures, lazy = frames(37, 2, 2), camera_episode.frames('cam')
    np.testing.assert_array_equal(lazy[key], pictures[key])
    np.testing.assert_array_equal(lazy[key, ..., 0], pictures[key, ..., 0])


def test_single_precision_is_what_is_kept_of_doubles(store):
    data = steps(3) | {'action': np.full((3, 14), 0.1)}
    found = store.read(store.write(data, META)).arrays['action']
    assert found.dtype == np.float32 and found[0, 0] == np.float32(0.1)


def test_ids_ascend_and_iteration_filters(store):
    for seed in range(3):
        store.write(steps(2, seed), META | {'seed': seed, 'success': seed == 1})
    assert store.ids() == ['ep_000001', 'ep_000002', 'ep_000003'] and len(store) == 3
    assert [episode.meta.seed for episode in store.iter()] == [0, 1, 2]
    assert [episode.id for episode in store.iter(lambda meta: bool(meta.success))] == ['ep_000002']


def test_the_zarr_library_opens_the_store(store):
    zarr = pytest.importorskip('zarr', minversion='3.0', reason='needs Python 3.11')
    data, pictures = steps(70), frames(20)
    store.write(data, META, {'cam': (pictures, np.arange(20))})
    writer = store.writer(META)
    for index in range(70):
        writer.append(row(data, index))
    writer.commit()
    root = zarr.open_group(store.path, mode='r')
    for identity in store.ids():
        for name, value in data.items():
            np.testing.assert_array_equal(root[identity][name][...], value)
            alone = zarr.open_array(store.path / identity / name, mode='r')
            np.testing.assert_array_equal(alone[...], value)
    np.testing.assert_array_equal(root['ep_000001']['image.cam'][...], pictures)
    assert root['ep_000001'].attrs['fpo_ros_episode']['meta']['task'] == 'transfer_cube'
