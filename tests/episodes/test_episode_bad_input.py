"""Data, stores and episodes that are not right get one error that says what and where."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from episode_data import META, frames, row, steps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fpo_ros.episodes import EpisodeMeta, EpisodeStore, EpisodeStoreError, zarr3
from fpo_ros.episodes.incoming import INCOMING

GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": %s}'


def edited(change):
    """Return a function that changes the description of the episode in a directory."""
    def apply(path) -> None:
        data = json.loads((path / 'zarr.json').read_text())
        change(data)
        (path / 'zarr.json').write_text(json.dumps(data))
    return apply


def enlarge(data: dict, rows: int) -> None:
    """Describe an episode as larger than any memory."""
    data['attributes']['fpo_ros_episode']['meta']['steps'] = rows
    for entry in described(data).values():
        entry['shape'][0] = rows


def described(data: dict) -> dict:
    return data['consolidated_metadata']['metadata']


def nested(levels: int) -> dict:
    """Return so many objects, one in the other."""
    value: dict = {}
    for _ in range(levels - 1):
        value = {'a': value}
    return value


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(EpisodeStoreError, match=r'nowhere: no such directory'):
        EpisodeStore.open(tmp_path / 'nowhere')


@pytest.mark.parametrize(('content', 'reason'), [
    (None, 'zarr.json is missing'),
    (b'', 'is damaged, it is not JSON'),
    (b'{"zarr_format": 3, "node_ty', 'is damaged, it is not JSON'),
    (b'\xff\xfe\x00', 'is damaged, it is not JSON'),
    (b'[' * 100_000, 'is damaged, it is not JSON'),
    (b'[]', 'does not describe a zarr v3 group'),
    (b'{"zarr_format": 2, "node_type": "group"}', 'does not describe a zarr v3 group'),
    (b'{"zarr_format": 3, "node_type": "array"}', 'does not describe a zarr v3 group'),
    (GROUP % b'{"made_by": "somebody"}', 'of another program'),
    (b'{"zarr_format": 3, "node_type": "group"}', 'of another program'),
    (GROUP % b'{"fpo_ros_episode_store": {"format_version": 2}}',
     'has store format 2, this program reads 1'),
])
def test_what_is_not_a_store_is_refused_and_left_alone(tmp_path, content, reason):
    path = tmp_path / 'foreign'
    path.mkdir()
    (path / 'data.bin').write_bytes(b'valuable')
    if content is not None:
        (path / 'zarr.json').write_bytes(content)
    for opened in (EpisodeStore.open, EpisodeStore.create_or_open):
        with pytest.raises(EpisodeStoreError, match=reason) as caught:
            opened(path)
        assert str(path) in str(caught.value) and '\n' not in str(caught.value)
    left = {'data.bin': b'valuable'} | ({} if content is None else {'zarr.json': content})
    assert {entry.name: entry.read_bytes() for entry in path.iterdir()} == left


def test_a_store_made_by_the_zarr_library_is_foreign(tmp_path):
    zarr = pytest.importorskip('zarr', minversion='3.0', reason='needs Python 3.11')
    zarr.create_group(tmp_path / 'z', attributes={'mine': 1})
    with pytest.raises(EpisodeStoreError, match='of another program'):
        EpisodeStore.open(tmp_path / 'z')


def test_a_file_in_the_place_of_a_store_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(EpisodeStoreError, match='no such directory'):
        EpisodeStore.create_or_open(tmp_path / 'file')
    with pytest.raises(EpisodeStoreError, match='no store was made'):
        EpisodeStore.create_or_open(tmp_path / 'file' / 'below')


@pytest.mark.parametrize(('change', 'reason'), [
    (lambda data: data.pop('action'), 'lacks the array action'),
    (lambda data: data.update(action=np.zeros((5, 13))), r'action has rows of shape \(13,\)'),
    (lambda data: data.update(action=np.zeros((4, 14))), 'one row per step'),
    (lambda data: data.update(action=np.full((5, 14), np.nan)), 'action is not finite at step 0'),
    (lambda data: data.update(reward=np.array([0, 0, np.inf, 0, 0])), 'reward is not finite at step 2'),
    (lambda data: data.update(action=np.full((5, 14), 1e300)), 'action is not finite at step 0'),
    (lambda data: data.update(timestamp=np.array([0, 2, 1, 3, 4.0])), 'runs backwards after step 1'),
    (lambda data: data.update(action=np.full((5, 14), 'a')), 'action has type <U1'),
    (lambda data: data.update(note=np.array([object()] * 5)), 'note has type object'),
    (lambda data: data.update(note=np.float32(3)), 'note must have one row per step'),
    (lambda data: data.update(note=np.zeros((5, 0))), 'no axis may be empty'),
    (lambda data: data.update({'image.cam': np.zeros((5, 2))}), 'is reserved'),
    (lambda data: data.update({'../escape': np.zeros(5)}), "array name '../escape'"),
    (lambda data: data.update({'a/b': np.zeros(5)}), "array name 'a/b'"),
    (lambda data: data.update({'zarr.json': np.zeros(5)}), "array name 'zarr.json' is reserved by the zarr format"),
    (lambda data: data.update({'__x': np.zeros(5)}), "array name '__x' is reserved by the zarr format"),
    (lambda data: data.update(note=np.zeros(5, np.float16)), 'note has type float16'),
    (lambda data: data.update(note=np.zeros(5, np.complex64)), 'note has type complex64'),
    (lambda data: data.update({name: value[:0] for name, value in data.items()}), 'has no steps'),
])
def test_arrays_that_do_not_fit_are_refused(store, change, reason):
    data = steps(5)
    change(data)
    with pytest.raises(EpisodeStoreError, match=reason):
        store.write(data, META)
    assert len(store) == 0 and not (store.path / INCOMING).exists()


@pytest.mark.parametrize(('pictures', 'at', 'reason'), [
    (frames(2).astype(np.float32), [0, 1], 'uint8'),
    (frames(2)[..., :2], [0, 1], 'uint8'),
    (frames(2)[:0], [], 'F >= 1'),
    (frames(2), [0], 'as many integers'),
    (frames(2), [0.0, 1.0], 'as many integers'),
    (frames(2), [1, 1], 'must increase within 0..4'),
    (frames(2), [0, 5], 'must increase within 0..4'),
    (frames(2), [-1, 0], 'must increase within 0..4'),
])
def test_frames_that_do_not_fit_are_refused(store, pictures, at, reason):
    with pytest.raises(EpisodeStoreError, match=reason):
        store.write(steps(5), META, {'cam': (pictures, np.array(at))})
    with pytest.raises(EpisodeStoreError, match='camera name'):
        store.write(steps(5), META, {'../cam': (frames(2), np.array([0, 1]))})
    assert len(store) == 0


@pytest.mark.parametrize(('change', 'reason'), [
    ({'task': ''}, 'task is empty'),
    ({'task': 3}, 'task must be text'),
    ({'observation': 'smell'}, "observation is 'smell'"),
    ({'source': 'dream'}, "source is 'dream'"),
    ({'created': 'yesterday'}, 'ISO 8601'),
    ({'seed': 1.5}, 'seed must be an integer'),
    ({'success': 1}, 'success must be True, False or None'),
    ({'control_rate_hz': 0}, 'control_rate_hz must be positive'),
    ({'control_rate_hz': float('nan')}, 'control_rate_hz must be positive'),
    ({'extra': {'a': float('nan')}}, 'what JSON cannot'),
    ({'extra': {'a': object()}}, 'what JSON cannot'),
    ({'extra': nested(100_000)}, 'what JSON cannot'),
    ({'extra': nested(33)}, 'nested deeper than 32 levels'),
    ({'colour': 'red'}, "unknown .put them under 'extra'.: .'colour'."),
])
def test_descriptions_that_do_not_fit_are_refused(store, change, reason):
    with pytest.raises(EpisodeStoreError, match=reason):
        store.write(steps(5), META | change)
    with pytest.raises(EpisodeStoreError, match=reason):
        store.writer(META | change)
    assert len(store) == 0


def test_a_missing_entry_of_the_description_is_named():
    with pytest.raises(EpisodeStoreError, match=r"missing: \['created', 'task'\]"):
        EpisodeMeta.from_dict({key: META[key] for key in META if key not in ('task', 'created')})


def test_a_refused_step_does_not_end_the_recording(store):
    data = steps(4)
    writer = store.writer(META)
    for bad in (row(data, 0) | {'action': np.full(14, np.nan)}, {'action': np.zeros(14)}):
        with pytest.raises(EpisodeStoreError):
            writer.append(bad)
    with pytest.raises(EpisodeStoreError, match='has no steps'):
        writer.commit()
    writer.append(row(data, 0), {'cam': frames(1)[0]})
    with pytest.raises(EpisodeStoreError, match='array extra is missing, new'):
        writer.append(row(data, 1) | {'extra': 1.0})
    with pytest.raises(EpisodeStoreError, match='array object_pose is missing, new'):
        writer.append({name: value for name, value in row(data, 1).items() if name != 'object_pose'})
    with pytest.raises(EpisodeStoreError, match=r'cam is \(3, 3, 3\), the first was \(6, 8, 3\)'):
        writer.append(row(data, 1), {'cam': np.zeros((3, 3, 3), np.uint8)})
    writer.append(row(data, 2))
    with pytest.raises(EpisodeStoreError, match='timestamp runs backwards'):
        writer.append(row(data, 1))
    with pytest.raises(EpisodeStoreError, match="unknown .*: .'note'."):
        writer.commit(note='x')
    episode = store.read(writer.commit())
    np.testing.assert_array_equal(episode.arrays['action'], data['action'][[0, 2]])


def test_a_wrong_id_is_named_with_what_there_is(store):
    with pytest.raises(EpisodeStoreError, match='no episode ep_000001: it is empty'):
        store.read('ep_000001')
    store.write(steps(2), META)
    with pytest.raises(EpisodeStoreError, match='it has 1, ep_000001 to ep_000001'):
        store.read('ep_000009')
    for wrong in ('../ep_000001', '.incoming', '', 'ep_1', 'ep_0000001', 'ep_00000\u0661', 7):
        with pytest.raises(EpisodeStoreError, match='is not an episode id'):
            store.read(wrong)
    with pytest.raises(EpisodeStoreError, match='no camera'):
        store.read('ep_000001').images('cam')


@pytest.mark.parametrize(('damage', 'reason'), [
    (lambda path: (path / 'action' / 'c.0.0').unlink(), r'action/c\.0\.0 is missing'),
    (lambda path: (path / 'action' / 'c.0.0').write_bytes(b''), r'action/c\.0\.0 is damaged'),
    (lambda path: (path / 'action' / 'c.0.0').write_bytes((path / 'reward' / 'c.0').read_bytes()),
     r'action/c\.0\.0 holds 200 bytes'),
    (lambda path: shutil.rmtree(path / 'reward'), r'reward/c\.0 is missing'),
    (lambda path: (path / 'zarr.json').unlink(), 'zarr.json is missing'),
    (lambda path: (path / 'zarr.json').write_text('{'), 'not JSON'),
    (edited(lambda data: data.pop('consolidated_metadata')), 'does not describe an episode'),
    (edited(lambda data: data['attributes'].clear()), 'does not describe an episode'),
    (edited(lambda data: data['attributes']['fpo_ros_episode'].update(format_version=9)),
     'has episode format 9'),
    (edited(lambda data: data['attributes']['fpo_ros_episode']['meta'].update(steps=51)),
     'has 50 rows, the episode has 51 steps'),
    (edited(lambda data: described(data).update({'../../other': described(data)['action']})),
     "array name '../../other'"),
    (edited(lambda data: described(data)['action'].update(codecs=[])), 'foreign array description'),
    (edited(lambda data: described(data)['action'].update(shape=[50, '14'])), 'foreign array description'),
    (edited(lambda data: described(data)['action'].update(shape=[10**9, 14])), 'has 1000000000 rows'),
    (edited(lambda data: enlarge(data, 10**12)), r'joint_positions/c\.1\.0 is missing'),
    (edited(lambda data: enlarge(data, 10**18)), r'joint_positions/c\.1\.0 is missing'),
])
def test_a_damaged_episode_is_refused_by_reader_and_verify(store, damage, reason):
    store.write(steps(50, 1), META)
    path = store.path / store.write(steps(50), META)
    damage(path)
    with pytest.raises(EpisodeStoreError, match=reason):
        dict(store.read(path.name).arrays)
    assert re.search(reason, '\n'.join(store.verify(path.name)))
    assert store.verify('ep_000001') == []


@pytest.mark.parametrize(('change', 'reason'), [
    (lambda arrays: arrays['image.cam'].update(shape=[2, 6, 8, 3]), r'image.cam has 2 frames, .* names 3 steps'),
    (lambda arrays: arrays['image_steps.cam'].update(shape=[2]), r'image.cam has 3 frames, .* names 2 steps'),
    (lambda arrays: arrays.pop('image_steps.cam'), 'lacks the array image_steps.cam'),
    (lambda arrays: arrays.pop('image.cam'), 'lacks the array image.cam'),
])
def test_a_camera_whose_frames_and_steps_differ_in_number_is_refused(store, change, reason):
    path = store.path / store.write(steps(50), META, {'cam': (frames(3), np.arange(3))})
    edited(lambda data: change(described(data)))(path)
    with pytest.raises(EpisodeStoreError, match=reason):
        store.read(path.name)
    assert re.search(reason, '\n'.join(store.verify(path.name)))


def test_an_array_that_does_not_fit_into_the_memory_is_one_error(store, monkeypatch):
    episode = store.read(store.write(steps(50), META))

    def full(*arguments: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(zarr3.np, 'empty', full)
        with pytest.raises(EpisodeStoreError, match=r'action: \(50, 14\) float32 do not fit into the memory'):
            episode.arrays['action']
        assert 'do not fit into the memory' in store.verify(episode.id)[0]


def test_each_number_has_one_name(store):
    store.write(steps(2), META)
    for name in ('ep_0000007', 'ep_00000\u0667'):
        (store.path / name).mkdir()
    assert store.ids() == ['ep_000001']
    (store.path / 'ep_000001').rename(store.path / 'ep_1234567')
    assert store.ids() == ['ep_1234567'] and store.write(steps(2), META) == 'ep_1234568'


def test_a_refused_step_is_named_by_its_place(store):
    data, writer = steps(9), store.writer(META)
    for index in range(7):
        writer.append(row(data, index))
    with pytest.raises(EpisodeStoreError, match='object_pose is not finite at step 7'):
        writer.append(row(data, 7) | {'object_pose': np.full(7, np.nan)})


@pytest.mark.parametrize('damage', [
    lambda path: (path / 'action' / 'zarr.json').write_text('[' * 100_000),
    lambda path: (shutil.rmtree(path / 'action'), (path / 'action').write_text('')),
    lambda path: (path / 'action' / 'zarr.json').unlink(),
    lambda path: (path / 'action' / 'zarr.json').write_text('{}'),
    lambda path: (path / 'action' / 'c.1.0').write_bytes(b'x'),
    lambda path: (path / 'note.txt').write_text('hello'),
])
def test_verify_finds_what_a_reader_does_not_look_at(store, damage):
    path = store.path / store.write(steps(50), META)
    damage(path)
    assert 1 <= len(store.verify(path.name)) <= 2


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_in_any_chunk_is_noticed_or_harmless(store, data):
    original, pictures = steps(60), frames(20)
    if not len(store):
        store.write(original, META, {'cam': (pictures, np.arange(20))})
    identity = 'ep_000001'
    chunks = sorted((store.path / identity).glob('*/c.*'))
    file = data.draw(st.sampled_from(chunks))
    good = file.read_bytes()
    position, bit = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 7))
    bad = bytearray(good)
    bad[position] ^= 1 << bit
    file.write_bytes(bad)
    try:
        episode = store.read(identity)
        found = dict(episode.arrays) | dict(zip(('frames', 'at'), episode.images('cam'), strict=True))
    except EpisodeStoreError as error:
        assert str(file) in str(error)
    else:
        for name, value in (original | {'frames': pictures, 'at': np.arange(20)}).items():
            np.testing.assert_array_equal(found[name], value)
    finally:
        file.write_bytes(good)
