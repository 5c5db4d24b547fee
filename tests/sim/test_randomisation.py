"""Ranges of a randomisation: what a file may say, and what episodes draw from it."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fpo_ros.nodes.locate import share_path
from fpo_ros.sim.appearance import AppearanceRanges
from fpo_ros.sim.batch import BatchedWorlds
from fpo_ros.sim.dynamics import check_fits
from fpo_ros.sim.model import load_model
from fpo_ros.sim.randomisation import EpisodeParameters, Randomisation, RandomisationError

EXAMPLE = share_path('config/randomisation.yaml')
MODEL = load_model('transfer_cube')
NAMES = [field.name for field in dataclasses.fields(Randomisation)]
#: Ranges that are changed and fit everywhere.
WIDE = {
    'actuator_gain': (0.8, 1.2), 'joint_damping': (0.0, 2.0), 'joint_friction': (0.5, 1.5),
    'contact_friction': (0.6, 1.4), 'object_mass': (0.5, 2.0), 'object_size': (0.8, 1.2),
    'object_offset_m': (-0.02, 0.02), 'object_yaw_rad': (-0.5, 0.5), 'action_latency_s': (0.0, 0.05),
    'joint_latency_s': (0.0, 0.03), 'camera_latency_s': {'cam_low': (0.02, 0.1)},
    'camera_drop_probability': (0.1, 0.5), 'joint_offset_rad': (-0.02, 0.02), 'joint_noise_rad': (0.001, 0.01),
    'appearance': AppearanceRanges(noise_std=(1.0, 4.0), table_colour=(-0.1, 0.1))}


def bounded(field: dataclasses.Field) -> st.SearchStrategy:
    """Return ranges that a field allows."""
    least, most = field.metadata['least'], field.metadata['most']
    values = st.floats(None if math.isinf(least) else least, None if math.isinf(most) else most, allow_nan=False,
                       allow_infinity=False, exclude_min=field.metadata['above'])
    return st.lists(values, min_size=2, max_size=2).map(sorted)


@st.composite
def documents(draw) -> dict:
    """Return what a file may say."""
    ranged = {one.name: bounded(one) for one in dataclasses.fields(Randomisation) if 'least' in one.metadata}
    looks = {one.name: bounded(one) for one in dataclasses.fields(AppearanceRanges)}
    seconds = st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted)
    return draw(st.fixed_dictionaries({}, optional={
        **ranged, 'seed': st.integers(0, 2**63 - 1), 'appearance': st.fixed_dictionaries({}, optional=looks),
        'camera_latency_s': st.dictionaries(st.sampled_from(list(MODEL.robot.cameras)), seconds)}))


@given(documents())
def test_a_randomisation_survives_json_and_yaml_exactly(document):
    some = Randomisation.from_dict(document)
    assert Randomisation.from_dict(some.to_dict()) == some
    assert Randomisation.from_dict(json.loads(json.dumps(some.to_dict()))) == some
    assert Randomisation.from_dict(yaml.safe_load(yaml.safe_dump(some.to_dict()))) == some
    for name, value in document.items():
        if name not in ('appearance', 'camera_latency_s', 'seed'):
            assert getattr(some, name) == tuple(value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4)


@given(st.dictionaries(st.sampled_from([*NAMES, 'gain', 7]), ANYTHING, max_size=3) | ANYTHING)
def test_whatever_a_file_says_is_a_randomisation_or_one_line_of_error(document):
    try:
        Randomisation.from_dict(document)
    except RandomisationError as error:
        assert '\n' not in str(error)


@pytest.mark.parametrize(('text', 'message'), [
    ('gain: [0.8, 1.2]', r"unknown key 'gain'; allowed: seed, actuator_gain, .*, appearance"),
    ('7: [0.8, 1.2]', "unknown key '7'; allowed"),
    ('actuator_gain: 1.2', r'actuator_gain must be two numbers \[lowest, highest\], got 1.2; .*above 0 up to 10'),
    ('actuator_gain: [a, b]', 'actuator_gain must be two numbers'),
    ('actuator_gain: [true, 2]', 'actuator_gain must be two numbers'),
    ('actuator_gain:', 'actuator_gain must be two numbers .* got None'),
    ('actuator_gain: [0, 1]', 'actuator_gain is out of bounds: 0 to 1, allowed above 0 up to 10'),
    ('joint_damping: [-1, 1]', 'joint_damping is out of bounds: -1 to 1, allowed 0 to 100'),
    ('joint_noise_rad: [0.002, 0.001]', 'joint_noise_rad is upside down: 0.002 to 0.001; .* 0 to 0.1'),
    ('joint_offset_rad: [.nan, 0.1]', 'joint_offset_rad is not finite: .*; allowed: -0.2 to 0.2'),
    ('action_latency_s: [0, .inf]', 'action_latency_s is not finite: .*; allowed: 0 to 1'),
    (f'action_latency_s: [0, {10**400}]', 'action_latency_s is not finite'),
    ('camera_latency_s: [0.1, 0.2]', r'camera_latency_s must map cameras to \[lowest, highest\] \[s\].*: 0 to 1'),
    ('camera_latency_s: {cam_high: 0.1}', "camera_latency_s of 'cam_high' must be two numbers"),
    ('camera_latency_s: {cam_high: [-0.1, 0.1]}', "camera_latency_s of 'cam_high' is out of bounds: .*allowed 0 to 1"),
    ('camera_drop_probability: [0, 1]', 'camera_drop_probability is out of bounds: 0 to 1, allowed 0 to 0.99'),
    ('seed: -1', r'seed must be a whole number, got -1; allowed: 0 to 2\*\*63 - 1'),
    ('seed: 1.5', 'seed must be a whole number, got 1.5'),
    ('seed: true', 'seed must be a whole number, got True'),
    ('appearance: {noise: [0, 1]}', "unknown appearance 'noise': known are"),
    ('appearance: {gamma: [0, 1]}', 'appearance gamma is out of bounds: 0 to 1, allowed above 0'),
    ('appearance: 3', 'appearance must map names'),
    ('- 1', r'must map names to \[lowest, highest\], got \[1\]'),
    ('"', 'is not YAML'), ('seed: 0\n\tgain: 1', 'is not YAML')])
def test_a_file_that_cannot_be_is_one_error_naming_file_key_and_what_is_allowed(tmp_path, text, message):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(RandomisationError, match=message) as error:
        Randomisation.load(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_a_file_that_cannot_be_read_is_one_error(tmp_path):
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
    for path, message in ((tmp_path / 'none.yaml', 'cannot read .*none.yaml: No such file'),
                          (tmp_path, 'cannot read .*: Is a directory'), (tmp_path / 'binary', 'binary is not YAML')):
        with pytest.raises(RandomisationError, match=message):
            Randomisation.load(path)


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / 'empty.yaml').write_text('# nothing\n')
    assert Randomisation.load(tmp_path / 'empty.yaml') == Randomisation()


def test_the_example_has_every_key_with_its_unit_and_fits_both_tasks():
    text, some = EXAMPLE.read_text(), Randomisation.load(EXAMPLE)
    document = yaml.safe_load(text)
    assert list(document) == NAMES
    assert list(document['appearance']) == [field.name for field in dataclasses.fields(AppearanceRanges)]
    assert set(document['camera_latency_s']) == set(MODEL.robot.cameras)
    unchanged = Randomisation()
    assert [name for name in NAMES if getattr(some, name) == getattr(unchanged, name)] == ['seed']
    comments = re.sub(r'\n *#', ' ', text)  # a comment goes on in the next line
    for line in comments.splitlines():
        if re.match(r' *\w+: *(#|\[|\d)', line) and not re.match(r' +cam_', line):
            assert re.search(r'#.*\[[^\]]+\]', line), f'no unit: {line}'
    for task in ('transfer_cube', 'insertion'):
        check_fits(some, load_model(task))


def values_of(drawn: EpisodeParameters) -> dict:
    return {one.name: getattr(drawn, one.name) for one in dataclasses.fields(drawn)}


def test_an_episode_draws_from_its_scene_and_the_seed_alone():
    def draw(seed: int, scene: int) -> dict:
        return values_of(Randomisation(seed=seed, **WIDE).draw(scene, MODEL))

    first = draw(3, 5)
    for name, value in draw(3, 5).items():
        assert np.array_equal(value, first[name]), name
    draw(3, 5), draw(3, 6), draw(4, 5)
    for other in (draw(3, 6), draw(4, 5)):
        for name in ('actuator_gain', 'object_size', 'object_yaw_rad', 'joint_offset_rad', 'sensor_key'):
            assert not np.array_equal(other[name], first[name]), name
    assert draw(3, -1)['object_size'] != draw(3, 1)['object_size'], 'any scene number can be drawn for'


def test_what_is_drawn_lies_within_its_range_and_reaches_both_ends():
    draws = [values_of(Randomisation(**WIDE).draw(scene, MODEL)) for scene in range(300)]
    arms = np.delete(np.arange(14), (6, 13))
    for name, of in (('actuator_gain', slice(None)), ('joint_friction', slice(None)), ('joint_damping', arms),
                     ('joint_offset_rad', arms), ('contact_friction', ()), ('object_mass', slice(None)),
                     ('object_size', ()), ('object_offset_m', slice(None)), ('object_yaw_rad', slice(None)),
                     ('camera_drop_probability', ()), ('joint_noise_rad', ())):
        values = np.array([np.asarray(draw[name])[of] for draw in draws])
        low, high = WIDE[name]
        assert low <= values.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < values.max() <= high
        assert values[0].size == 1 or np.ptp(values[0]) > 0, f'{name}: each has a value of its own'
    assert {draw['action_delay'] for draw in draws} == set(range(26)), '0 to 50 ms in steps of 2 ms'
    delays = np.array([draw['camera_delay'] for draw in draws])
    low = list(MODEL.robot.cameras).index('cam_low')
    assert set(delays[:, low]) == set(range(10, 51)) and not np.delete(delays, low, 1).any()
    for draw in draws:
        assert not draw['joint_offset_rad'][[6, 13]].any() and not draw['joint_damping'][[6, 13]].any()
        assert draw['appearance'].object_size == draw['object_size'], 'pictures show the size that is felt'


def test_a_range_that_changes_leaves_the_other_values_as_they_were():
    before = values_of(Randomisation(**WIDE).draw(7, MODEL))
    for name, value in WIDE.items():
        after = values_of(Randomisation(**{**WIDE, name: getattr(Randomisation(), name)}).draw(7, MODEL))
        changed = {one for one in before if one != 'appearance' and not np.array_equal(before[one], after[one])}
        expected = name.replace('_latency_s', '_delay')
        assert changed == ({expected} if name != 'appearance' else set()), (name, value)


def test_without_ranges_an_episode_has_no_looks_of_its_own():
    assert Randomisation().draw(1, MODEL).appearance is None
    alone = Randomisation(object_size=(1.2, 1.2)).draw(1, MODEL).appearance
    assert alone.object_size == 1.2 and alone.noise_std == 0.0
    assert Randomisation(appearance=AppearanceRanges(noise_std=(2, 2))).draw(1, MODEL).appearance.object_size == 1.0


@pytest.mark.parametrize(('changes', 'message'), [
    ({'camera_latency_s': {'cam_moon': (0, 0.1)}}, "unknown camera 'cam_moon'; allowed: cam_high, cam_low, "),
    ({'object_offset_m': (-0.05, 0.05)}, r'peg and the socket could start .* by 20 mm: .*object_offset_m \(up to 0.05'),
    ({'object_yaw_rad': (-0.1, 0.1), 'object_size': (1.0, 1.5), 'object_offset_m': (0.0, 0.01)}, 'by 7 mm')])
def test_a_randomisation_that_does_not_fit_the_task_is_refused_before_a_world_is_made(changes, message):
    with pytest.raises(RandomisationError, match=message):
        BatchedWorlds('insertion', 1, randomisation=Randomisation(**changes))
